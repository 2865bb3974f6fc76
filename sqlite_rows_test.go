package pinion

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// laxTables are Python's tables as a careless program might have made them: any column takes any value.
const laxTables = `
	CREATE TABLE jobs (id PRIMARY KEY, func_name, args, kwargs, status, attempts, created_at, error, heartbeat_at);
	CREATE TABLE dlq (id PRIMARY KEY, func_name, args, kwargs, attempts, error, failed_at)`

// shared is a storage whose file another program writes too.
type shared struct {
	*SQLiteStorage
	db *sql.DB
}

func newShared(f *testing.F, tables string) *shared {
	path := filepath.Join(f.TempDir(), "q.db")
	db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(5000)&_pragma=synchronous(0)")
	if err != nil {
		f.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	if _, err := db.Exec(tables); err != nil {
		f.Fatal(err)
	}
	s, err := OpenSQLite(f.Context(), path,
		&SQLiteOptions{Synchronous: "NORMAL", PollInterval: time.Hour, Retention: -1})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close(); db.Close() })
	return &shared{s, db}
}

// oddValues are values of each type of SQLite's.
type oddValues struct {
	text string
	n    int64
	real float64
}

// set replaces values of a row. Three bits of kinds for each column choose the type, or that the column
// keeps its value.
func (v oddValues) set(row map[string]any, columns []string, kinds uint64) {
	for _, column := range columns {
		switch kinds & 7 {
		case 1:
			row[column] = v.text
		case 2:
			row[column] = []byte(v.text)
		case 3:
			row[column] = v.n
		case 4:
			row[column] = v.real
		case 5:
			row[column] = nil
		}
		kinds >>= 3
	}
}

// write stores a row. A row that a constraint refuses is one that no program can write.
func (h *shared) write(table string, row map[string]any) {
	var names, marks []string
	var values []any
	for name, value := range row {
		names, marks, values = append(names, name), append(marks, "?"), append(values, value)
	}
	_, _ = h.db.Exec(fmt.Sprintf("INSERT OR IGNORE INTO %s (%s) VALUES (%s)",
		table, strings.Join(names, ", "), strings.Join(marks, ", ")), values...)
}

