package web

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/pinion-queue/pinion"
)

// BenchmarkMillion asks for each list over a file with a million jobs: 100,000 dead letters, 20,000 jobs that wait, the
// rest done.
func BenchmarkMillion(b *testing.B) {
	path := filepath.Join(b.TempDir(), "q.db")
	q, err := pinion.OpenSQLite(b.Context(), path, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer q.Close()
	fill(b, path)
	page := New(q, &Options{Write: true})
	for _, address := range []string{
		"/", "/jobs", "/jobs?status=PENDING", "/jobs?status=PENDING&queue=q1", "/jobs?status=SUCCESS",
		"/jobs?status=FAILED", "/jobs?task=none", "/jobs?text=none", "/jobs?before=1000d", "/running", "/dead",
		"/dead?queue=q0", "/dead?text=none", "/dead?like=00000000000000000000000000000010", "/dead?cursor=50000",
		"/job/00000000000000000000000000000010", "/metrics",
	} {
		b.Run(address, func(b *testing.B) {
			for b.Loop() {
				w := httptest.NewRecorder()
				page.ServeHTTP(w, httptest.NewRequest("GET", address, nil))
				if w.Code != http.StatusOK {
					b.Fatalf("status %d: %s", w.Code, visible(w.Body.String()))
				}
			}
		})
	}
}

// fill writes a million jobs into a file.
func fill(tb testing.TB, path string) {
	db := otherProgram(tb, path)
	for _, statement := range []string{
		`INSERT INTO jobs(id, func_name, args, kwargs, status, attempts, created_at, queue, finished_at, worker, result)
			WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x<1000000)
			SELECT printf('%032d', x), 'task'||(x%7), '[1, "some text that an argument has"]', '{}',
			CASE WHEN x%10=0 THEN 'FAILED' WHEN x<22000 THEN 'PENDING' ELSE 'SUCCESS' END,
			1, unixepoch()-2000000+x, 'q'||(x%5), unixepoch()-1000000+x, 'host:1', '{"ok":true}' FROM c`,
		`UPDATE jobs SET finished_at=NULL WHERE status='PENDING'`,
		`INSERT INTO dlq(id, func_name, args, kwargs, attempts, error, failed_at, queue)
			SELECT id, func_name, args, kwargs, 3, 'dial tcp 10.0.0.'||(rowid/10%17)||':5432: connect: connection refused'
			||char(10,10)||'goroutine '||rowid, finished_at, queue FROM jobs WHERE status='FAILED'`,
		`UPDATE jobs SET buried=1 WHERE status='FAILED'`,
	} {
		if _, err := db.Exec(statement); err != nil {
			tb.Fatal(err)
		}
	}
}
