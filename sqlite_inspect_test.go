package pinion

import (
	"fmt"
	"iter"
	"maps"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

func TestListingsPageWhileRowsComeAndGo(t *testing.T) {
	s, path := newSQLite(t)
	o := otherProgram(t, path)
	jobs := make([]*Job, 1100)
	for i := range jobs {
		jobs[i] = &Job{ID: fmt.Sprintf("%04d", i), Task: strconv.Itoa(i)}
	}
	mustEnqueue(t, s, jobs...)
	o.exec(`INSERT INTO dlq (id, func_name, args, kwargs, attempts, error, failed_at)
		SELECT id, func_name, args, kwargs, 1, 'x', 1 FROM jobs`)
	for _, test := range []struct {
		table, insert string
		listing       iter.Seq2[*Job, error]
	}{
		{"jobs", `INSERT INTO jobs (id, func_name, args, kwargs, attempts, status, created_at)
			VALUES (?, 'added', '[]', '{}', 1, 'PENDING', 1)`, s.Jobs(t.Context(), Filter{})},
		{"dlq", `INSERT INTO dlq (id, func_name, args, kwargs, attempts, error, failed_at)
			VALUES (?, 'added', '[]', '{}', 1, 'x', 1)`, s.DeadLetters(t.Context(), Filter{})},
	} {
		want, got := make(map[string]bool), make(map[string]bool)
		for _, job := range jobs {
			want[job.ID] = true
		}
		last := ""
		for job, err := range test.listing {
			if err != nil {
				t.Fatal(err)
			}
			if job.ID <= last {
				t.Fatalf("%s: %s comes after %s", test.table, job.ID, last)
			}
			last = job.ID
			if len(got)%100 == 0 {
				// Another program deletes this row and one two pages ahead, and adds one at the end.
				ahead := fmt.Sprintf("%04d", len(got)+450)
				delete(want, ahead)
				o.exec("DELETE FROM "+test.table+" WHERE id IN (?, ?)", job.ID, ahead)
				o.exec(test.insert, fmt.Sprintf("9%04d", len(got)))
			}
			got[job.ID] = true
		}
		if last < "9" {
			t.Errorf("%s: the rows added at the end are not listed", test.table)
		}
		maps.DeleteFunc(got, func(id string, _ bool) bool { return id > "9" })
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.table, diff)
		}
	}
}

