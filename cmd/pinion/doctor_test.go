package main

import (
	"database/sql"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/pinion-queue/pinion"
)

// What a doctor says of a sound file and of jobs that are in trouble is in testdata/doctor.txt.

func TestADoctorWithTasksFindsThePendingJobsOfOthers(t *testing.T) {
	dir := t.TempDir()
	db := filepath.Join(dir, "q.db")
	storage, err := pinion.OpenSQLite(t.Context(), db, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer storage.Close()
	for _, task := range []string{"pack", "PACK", "unpack", "unpack", "other"} {
		if err := storage.Enqueue(t.Context(), pinion.NewJob(task)); err != nil {
			t.Fatal(err)
		}
	}
	said, _ := finish(t, process(t, dir, "doctor", "--exec", "pack=gzip -k -- {0}", "--db", db), 1)
	wantText(t, said, `(?m)^WRONG  tasks .*not registered here: unpack \(2\), other \(1\)$`)
	said, _ = finish(t, process(t, dir, "doctor", "--exec", "pack=gzip {0}", "--exec", "unpack=gunzip {0}", "--exec", "other=true", "--db", db), 0)
	wantText(t, said, `(?m)^ok     tasks .*registered here$`)
	said, _ = finish(t, process(t, dir, "doctor", "--db", db), 0)
	wantText(t, said, `(?m)^ok     tasks `)
}

func TestADoctorFindsDamageAndALogThatHasGrown(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there an open file cannot be written by others")
	}
	dir := t.TempDir()
	db := filepath.Join(dir, "q.db")
	storage, err := pinion.OpenSQLite(t.Context(), db, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if err := storage.Enqueue(t.Context(), pinion.NewJob("a", strings.Repeat("x", 3000))); err != nil {
			t.Fatal(err)
		}
	}
	// What is beyond a log's last frame does not count.
	if err := os.Truncate(db+"-wal", hugeLog+1); err != nil {
		t.Fatal(err)
	}
	said, _ := finish(t, process(t, dir, "doctor", "--db", db), 1)
	wantText(t, said, `(?m)^WRONG  log        .*q\.db-wal has grown to 268 MB$`)
	if err := storage.Close(); err != nil {
		t.Fatal(err)
	}

	file, err := os.OpenFile(db, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	info, err := file.Stat()
	if err == nil {
		_, err = file.WriteAt([]byte(strings.Repeat("\x55", 8*4096)), info.Size()/4096/2*4096)
	}
	if err == nil {
		err = file.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	said, _ = finish(t, process(t, dir, "doctor", "--db", db), 1)
	wantText(t, said, `(?ms)^WRONG  content    .*damaged.* {18}stop every program that uses it and restore a backup`)
}

func TestADoctorTellsAnOlderSchema(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "q.db")
	storage, err := pinion.OpenSQLite(t.Context(), path, nil)
	if err == nil {
		err = storage.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err == nil {
		_, err = db.Exec("PRAGMA user_version=1")
		db.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	said, _ := finish(t, process(t, dir, "doctor", "--db", path), 0)
	wantText(t, said, `(?m)^note   schema     version 1; this program's is 2$`)
}
