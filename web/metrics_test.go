package web

import (
	"strings"
	"testing"
	"time"

	"github.com/pinion-queue/pinion"
)

func TestMetricsAreWhatPrometheusReads(t *testing.T) {
	overStorages(t, func(t *testing.T, q queue) {
		enqueue(t, q, &pinion.Job{Task: "a", Queue: "x\"\\\n"},
			&pinion.Job{Task: "a", Queue: "x\"\\\n", RunAt: time.Now().Add(time.Hour)})
		bury(t, q, "b", "boom", 2)
		if err := q.SetLimit(t.Context(), "paused", 0); err != nil {
			t.Fatal(err)
		}
		body := ask(t, Metrics(q, quiet(t, Options{})), "GET", "/").body
		for _, line := range []string{
			`pinion_queue_jobs{queue="x\"\\\n",state="due"} 1`,
			`pinion_queue_jobs{queue="x\"\\\n",state="scheduled"} 1`,
			`pinion_queue_jobs{queue="x\"\\\n",state="running"} 0`,
			`pinion_queue_limit{queue="paused"} 0`,
			`pinion_dead_letters 2`,
			"# TYPE pinion_queue_oldest_seconds gauge",
		} {
			if !strings.Contains(body, line+"\n") {
				t.Errorf("there is no line %s in\n%s", line, body)
			}
		}
	})
}
