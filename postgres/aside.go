package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// A worker claims only tasks that it knows. A claim looks past the jobs of other tasks, which costs little
// while they are few. If more than lookPast of them stand in front of a queue, they are set aside: they leave
// the indexes that claims go through for others, by task, in which claims of workers that know the task look as
// well. Nothing else about them changes, and nothing needs to bring them back.

const (
	lookPast   = 1000                   // jobs of unknown tasks
	asideEvery = 100 * time.Millisecond // how often a lane looks whether there are more, while there are not
)

// frontSQL selects the first jobs of a queue ($2), or of all queues if that is NULL.
func frontSQL(columns string, limit int) string {
	const inOrder = ` ORDER BY j.priority DESC, j.seq LIMIT `
	return fmt.Sprintf(`(SELECT %[1]s FROM @jobs j WHERE $2::text IS NULL AND `+isReadySQL+inOrder+`%[2]d)
		UNION ALL (SELECT %[1]s FROM @jobs j WHERE j.queue=$2 AND `+isReadySQL+inOrder+`%[2]d)`, columns, limit)
}

var (
	// Whether the first jobs are all of tasks other than $1, and more than a claim looks past. Usually the very
	// first is known, which is read at once.
	isFrontUnknownSQL = `
		SELECT NOT coalesce((SELECT bool_and(known) FROM (` + frontSQL(isTaskKnownSQL+` AS known`, 1) + `) f), true)
		AND (SELECT count(*)>1000 AND NOT bool_or(known) FROM (` + frontSQL(isTaskKnownSQL+` AS known`, lookPast+1) + `) f)`
	setAsideSQL = `
		WITH f AS MATERIALIZED (` + frontSQL(`j.seq`, lookPast+1) + `),
		c AS (SELECT j.seq FROM @jobs j
			WHERE j.seq IN (SELECT seq FROM f) AND ` + isReadySQL + ` AND NOT ` + isTaskKnownSQL + `
			FOR UPDATE SKIP LOCKED)
		UPDATE @jobs j SET aside=true FROM c WHERE j.seq=c.seq`
)

const isTaskKnownSQL = `(` + foldedSQL + `=ANY($1::text[]))`

// setAside sets jobs of unknown tasks aside, if more of them stand in front than a claim looks past.
func (s *Storage) setAside(ctx context.Context, w *wish) error {
	if w.tasks == nil || !s.isAsideDue(w) {
		return nil
	}
	fronts := []*string{nil} // all queues
	if w.queues != nil {
		fronts = nil
		for _, queue := range w.queues {
			fronts = append(fronts, &queue)
		}
	}
	for _, queue := range fronts {
		if err := s.setFrontAside(ctx, w, queue); err != nil {
			return err
		}
	}
	return nil
}

// setFrontAside sets aside what stands in front of one queue, or of all together, until a known task comes first.
func (s *Storage) setFrontAside(ctx context.Context, w *wish, queue *string) error {
	for {
		var unknown bool
		err := s.read(ctx, "dequeue", func(ctx context.Context, conn *pgx.Conn) error {
			return conn.QueryRow(ctx, s.sql(isFrontUnknownSQL), w.tasks, queue).Scan(&unknown)
		})
		if err != nil || !unknown {
			return err
		}
		moved, err := s.change(ctx, "dequeue", setAsideSQL, []any{w.tasks, queue})
		if err != nil || moved == 0 { // another worker sets them aside
			return err
		}
	}
}

// isAsideDue reports whether it is time for this wish to look again.
func (s *Storage) isAsideDue(w *wish) bool {
	l := s.laneFor(w)
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(l.asideChecked) < asideEvery {
		return false
	}
	l.asideChecked = time.Now()
	return true
}