func (h *shared) count(t *testing.T, query string, args ...any) (n int) {
	t.Helper()
	if err := h.db.QueryRow(query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// FuzzRows writes odd rows into the tables, between two good jobs. The good jobs must run and every verb
// must work. A worker gets only rows that it can handle; the other rows block nobody, or are dead-lettered.
func FuzzRows(f *testing.F) {
	storages := map[bool]*shared{
		false: newShared(f, strings.Join(pythonTables, ";")),
		true:  newShared(f, laxTables),
	}
	columns := []string{"id", "func_name", "args", "kwargs", "status", "attempts", "created_at", "error", "heartbeat_at",
		"queue", "priority", "key", "run_at", "future", "claim", "reaped", "finished_at", "result"}
	newColumns := []string{"key_until_start", "meta", "aside", "worker", "lease", "doubted_at",
		"started_at", "cancel", "buried"}
	letterColumns := []string{"id", "func_name", "args", "kwargs", "attempts", "error", "failed_at", "queue", "priority",
		"key", "key_until_start", "meta", "result"}
	seed := func(column string, kind uint64, text string, n int64, real float64) {
		var kinds, newKinds uint64
		if i := slices.Index(columns, column); i >= 0 {
			kinds = kind << (3 * i)
		} else {
			newKinds = kind << (3 * slices.Index(newColumns, column))
		}
		f.Add(true, kinds, newKinds, kinds, text, n, real)
		f.Add(false, kinds, newKinds, kinds, text, n, real)
	}
	for _, column := range slices.Concat(columns, newColumns) {
		for kind, text := range []string{1: "[1", 2: `{"a":1}`, 3: "", 4: "", 5: ""} {
			seed(column, uint64(kind), text, -1, 1e300)
		}
		seed(column, 1, "\xff\x00\x1b[2J", 0, 0)
		seed(column, 3, "", 1<<63-1, 0)
		seed(column, 4, "", 0, -0.5)
	}
	seed("status", 1, "RUNNING", 0, 0)
	seed("status", 1, "FAILED", 0, 0)
	f.Fuzz(func(t *testing.T, lax bool, kinds, newKinds, letterKinds uint64, text string, n int64, real float64) {
		h := storages[lax]
		ctx := t.Context()
		ok := func(what string, err error) {
			t.Helper()
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
		okOrCanceled := func(what string, err error) {
			t.Helper()
			if !errors.Is(err, ErrCanceled) {
				ok(what, err)
			}
		}
		_, err := h.db.Exec("DELETE FROM jobs; DELETE FROM dlq")
		ok("a new start", err)

		ok("Enqueue", h.Enqueue(ctx, &Job{ID: "first", Task: "first"}))
		odd := oddValues{text, n, real}
		job := map[string]any{"id": "odd", "func_name": "odd", "args": "[]", "kwargs": "{}", "status": "PENDING",
			"attempts": 0, "created_at": 1.7e9}
		odd.set(job, columns, kinds)
		odd.set(job, newColumns, newKinds)
		h.write("jobs", job)
		letter := map[string]any{"id": "letter", "func_name": "letter", "args": "[]", "kwargs": "{}", "attempts": 1,
			"error": "boom", "failed_at": 1.7e9}
		odd.set(letter, letterColumns, letterKinds)
		h.write("dlq", letter)
		ok("Enqueue", h.Enqueue(ctx, &Job{ID: "last", Task: "last"}))

		// all calls every verb that reads.
		all := func() {
			t.Helper()
			_, err := h.Stats(ctx)
			ok("Stats", err)
			_, err = h.Size(ctx)
			ok("Size", err)
			for table, listing := range map[string]iter.Seq2[*Job, error]{"jobs": h.Jobs(ctx, Filter{}), "dlq": h.DeadLetters(ctx, Filter{})} {
				listed := 0
				for job, err := range listing {
					ok("listing", err)
					_, err = json.Marshal(job)
					ok("as JSON", err)
					listed++
				}
				if rows := h.count(t, "SELECT count(*) FROM "+table); listed != rows {
					t.Fatalf("%d of %d rows in %s are listed", listed, rows, table)
				}
			}
			for _, id := range []string{"odd", text} {
				if _, err := h.Get(ctx, id); !errors.Is(err, ErrNotFound) {
					ok("Get", err)
				}
			}
		}
		// drain runs the jobs that are due, each one ends in another way, and returns which good ones there
		// were.
		drain := func() (ran string) {
			t.Helper()
			for range 20 {
				jobs, err := h.Dequeue(ctx, DequeueOptions{Max: 2, NoWait: true})
				if len(jobs) == 0 && err == nil {
					return ran
				}
				ok("Dequeue", err)
				for i, job := range jobs {
					if job.Status != StatusRunning || job.Attempts < 1 || job.Claim < 1 {
						t.Fatalf("got %+v", job)
					}
					if lost, err := h.Heartbeat(ctx, job); err != nil || len(lost) > 0 {
						t.Fatalf("Heartbeat: %v, %v", lost, err)
					}
					if job.ID == "first" || job.ID == "last" {
						ran += job.ID + " "
					}
					switch {
					case job.Attempts > 2 || job.ID == "first" || job.ID == "last":
						lost, err := h.MarkDone(ctx, job)
						if ok("MarkDone", err); len(lost) > 0 {
							t.Fatalf("MarkDone: %v lost", lost[0])
						}
					case i == 0:
						okOrCanceled("MarkFailed", h.MarkFailed(ctx, job, errors.New(text), time.Now()))
					default:
						okOrCanceled("DeadLetter", h.DeadLetter(ctx, job, errors.New(text)))
					}
				}
			}
			t.Fatal("there is always something due")
			return ""
		}
		all()
		if ran := drain(); ran != "first last " && ran != "last first " {
			t.Fatalf("of our jobs ran %q", ran)
		}
		all()
		if n := h.count(t, `SELECT count(*) FROM jobs
			WHERE status='PENDING' AND future=0 AND aside>=0 AND typeof(queue)='text'`); n > 0 {
			t.Fatalf("%d rows stand where the next job is looked for", n)
		}
		if n := h.count(t, `SELECT count(*) FROM jobs WHERE status='FAILED' AND error LIKE 'pinion:%stored%' AND error IS NOT ? AND
			NOT EXISTS (SELECT 1 FROM dlq WHERE dlq.id IS jobs.id AND dlq.error=jobs.error)`, text); n > 0 {
			t.Fatalf("%d rows were given up and are not in the DLQ", n)
		}
		_, err = h.db.Exec("UPDATE jobs SET status='RUNNING'")
		ok("UPDATE", err)
		_, err = h.ReapStale(ctx, -time.Hour)
		ok("ReapStale", err)
		drain()
		_, err = h.Replay(ctx, Filter{})
		ok("Replay", err)
		all()
		drain()
		_, err = h.Purge(ctx, Filter{})
		ok("Purge", err)
		if n := h.count(t, "SELECT count(*) FROM dlq"); n > 0 {
			t.Fatalf("after a purge there are %d dead letters", n)
		}
		_, err = h.Prune(ctx, time.Now().Add(time.Hour))
		ok("Prune", err)
		all()
	})
}

// oddTexts are names that are allowed and surprise somebody.
var oddTexts = map[string]string{
	"quotes":           `'";--` + "`\\",
	"lines and tabs":   "a\r\n\tb",
	"escapes":          "\x1b[2J\x1b]0;title\a\u009b31m",
	"text turned back": "\u202Eabc\u2066",
	"1 KiB":            strings.Repeat("\x1bä", 341) + "a",
	"no character":     "\uFFFE\uFFFF",
	"patterns":         "%_*?[a",
}

func TestNamesOfAnyTextAreStoredUnchanged(t *testing.T) {
	for name, s := range map[string]interface {
		Storage
		Inspector
	}{"memory": NewMemoryStorage(), "SQLite": func() *SQLiteStorage { s, _ := newSQLite(t); return s }()} {
		t.Run(name, func(t *testing.T) {
			mustEnqueue(t, s, &Job{ID: "a", Task: "a", Queue: "a", Key: "a"})
			for name, text := range oddTexts {
				ctx := t.Context()
				job := &Job{ID: text, Task: text, Queue: text, Key: text}
				job.Args, job.Kwargs = []any{text}, map[string]any{text: text}
				mustEnqueue(t, s, job)
				if err := s.Enqueue(ctx, &Job{Task: "t", Key: text}); !errors.Is(err, ErrDuplicate) {
					t.Errorf("%s: the key twice: %v, want ErrDuplicate", name, err)
				}
				claimed := dueNow(t, s, 9, text)
				if len(claimed) != 1 {
					t.Fatalf("%s: %d jobs in the queue", name, len(claimed))
				}
				if err := s.MarkFailed(ctx, claimed[0], errors.New(text), time.Now()); err != nil {
					t.Fatal(err)
				}
				again := dueNow(t, s, 9, text)[0]
				if want := ErrorText(errors.New(text)); again.Error != want || len(want) > 16<<10 {
					t.Errorf("%s: the error has %d bytes, want %d", name, len(again.Error), len(want))
				}
				if err := s.DeadLetter(ctx, again, errors.New(text)); err != nil {
					t.Fatal(err)
				}
				for what, f := range map[string]Filter{"id": {IDs: []string{text}}, "task": {Task: text}, "queue": {Queue: text}} {
					for _, listing := range []iter.Seq2[*Job, error]{s.Jobs(ctx, f), s.DeadLetters(ctx, f)} {
						n := 0
						for got, err := range listing {
							if n++; err != nil || got.ID != text || got.Task != text || got.Queue != text || got.Key != text {
								t.Errorf("%s: by %s: %.200v, %v", name, what, got, err)
							}
							if job.Args != nil && (len(got.Args) != 1 || len(got.Kwargs) != 1) {
								t.Errorf("%s: arguments %v %v", name, got.Args, got.Kwargs)
							}
						}
						if n != 1 {
							t.Errorf("%s: by %s there are %d, want 1", name, what, n)
						}
					}
				}
				if got, err := s.Get(ctx, text); err != nil || got.ID != text {
					t.Errorf("%s: Get: %v", name, err)
				}
				if n, err := s.Replay(ctx, Filter{IDs: []string{text}}); n != 1 || err != nil {
					t.Errorf("%s: Replay: %d, %v", name, n, err)
				}
				if done := dueNow(t, s, 9, text); len(done) != 1 {
					t.Errorf("%s: %d jobs after the replay", name, len(done))
				} else if lost, err := s.MarkDone(ctx, done...); len(lost) > 0 || err != nil {
					t.Errorf("%s: MarkDone: %v, %v", name, lost, err)
				}
			}
			if got := tasksOf(dueNow(t, s, 9)); got != "a" {
				t.Errorf("the job beside them is %q", got)
			}
		})
	}
}

func TestNoProgramCanHideAJobFromClaims(t *testing.T) {
	_, path := newSQLite(t)
	o := otherProgram(t, path)
	for _, column := range []string{"future", "aside"} {
		for _, value := range []string{"-1", "2", "0.5", "'x'"} {
			_, err := o.db.Exec(`INSERT INTO jobs (id, func_name, args, kwargs, status, attempts, created_at, ` + column + `)
				VALUES ('1', 'a', '[]', '{}', 'PENDING', 0, 1, ` + value + `)`)
			wantError(t, err, "CHECK constraint failed: "+column)
		}
	}
}