func TestAListingEndsAtItsLimit(t *testing.T) {
	s, _ := newSQLite(t)
	jobs := make([]*Job, 500)
	for i := range jobs {
		jobs[i] = NewJob("a")
	}
	mustEnqueue(t, s, jobs...)
	n := 0
	for _, err := range s.Jobs(t.Context(), Filter{Limit: 450}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 450 {
		t.Errorf("with Limit 450, %d jobs are listed", n)
	}
}

func TestAListingLeftOpenHoldsNoTransaction(t *testing.T) {
	t.Parallel()
	s, path := newSQLite(t)
	for range 300 {
		mustEnqueue(t, s, NewJob("a"))
	}
	next, stop := iter.Pull2(s.Jobs(t.Context(), Filter{}))
	defer stop()
	for range 201 {
		if _, err, more := next(); err != nil || !more {
			t.Fatal(err, more)
		}
	}
	o := otherProgram(t, path)
	o.want("0|0|0", "PRAGMA wal_checkpoint(TRUNCATE)")
	if info, err := os.Stat(path + "-wal"); err != nil || info.Size() != 0 {
		t.Errorf("after a checkpoint the log has %d bytes, error %v", info.Size(), err)
	}
	o.exec("DELETE FROM jobs")
	o.exec("VACUUM")
	for range 99 {
		if _, err, more := next(); err != nil || !more {
			t.Fatal(err, more)
		}
	}
	if _, err, more := next(); more {
		t.Errorf("there is more: %v", err)
	}
}

func TestATaskFilterComparesAsEqualFoldDoes(t *testing.T) {
	s, _ := newSQLite(t)
	names := []string{"kelvin", "KELVIN", "\u212Aelvin", "σας", "ΣΑΣ", "mass", "maſs", "ß"}
	for _, name := range names {
		mustEnqueue(t, s, NewJob(name))
	}
	for _, filter := range append(names, "Kelvin", "MASS", "ss", "kelvi") {
		var want []string
		for _, name := range names {
			if strings.EqualFold(name, filter) {
				want = append(want, name)
			}
		}
		if got := listed(t, s.Jobs(t.Context(), Filter{Task: filter})); got != strings.Join(want, " ") {
			t.Errorf("Task %q lists %q, want %q", filter, got, want)
		}
	}
}

// A page looks at 20,000 rows. What an index finds stands on it all the same, and the rest says where to go on.
func TestAPageFindsTheFewThatWaitBehindMany(t *testing.T) {
	t.Parallel()
	s, path := newSQLite(t)
	mustEnqueue(t, s, NewJob("first"), &Job{Task: "later", RunAt: time.Now().Add(time.Hour)},
		&Job{Task: "other", Queue: "q"})
	otherProgram(t, path).exec(`INSERT INTO jobs(id, func_name, args, kwargs, status, attempts, created_at)
		WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x<50000)
		SELECT 'done'||x, 'done', '[]', '{}', 'SUCCESS', 1, 1 FROM c`)
	for _, c := range []struct {
		filter Filter
		want   string
	}{
		{Filter{Status: StatusPending, Newest: true}, "other later first"},
		{Filter{Status: StatusPending, Queue: "q", Newest: true}, "other"},
		{Filter{Status: StatusPending, Newest: true, Task: "LATER"}, "later"},
		{Filter{Status: StatusPending, Newest: true, KeyPrefix: "periodic:"}, ""},
		{Filter{Status: StatusRunning, Newest: true}, ""},
	} {
		page, err := s.JobsPage(t.Context(), c.filter, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := tasksOf(page.Jobs); got != c.want || page.Next != 0 {
			t.Errorf("the first page of %s has %q and the next begins at %d, want %q and no next",
				filterText(c.filter), got, page.Next, c.want)
		}
	}
	var looks int
	var found strings.Builder
	for from := int64(0); looks == 0 || from != 0; looks++ {
		page, err := s.JobsPage(t.Context(), Filter{Task: "first", Newest: true}, from)
		if err != nil {
			t.Fatal(err)
		}
		found.WriteString(tasksOf(page.Jobs))
		from = page.Next
	}
	if found.String() != "first" || looks != 3 {
		t.Errorf("%d looks find %q, want 3 to find the first", looks, found.String())
	}
}

// Deleted jobs leave gaps between the numbers of the rows, so 20,000 numbers may have few rows.
func TestAPageLooksAcrossGaps(t *testing.T) {
	s, path := newSQLite(t)
	mustEnqueue(t, s, NewJob("a"), NewJob("b"), NewJob("c"), NewJob("d"))
	o := otherProgram(t, path)
	o.exec(`UPDATE jobs SET rowid=9007199254740993 WHERE func_name='d'`)
	o.exec(`UPDATE jobs SET rowid=90000 WHERE func_name='c'`)
	o.exec(`UPDATE jobs SET rowid=30000 WHERE func_name='b'`)
	for _, c := range []struct {
		filter Filter
		from   int64
		want   string
	}{
		{Filter{}, 0, "a b c d"},
		{Filter{Newest: true}, 0, "d c b a"},
		{Filter{Newest: true}, 90_000, "b a"},
		{Filter{}, 30_000, "c d"},
		{Filter{Task: "a", Newest: true}, 0, "a"},
		{Filter{Newest: true}, math.MaxInt64, "d c b a"},
		{Filter{Newest: true}, math.MinInt64, ""},
		{Filter{}, math.MaxInt64, ""},
		{Filter{}, math.MinInt64, "a b c d"},
	} {
		page, err := s.JobsPage(t.Context(), c.filter, c.from)
		if err != nil {
			t.Fatal(err)
		}
		if got := tasksOf(page.Jobs); got != c.want || page.Next != 0 {
			t.Errorf("the page of %s behind %d has %q and the next begins at %d, want %q and no next",
				filterText(c.filter), c.from, got, page.Next, c.want)
		}
	}
}
