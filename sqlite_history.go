package pinion

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/pinion-queue/pinion/internal/rules"
)

// endCounter counts the ends of jobs by minute, queue and task, in the transactions that end them. So Stats and History
// cost the same however many jobs have finished. The writer's connMu guards it.
type endCounter struct {
	counts map[endPair]endCount // of the transaction under way

	minute int64 // Unix time of the newest minute that was written
	pairs  int   // how many pairs that minute has in the table, as far as this process knows; -1: not yet counted
}

type endPair struct{ queue, task string }

type endCount struct {
	succeeded, failed int
	took              time.Duration
}

const (
	maxEndPairs = 1000          // in a minute; further pairs are counted as otherPair
	endsByHour  = 2 * time.Hour // how old minutes are merged into hours
)

var otherPair = endPair{"other", "other"}

// add counts one end in the transaction under way. took is the time from the claim to the end; 0 if there was no claim.
func (e *endCounter) add(queue, task string, status Status, took time.Duration) {
	if e.counts == nil {
		e.counts = make(map[endPair]endCount)
	}
	pair := endPair{queue, task}
	count := e.counts[pair]
	if status == StatusSuccess {
		count.succeeded++
	} else {
		count.failed++
	}
	count.took += max(took, 0)
	e.counts[pair] = count
}

// sinceClaim returns how long ago a claim was made. A Claim is the Unix time of the claim in microseconds.
func sinceClaim(claim int64, now time.Time) time.Duration {
	return max(now.Sub(time.UnixMicro(claim)), 0)
}

// beforeCommit writes what was counted.
func (e *endCounter) beforeCommit(tx *transaction) {
	if len(e.counts) == 0 {
		return
	}
	minute := tx.now.Truncate(time.Minute).Unix()
	if minute != e.minute {
		e.minute, e.pairs = minute, -1
	}
	pairs := slices.SortedFunc(maps.Keys(e.counts), func(a, b endPair) int {
		return cmp.Or(cmp.Compare(a.queue, b.queue), cmp.Compare(a.task, b.task))
	})
	for _, pair := range pairs {
		e.write(&tx.session, pair, e.counts[pair])
	}
	clear(e.counts)
}

// afterTransaction forgets what was counted in a transaction that was rolled back.
func (e *endCounter) afterTransaction(committed bool) {
	if !committed {
		clear(e.counts)
		e.pairs = -1
	}
}

// write adds to the row of a pair, and makes the row if the minute has room for it.
func (e *endCounter) write(q *session, pair endPair, count endCount) {
	known := q.exec(`UPDATE pinion_ends SET succeeded=succeeded+?, failed=failed+?, took=took+?
		WHERE at=? AND queue=? AND task=?`,
		count.succeeded, count.failed, count.took.Seconds(), e.minute, pair.queue, pair.task) > 0
	if known {
		return
	}
	if e.pairs < 0 {
		e.pairs = int(integer(q.value(`SELECT count(*) FROM pinion_ends WHERE at=?`, e.minute)))
	}
	if e.pairs >= maxEndPairs {
		pair = otherPair
	}
	e.pairs++
	addEnds(q, e.minute, pair, count)
}

// writeEnd counts one end in a transaction of the user's.
func writeEnd(q *session, job *Job, now time.Time) {
	e := endCounter{minute: now.Truncate(time.Minute).Unix(), pairs: -1}
	e.write(q, endPair{job.Queue, job.Task}, endCount{succeeded: 1, took: sinceClaim(job.Claim, now)})
}

// addEnds adds to the row of a pair in one minute or hour.
func addEnds(q *session, at int64, pair endPair, count endCount) {
	q.exec(`INSERT INTO pinion_ends (at, queue, task, succeeded, failed, took) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (at, queue, task) DO UPDATE SET
			succeeded=succeeded+excluded.succeeded, failed=failed+excluded.failed, took=took+excluded.took`,
		at, pair.queue, pair.task, count.succeeded, count.failed, count.took.Seconds())
}

// mergeEnds merges old minutes into hours and deletes very old hours. It changes at most perTransaction rows at a time,
// and takes no lock if there are none.
func (s *SQLiteStorage) mergeEnds(ctx context.Context, now time.Time) error {
	minutes := now.Add(-endsByHour).Truncate(time.Hour).Unix() // whole hours, so that an hour is merged once
	hours := now.Add(-rules.HistoryKept).Unix()
	choose := fmt.Sprintf(`SELECT at, queue, task FROM pinion_ends WHERE at<? AND (at%%3600<>0 OR at<?) LIMIT %d`,
		perTransaction)
	for {
		type row struct {
			at   int64
			pair endPair
		}
		var rows []row
		q := s.leaseReader(ctx)
		for v := range q.rows(choose, minutes, hours) {
			rows = append(rows, row{integer(v[0]), endPair{text(v[1]), text(v[2])}})
		}
		if q.err != nil || len(rows) == 0 {
			return wrap("merge ends", q.err)
		}
		err := s.write(ctx, "merge ends", func(tx *transaction) {
			for _, r := range rows {
				mergeEnd(tx, r.at, r.pair, hours)
			}
		})
		if err != nil {
			return err
		}
	}
}

// mergeEnd moves the row of a minute into that of its hour, or deletes it if it is older than hours.
func mergeEnd(tx *transaction, at int64, pair endPair, hours int64) {
	var count endCount
	found := false
	for v := range tx.rows(`SELECT succeeded, failed, took FROM pinion_ends WHERE at=? AND queue=? AND task=?`,
		at, pair.queue, pair.task) {
		found = true
		took, _ := v[2].(float64)
		count = endCount{int(integer(v[0])), int(integer(v[1])), time.Duration(took * float64(time.Second))}
	}
	if !found { // another process was faster
		return
	}
	tx.exec(`DELETE FROM pinion_ends WHERE at=? AND queue=? AND task=?`, at, pair.queue, pair.task)
	if at >= hours {
		addEnds(&tx.session, at-at%3600, pair, count)
	}
}

// History returns the ends of jobs; see [Inspector].
func (s *SQLiteStorage) History(ctx context.Context, since time.Time) ([]Ends, error) {
	q := s.reader(ctx)
	all := slices.Collect(s.endsSince(q, since))
	if q.err != nil {
		return nil, wrap("history", q.err)
	}
	return all, nil
}

// endsSince ranges over the ends from the minute of a time on, the oldest first.
func (s *SQLiteStorage) endsSince(q *session, since time.Time) iter.Seq[Ends] {
	return func(yield func(Ends) bool) {
		if !s.indexed { // an older file has no such table
			return
		}
		for row := range q.rows(`SELECT at, queue, task, succeeded, failed, took FROM pinion_ends
			WHERE at>=? ORDER BY at, queue, task`, since.Truncate(time.Minute).Unix()) {
			took, _ := row[5].(float64)
			ends := Ends{
				At:        time.Unix(integer(row[0]), 0).UTC(),
				Queue:     text(row[1]),
				Task:      text(row[2]),
				Succeeded: int(integer(row[3])),
				Failed:    int(integer(row[4])),
				Took:      time.Duration(took * float64(time.Second)),
			}
			if !yield(ends) {
				return
			}
		}
	}
}
