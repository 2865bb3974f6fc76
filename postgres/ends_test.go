package postgres

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion"
)

func TestMergingKeepsTheSumsOfTheHistory(t *testing.T) {
	s, ctx := open(t, schemaURL(t), nil), t.Context()
	now := time.Now().UTC()
	old := now.Add(-5 * time.Hour).Truncate(time.Hour)
	recent := now.Add(-10 * time.Minute).Truncate(time.Minute)
	for range 3 {
		for _, at := range []time.Time{old.Add(time.Second), old.Add(40 * time.Minute), recent, recent.Add(59 * time.Second)} {
			_, err := s.pool.Exec(ctx, s.sql(`INSERT INTO @ends (at, queue, task, succeeded, failed, took) VALUES ($1, 'q', 'a', 2, 1, '1s')`), at)
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	want := []pinion.Ends{
		{At: old, Queue: "q", Task: "a", Succeeded: 12, Failed: 6, Took: 6 * time.Second},
		{At: recent, Queue: "q", Task: "a", Succeeded: 12, Failed: 6, Took: 6 * time.Second},
	}
	if err := s.mergeEnds(ctx); err != nil {
		t.Fatal(err)
	}
	got, err := s.History(ctx, old)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the history (-want +got):\n%s", diff)
	}
	rows, _ := s.pool.Query(ctx, s.sql(`SELECT span FROM @ends ORDER BY span`))
	spans, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if diff := cmp.Diff([]int{1, 2}, spans); diff != "" || err != nil {
		t.Errorf("the rows that are left (-want +got):\n%s, %v", diff, err)
	}
}
