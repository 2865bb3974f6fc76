package pinion

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
)

func TestABackupHoldsTheQueueAtOneMoment(t *testing.T) {
	for _, name := range fileNames("backup.db", "what?mode=memory.db", "file:x.db", `quote'".db`, "quote'.db") {
		t.Run(name, func(t *testing.T) {
			s, _ := newSQLite(t)
			jobs := make([]*Job, 1000)
			for i := range jobs {
				jobs[i] = &Job{Task: "first"}
			}
			mustEnqueue(t, s, jobs...)
			running := mustDequeue(t, s, 1)[0]
			stop := make(chan struct{})
			produced := make(chan error, 1)
			go func() {
				for {
					select {
					case <-stop:
						produced <- nil
						return
					default:
					}
					if err := s.Enqueue(t.Context(), NewJob("second"), NewJob("second")); err != nil {
						produced <- err
						return
					}
				}
			}()
			path := filepath.Join(t.TempDir(), name)
			err := s.Backup(t.Context(), path)
			close(stop)
			if err := errors.Join(err, <-produced); err != nil {
				t.Fatal(err)
			}
			wantPrivate(t, path)

			copied := sqliteStorage(t, path, nil)
			counts := make(map[string]int)
			for job, err := range copied.Jobs(t.Context(), Filter{}) {
				if err != nil {
					t.Fatal(err)
				}
				counts[job.Task]++
			}
			if counts["first"] != 1000 || counts["second"]%2 != 0 {
				t.Errorf("the backup holds %v, want 1000 first and an even number of second", counts)
			}
			if job, err := copied.Get(t.Context(), running.ID); err != nil || job.Status != StatusRunning {
				t.Errorf("the running job is %+v, error %v", job, err)
			}
			wantError(t, s.Backup(t.Context(), path), "pinion: backup to "+path, "file exists")
		})
	}
}

func TestABackupThatFailsLeavesNoFile(t *testing.T) {
	s, path := newSQLite(t)
	wantError(t, s.Backup(t.Context(), path), "pinion: backup to "+path, "file exists")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	wantError(t, s.Backup(ctx, filepath.Join(dir, "q.db")), context.Canceled.Error())
	wantError(t, s.Backup(t.Context(), ""), "pinion: backup: the path is empty; want that of a file")
	wantError(t, s.Backup(t.Context(), filepath.Join(dir, "missing", "q.db")), "no such file or directory")
	wantError(t, s.Backup(t.Context(), filepath.Join(dir, "q.db")+"/"),
		"a copy cannot have the name of a directory; name a file")
	if found := folder(t, dir); len(found) > 0 {
		t.Errorf("the folder holds %v", found)
	}
	mustEnqueue(t, s, NewJob("a"))
}

func TestAReadOnlyStorageCanBeBackedUp(t *testing.T) {
	s, path := newSQLite(t)
	mustEnqueue(t, s, NewJob("a"))
	reader := sqliteStorage(t, path, &SQLiteOptions{ReadOnly: true})
	copied := filepath.Join(t.TempDir(), "q.db")
	if err := reader.Backup(t.Context(), copied); err != nil {
		t.Fatal(err)
	}
	if got := listed(t, sqliteStorage(t, copied, nil).Jobs(t.Context(), Filter{})); got != "a" {
		t.Errorf("the backup holds %q", got)
	}
}
