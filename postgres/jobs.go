package postgres

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pinion-queue/pinion"
)

const jobColumns = `j.seq, j.id, j.task, j.args, j.kwargs, j.queue, j.priority, j.run_at, j.key, j.status, j.attempts, j.claim,
	j.created_at, j.heartbeat_at, j.finished_at, j.error, j.result, j.worker, j.canceled`

// statements are the SQL of the verbs. Rows of claims are locked in the order of their ids, or not waited for: so verbs
// that meet do not deadlock. Should the planner have undone that, the server finds it out and the verb is tried again.
type statements struct {
	insert, insertFree, insertMany, known, byID, byKey    string
	promote, claimAny, claimOne, claimSome, claimed, next string
	done, failed, letter, beat, release, settled, stale   string
	cancel, canceled, size, stats, minute                 string
}

const (
	ready      = `j.status='PENDING' AND NOT j.future`
	unfinished = `status IN ('PENDING', 'RUNNING')`

	insertInto   = `INSERT INTO @jobs (id, task, args, kwargs, queue, priority, run_at, future, key, created_at) `
	insertValues = `VALUES ($1, $2, $3, $4, $5, $6, $7, coalesce($7>statement_timestamp(), false), $8, $9)`

	uniqueViolation = "23505"

	// What follows a choice of rows, c, in the order of claims: those of them that may be claimed, taken.
	take = `, k AS (SELECT seq, claim, row_number() OVER (ORDER BY priority DESC, seq) AS n FROM c)
		UPDATE @jobs j SET status='RUNNING', attempts=j.attempts+1, heartbeat_at=statement_timestamp(), grab=$3, worker=$4,
			claim=greatest(j.claim+1, (extract(epoch FROM statement_timestamp())*1000000)::bigint)
		FROM k WHERE j.seq=k.seq AND k.n < coalesce((SELECT min(n) FROM k WHERE n>$2 AND claim>0), 1+$1)
		RETURNING ` + jobColumns

	// What gives a claim up without success ends a canceled job instead; @! is the text of ErrCanceled.
	letGo = `UPDATE @jobs j SET status=CASE WHEN canceled THEN 'FAILED' ELSE 'PENDING' END,
		finished_at=CASE WHEN canceled THEN statement_timestamp() END`

	// The jobs handed in that are still under their claims.
	held = ` FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS h(id, claim, attempts)
		WHERE j.id=h.id AND j.claim=h.claim AND j.attempts=h.attempts AND j.status='RUNNING' RETURNING h.id, h.claim, h.attempts, j.canceled`
)

func statementsFor(schema string) (s statements) {
	s = statements{
		insert: insertInto + insertValues,
		// What cannot be stored is then no error, which the server would write into its log.
		insertFree: insertInto + insertValues + ` ON CONFLICT DO NOTHING`,
		insertMany: insertInto + `SELECT id, task, args, kwargs, queue, priority, run_at, coalesce(run_at>statement_timestamp(), false), key, $9
			FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::timestamptz[], $8::text[])
			WITH ORDINALITY AS t(id, task, args, kwargs, queue, priority, run_at, key, n) ORDER BY n`,
		known: `SELECT count(*) FROM @jobs WHERE id=$1 AND created_at=$2`,
		byID:  `SELECT id FROM @jobs WHERE id=ANY($1::text[]) LIMIT 1`,
		byKey: `SELECT id, key FROM @jobs WHERE key IS NOT NULL AND ` + unfinished + ` AND key=ANY($1::text[]) LIMIT 1`,

		promote: `WITH c AS (SELECT seq FROM @jobs WHERE status='PENDING' AND future AND run_at<=statement_timestamp()
			ORDER BY run_at LIMIT 1000 FOR UPDATE SKIP LOCKED)
			UPDATE @jobs j SET future=false FROM c WHERE j.seq=c.seq`,
		claimAny: `WITH c AS (SELECT j.seq, j.priority, j.claim FROM @jobs j WHERE ` + ready + `
			ORDER BY j.priority DESC, j.seq LIMIT $1 FOR UPDATE SKIP LOCKED)` + take,
		claimOne: `WITH c AS (SELECT j.seq, j.priority, j.claim FROM @jobs j WHERE ` + ready + ` AND j.queue=$5
			ORDER BY j.priority DESC, j.seq LIMIT $1 FOR UPDATE SKIP LOCKED)` + take,
		// The best of each queue, merged. They are locked only then, so that no more is kept from others than is taken.
		claimSome: `WITH b AS MATERIALIZED (SELECT x.seq FROM unnest($5::text[]) AS q(name) CROSS JOIN LATERAL (
				SELECT j.seq, j.priority FROM @jobs j WHERE ` + ready + ` AND j.queue=q.name ORDER BY j.priority DESC, j.seq LIMIT $1) x
				ORDER BY x.priority DESC, x.seq LIMIT $1),
			c AS (SELECT j.seq, j.priority, j.claim FROM @jobs j WHERE j.seq IN (SELECT seq FROM b) AND ` + ready + ` FOR UPDATE SKIP LOCKED)` + take,
		claimed: `SELECT ` + jobColumns + ` FROM @jobs j WHERE j.status='RUNNING' AND j.grab=$1`,
		next: `SELECT (SELECT extract(epoch FROM run_at-statement_timestamp())::float8 FROM @jobs WHERE status='PENDING' AND future ORDER BY run_at LIMIT 1),
			CASE WHEN cardinality($1::text[])=0 THEN EXISTS (SELECT FROM @jobs j WHERE ` + ready + `)
			ELSE EXISTS (SELECT FROM unnest($1::text[]) AS q(name) CROSS JOIN LATERAL (SELECT FROM @jobs j WHERE ` + ready + ` AND j.queue=q.name LIMIT 1) x) END`,

		done: `UPDATE @jobs j SET status='SUCCESS', finished_at=statement_timestamp(), result=h.result
			FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[]) AS h(id, claim, attempts, result)
			WHERE j.id=h.id AND j.claim=h.claim AND j.attempts=h.attempts AND j.status='RUNNING' RETURNING h.id, h.claim, h.attempts, false`,
		failed: letGo + `, error=CASE WHEN canceled THEN '@!' ELSE $4 END, run_at=CASE WHEN canceled THEN run_at ELSE $5 END,
			future=NOT canceled AND coalesce($5>statement_timestamp(), false)` + held,
		letter: `UPDATE @jobs j SET status='FAILED', finished_at=statement_timestamp(), error=CASE WHEN canceled THEN '@!' ELSE $4 END,
			attempts=CASE WHEN canceled THEN j.attempts ELSE $5 END, dead=CASE WHEN NOT canceled THEN nextval('@dead_letters') END` + held,
		beat: `UPDATE @jobs j SET heartbeat_at=statement_timestamp()` + held,
		release: letGo + `, error=CASE WHEN canceled THEN '@!' ELSE coalesce($5, error) END, attempts=j.attempts-CASE WHEN canceled THEN 0 ELSE 1 END,
			run_at=CASE WHEN canceled THEN run_at ELSE $4 END, future=NOT canceled AND coalesce($4>statement_timestamp(), false)` + held,
		settled: `SELECT h.id, h.claim, h.attempts, false FROM @jobs j, unnest($1::text[], $2::bigint[], $3::bigint[]) AS h(id, claim, attempts)
			WHERE j.id=h.id AND j.claim=h.claim AND j.status=$4`,
		stale: `WITH c AS (SELECT seq FROM @jobs WHERE status='RUNNING' AND heartbeat_at<statement_timestamp()-$2::interval
				ORDER BY seq FOR UPDATE SKIP LOCKED)
			` + letGo + `, error=CASE WHEN canceled THEN '@!' ELSE 'lease expired' END, reaped=j.reaped+1, future=NOT canceled AND j.reaped>0,
				run_at=CASE WHEN canceled THEN j.run_at WHEN j.reaped=0 THEN NULL
					ELSE statement_timestamp()+random()*least(greatest(j.attempts, 1), 1000)*$1::interval END
			FROM c WHERE j.seq=c.seq`,
		cancel: `WITH c AS (SELECT seq, status='PENDING' AS waits FROM @jobs WHERE id=ANY($1::text[]) AND ` + unfinished + ` ORDER BY id FOR UPDATE)
			UPDATE @jobs j SET canceled=true, status=CASE WHEN waits THEN 'FAILED' ELSE status END, error=CASE WHEN waits THEN '@!' ELSE error END,
				finished_at=CASE WHEN waits THEN statement_timestamp() END
			FROM c WHERE j.seq=c.seq RETURNING j.id, waits`,
		canceled: `SELECT h.id, h.claim, h.attempts, true FROM @jobs j, unnest($1::text[], $2::bigint[], $3::bigint[]) AS h(id, claim, attempts)
			WHERE j.id=h.id AND j.claim=h.claim AND j.attempts=h.attempts AND j.status='RUNNING' AND j.canceled`,

		// In two halves, each of which an index knows.
		size: `SELECT (SELECT count(*) FROM @jobs j WHERE ` + ready + `) + (SELECT count(*) FROM @jobs WHERE status='PENDING' AND future)`,
		stats: `SELECT queue, task, status, count(*), min(created_at), count(*) FILTER (WHERE finished_at>statement_timestamp()-interval '1h'),
			count(*) FILTER (WHERE finished_at>statement_timestamp()-interval '1min'), count(dead) FROM @jobs GROUP BY queue, task, status`,
		minute: `SELECT floor(extract(epoch FROM statement_timestamp()-finished_at))::integer AS age, count(*) FROM (
				SELECT finished_at FROM @jobs WHERE status IN ('SUCCESS', 'FAILED') AND dead IS NULL AND finished_at>statement_timestamp()-interval '1min'
				UNION ALL SELECT finished_at FROM @jobs WHERE dead IS NOT NULL AND finished_at>statement_timestamp()-interval '1min') f
			GROUP BY age`,
	}
	for _, sql := range []*string{&s.insert, &s.insertFree, &s.insertMany, &s.known, &s.byID, &s.byKey, &s.promote, &s.claimAny, &s.claimOne,
		&s.claimSome, &s.claimed, &s.next, &s.done, &s.failed, &s.letter, &s.beat, &s.release, &s.settled, &s.stale,
		&s.cancel, &s.canceled, &s.size, &s.stats, &s.minute} {
		*sql = inSchema(schema, strings.ReplaceAll(*sql, `@!`, pinion.ErrCanceled.Error()))
	}
	return s
}

// ---- Enqueue ----

// batch are jobs on their way into the table, by columns.
type batch struct {
	jobs                            []*pinion.Job
	ids, tasks, args, kwargs, queue []string
	priority                        []int64
	runAt                           []*time.Time
	keys                            []*string
	chosen                          bool // an ID or a Key is the caller's: it may be taken
	created                         time.Time
}

func newBatch(jobs []*pinion.Job) (*batch, error) {
	b := &batch{jobs: jobs, created: microTime(time.Now())}
	ids, keys := make(map[string]bool), make(map[string]string) // those that the callers chose, to find them twice
	for _, job := range jobs {
		args, kwargs, err := job.EncodeArgs()
		if err = cmp.Or(err, checkNames(job)); err != nil {
			return nil, err
		}
		id := cmp.Or(job.ID, pinion.NewID())
		if job.ID != "" {
			if b.chosen = true; ids[id] {
				return nil, &pinion.DuplicateError{ID: id}
			}
			ids[id] = true
		}
		var key *string
		if job.Key != "" {
			if b.chosen = true; keys[job.Key] != "" {
				return nil, &pinion.DuplicateError{ID: keys[job.Key], Key: job.Key}
			}
			keys[job.Key], key = id, new(job.Key)
		}
		b.ids, b.tasks, b.args, b.kwargs = append(b.ids, id), append(b.tasks, job.Task), append(b.args, args), append(b.kwargs, kwargs)
		b.queue, b.priority = append(b.queue, cmp.Or(job.Queue, "default")), append(b.priority, int64(job.Priority))
		b.runAt, b.keys = append(b.runAt, timeOrNull(job.RunAt)), append(b.keys, key)
	}
	return b, nil
}

// checkNames refuses what the server cannot store, or not find by an index.
func checkNames(job *pinion.Job) error {
	for _, name := range [...]string{job.ID, job.Task, job.Queue, job.Key} {
		switch {
		case strings.Contains(name, "\x00"):
			return fmt.Errorf("%w: PostgreSQL stores no NUL, as there is in the name %.100q", pinion.ErrBadArgs, name)
		case len(name) > maxName:
			return fmt.Errorf("%w: a name of %d bytes, at most %d are taken: %.100q", pinion.ErrTooLarge, len(name), maxName, name)
		}
	}
	return nil
}

// accept fills in the callers' jobs.
func (b *batch) accept() {
	for i, job := range b.jobs {
		job.ID, job.Queue, job.Status, job.CreatedAt = b.ids[i], b.queue[i], pinion.StatusPending, b.created
	}
}

// Enqueue stores the jobs; see [pinion.Storage].
func (s *Storage) Enqueue(ctx context.Context, jobs ...*pinion.Job) error {
	b, err := newBatch(jobs)
	if err != nil || len(jobs) == 0 {
		return s.refuse(ctx, err)
	}
	start, sent := time.Now(), false
	if len(jobs) == 1 && !b.chosen && ctx.Err() == nil {
		if sent, err = s.together(ctx, b); err == nil {
			b.accept()
			return nil
		} else if sent && time.Since(start) > patience {
			return unknown("enqueue", err)
		} else if sent {
			ctx = context.WithoutCancel(ctx)
		}
	}
	err = s.do(ctx, "enqueue", true, sent, start, func(ctx context.Context, conn *pgx.Conn, again bool) error {
		for {
			stored, err := s.insert(ctx, conn, b)
			if stored || err != nil {
				return err
			}
			if again { // perhaps what is in the way is of this very call, and then all of it is there
				var n int
				if err := conn.QueryRow(ctx, s.sql.known, b.ids[0], b.created).Scan(&n); err != nil || n > 0 {
					return err
				}
			}
			if err := s.taken(ctx, conn, b); err != nil {
				return err
			}
			// Whoever held the Key has finished meanwhile.
		}
	})
	if err == nil {
		b.accept()
		s.ring()
	}
	return err
}

// company are the calls of this process that enqueue a single job at the same time: one of them stores the jobs of all in
// one statement, while the next gather. To the server a statement costs more than the row that it brings.
type company struct {
	mu      sync.Mutex // guards the rest
	led     bool       // somebody has the lead
	waiting []*companion
	expect  int // how many the last statement had
}

// companion is one such call, which is told once what becomes of it.
type companion struct {
	*batch
	told chan fate // capacity 1
}

// fate is the lead, or how the statement ended that had the job. If that failed each goes alone, as may be only one's fault.
type fate struct {
	leads, sent bool // sent: the job may be stored in spite of err
	err         error
}

const (
	companyMost  = 100         // jobs in a statement
	companyBytes = 1 << 20     // of arguments, about
	companyWait  = time.Second // for a statement to begin: whoever has the lead may be waiting for a connection
)

var errAlone = errors.New("each goes alone")

// together tries once to store b with what others enqueue; sent is that of try.
func (s *Storage) together(ctx context.Context, b *batch) (sent bool, err error) {
	if end := s.company.join(ctx, b); !end.leads {
		return end.sent, end.err
	}
	var crew []*companion
	sent, err = true, errAlone // should it panic
	defer func() {
		for _, c := range crew {
			c.told <- fate{sent: sent, err: err}
		}
		s.company.handOn(err)
	}()
	sent, _, err = s.try(ctx, true, false, func(ctx context.Context, conn *pgx.Conn, _ bool) error {
		crew = s.company.gather(b)
		all := &batch{created: microTime(time.Now())}
		for _, c := range append([]*companion{{batch: b}}, crew...) {
			c.created = all.created
			all.add(c.batch)
		}
		stored, err := s.insert(ctx, conn, all)
		if err == nil && !stored {
			err = errAlone // of ids that nobody else has, one is taken
		}
		return err
	})
	if err == nil {
		s.ring()
	}
	return sent, err
}

// join waits for the lead, or for the end of the statement that another has made for all.
func (c *company) join(ctx context.Context, b *batch) fate {
	c.mu.Lock()
	if !c.led {
		c.led = true
		c.mu.Unlock()
		return fate{leads: true}
	}
	me := &companion{b, make(chan fate, 1)}
	c.waiting = append(c.waiting, me)
	c.mu.Unlock()
	timer := time.NewTimer(companyWait)
	defer timer.Stop()
	select {
	case end := <-me.told:
		return end
	case <-ctx.Done():
	case <-timer.C:
	}
	c.mu.Lock()
	i := slices.Index(c.waiting, me)
	if i >= 0 {
		c.waiting = slices.Delete(c.waiting, i, i+1)
	}
	c.mu.Unlock()
	if i < 0 {
		return <-me.told
	}
	return fate{err: errAlone}
}

// gather takes those who wait. Who were stored together come back together, so it gives them a moment.
func (c *company) gather(leader *batch) (crew []*companion) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for tries := 0; 1+len(c.waiting) < c.expect && tries < 16; tries++ {
		c.mu.Unlock()
		runtime.Gosched()
		c.mu.Lock()
	}
	n := 0
	for bytes := leader.bytes(); n < len(c.waiting) && 1+n < companyMost && bytes < companyBytes; n++ {
		bytes += c.waiting[n].bytes()
	}
	crew, c.waiting = slices.Clone(c.waiting[:n]), slices.Delete(c.waiting, 0, n)
	c.expect = 1 + n
	return crew
}

// handOn gives the lead to the next; after an error everybody who waits goes alone, at once.
func (c *company) handOn(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		for _, o := range c.waiting {
			o.told <- fate{err: errAlone}
		}
		c.waiting = nil
	}
	if c.led = len(c.waiting) > 0; c.led {
		c.waiting[0].told <- fate{leads: true}
		c.waiting = slices.Delete(c.waiting, 0, 1)
	}
}

func (b *batch) bytes() int { return len(b.args[0]) + len(b.kwargs[0]) }

// add makes one batch of several calls'.
func (b *batch) add(o *batch) {
	b.ids, b.tasks, b.args, b.kwargs = append(b.ids, o.ids...), append(b.tasks, o.tasks...), append(b.args, o.args...), append(b.kwargs, o.kwargs...)
	b.queue, b.priority = append(b.queue, o.queue...), append(b.priority, o.priority...)
	b.runAt, b.keys = append(b.runAt, o.runAt...), append(b.keys, o.keys...)
}

// refuse returns the error of a call that comes to nothing. A Key that a batch gives twice is reported with the id of the
// job that holds it already, if one does.
func (s *Storage) refuse(ctx context.Context, err error) error {
	d, twice := errors.AsType[*pinion.DuplicateError](err)
	failed := s.read(ctx, "enqueue", func(ctx context.Context, conn *pgx.Conn, _ bool) error {
		if !twice || d.Key == "" {
			return nil
		}
		holder := s.taken(ctx, conn, &batch{keys: []*string{&d.Key}})
		err = cmp.Or(holder, err)
		return nil
	})
	return cmp.Or(err, failed)
}

// querier is what a connection and a transaction have in common.
type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// insert stores the batch, or reports that an ID or a Key is taken.
func (s *Storage) insert(ctx context.Context, q querier, b *batch) (stored bool, err error) {
	if len(b.ids) > 1 {
		_, err = q.Exec(ctx, s.sql.insertMany, b.ids, b.tasks, b.args, b.kwargs, b.queue, b.priority, b.runAt, b.keys, b.created)
	} else {
		sql := s.sql.insert
		if b.chosen {
			sql = s.sql.insertFree
		}
		var tag pgconn.CommandTag
		tag, err = q.Exec(ctx, sql, b.ids[0], b.tasks[0], b.args[0], b.kwargs[0], b.queue[0], b.priority[0], b.runAt[0], b.keys[0], b.created)
		if err == nil && tag.RowsAffected() == 0 {
			return false, nil
		}
	}
	if isCode(err, uniqueViolation) {
		return false, nil
	}
	return err == nil, err
}

// taken returns a DuplicateError that names the job which has an ID or a Key of the batch, or nil if there is none.
func (s *Storage) taken(ctx context.Context, q querier, b *batch) error {
	var d pinion.DuplicateError
	err := q.QueryRow(ctx, s.sql.byID, b.ids).Scan(&d.ID)
	if errors.Is(err, pgx.ErrNoRows) {
		err = q.QueryRow(ctx, s.sql.byKey, b.keys).Scan(&d.ID, &d.Key)
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	return cmp.Or(err, error(&d))
}

// Tx returns a [pinion.Tx] that enqueues inside tx, a transaction of the caller's on the same database. All jobs of an
// Enqueue are stored or none, and after a [pinion.DuplicateError] tx can go on. Nothing is tried again. A transaction
// that has enqueued something takes a lock at its COMMIT that all NOTIFYs of the server share; [Options].NoListen
// avoids it.
func (s *Storage) Tx(tx pgx.Tx) pinion.Tx { return transaction{s, tx} }

type transaction struct {
	s  *Storage
	tx pgx.Tx
}

// Enqueue stores the jobs in the transaction.
func (t transaction) Enqueue(ctx context.Context, jobs ...*pinion.Job) error {
	s, tx := t.s, t.tx
	b, err := newBatch(jobs)
	if err != nil || len(jobs) == 0 {
		return s.refuse(ctx, err)
	}
	if s.isClosed() {
		return pinion.ErrClosed
	}
	savepoint, err := tx.Begin(ctx)
	if err != nil {
		return wrap("enqueue", err)
	}
	for stored := false; err == nil && !stored; {
		if stored, err = s.insert(ctx, savepoint, b); err == nil && !stored {
			if err = savepoint.Rollback(ctx); err == nil {
				err = s.taken(ctx, tx, b)
			}
			if again, failed := tx.Begin(ctx); failed == nil {
				savepoint = again
			} else {
				err = cmp.Or(err, failed)
			}
		}
	}
	if err == nil && !s.opts.NoListen {
		_, err = savepoint.Exec(ctx, `SELECT pg_notify($1::text, '')`, s.channel())
	}
	if err != nil {
		savepoint.Rollback(ctx) // an error here is one of tx as well
		return wrap("enqueue", err)
	}
	if err = savepoint.Commit(ctx); err == nil {
		b.accept()
	}
	return wrap("enqueue", err)
}

// ---- Dequeue ----

// Dequeue claims jobs; see [pinion.Storage].
func (s *Storage) Dequeue(ctx context.Context, opts pinion.DequeueOptions) ([]*pinion.Job, error) {
	if opts.Max < 1 {
		return nil, fmt.Errorf("pinion: dequeue: Max is %d; want at least 1", opts.Max)
	}
	if opts.Ahead < 0 || opts.Ahead > opts.Max {
		return nil, fmt.Errorf("pinion: dequeue: Ahead is %d; want 0 to Max, which is %d", opts.Ahead, opts.Max)
	}
	names := make([]string, len(opts.Queues))
	for i, name := range opts.Queues {
		names[i] = text(cmp.Or(name, "default"))
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if opts.NoWait || opts.Ahead == opts.Max {
		return s.claim(ctx, opts, names)
	}
	l := s.lineFor(names)
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.ended.Done():
		return nil, pinion.ErrClosed
	}
	for {
		if l.rung == nil {
			rung := s.bell.listen()
			start := time.Now()
			jobs, err := s.claim(ctx, opts, names)
			l.looked, l.took, l.found = time.Now(), time.Since(start), len(jobs)
			if err == nil && len(jobs) < opts.Max {
				l.rung = rung // nothing is left until then
			}
			if len(jobs) > 0 || err != nil {
				return jobs, err
			}
		}
		if err := s.await(ctx, l, names); err != nil {
			return nil, err
		}
		l.rung = nil
	}
}

// claim takes what is due now. A row whose arguments nobody can read goes to the dead letters, so that it does not stand
// in the way of those behind it.
func (s *Storage) claim(ctx context.Context, opts pinion.DequeueOptions, names []string) (jobs []*pinion.Job, err error) {
	grab := s.grabs.Add(1)
	sql, args := s.sql.claimAny, []any{opts.Max, opts.Max - opts.Ahead, grab, text(opts.Worker)}
	if len(names) == 1 {
		sql, args = s.sql.claimOne, append(args, names[0])
	} else if len(names) > 1 {
		sql, args = s.sql.claimSome, append(args, names)
	}
	for len(jobs) == 0 {
		var taken []row
		err = s.write(ctx, "dequeue", func(ctx context.Context, conn *pgx.Conn, again bool) (err error) {
			if again { // a claim that was committed before its answer got lost
				found, _ := conn.Query(ctx, s.sql.claimed, grab)
				if taken, err = pgx.CollectRows(found, scanRow); err != nil || len(taken) > 0 {
					return err
				}
			}
			var b pgx.Batch
			b.Queue(s.sql.promote)
			b.Queue(sql, args...)
			answers := conn.SendBatch(ctx, &b)
			_, err = answers.Exec()
			found, failed := answers.Query()
			if err = cmp.Or(err, failed); err == nil {
				taken, err = pgx.CollectRows(found, scanRow)
			}
			return cmp.Or(err, answers.Close())
		})
		if err != nil || len(taken) == 0 {
			return nil, err
		}
		slices.SortFunc(taken, func(a, b row) int {
			return cmp.Or(cmp.Compare(b.job.Priority, a.job.Priority), cmp.Compare(a.seq, b.seq))
		})
		for _, r := range taken {
			if r.unreadable == nil {
				jobs = append(jobs, r.job)
			} else if err := s.bury(ctx, r.job, r.unreadable, r.job.Attempts-1); err != nil {
				return jobs, nil // left to the reaper
			}
		}
	}
	return jobs, nil
}

// row is a stored job with its place.
type row struct {
	seq        int64
	job        *pinion.Job
	unreadable error // its arguments are no JSON
}

func scanRow(found pgx.CollectableRow) (r row, err error) {
	var args, kwargs string
	var key, text, result *string
	var runAt, beat, finished *time.Time
	j := new(pinion.Job)
	err = found.Scan(&r.seq, &j.ID, &j.Task, &args, &kwargs, &j.Queue, &j.Priority, &runAt, &key, &j.Status, &j.Attempts, &j.Claim,
		&j.CreatedAt, &beat, &finished, &text, &result, &j.Worker, &j.Canceled)
	if err != nil {
		return r, err
	}
	j.CreatedAt, j.RunAt, j.HeartbeatAt, j.FinishedAt = j.CreatedAt.UTC(), timeOf(runAt), timeOf(beat), timeOf(finished)
	if key != nil {
		j.Key = *key
	}
	if text != nil {
		j.Error = *text
	}
	if result != nil {
		j.Result = json.RawMessage(*result)
	}
	if r.unreadable = j.DecodeArgs(args, kwargs); r.unreadable != nil {
		shown, _ := json.Marshal(args + " " + kwargs)
		j.Args, j.Kwargs = []any{json.RawMessage(shown)}, nil
	}
	r.job = j
	return r, nil
}

// ---- The end of a claim ----

// claim names one in what a statement returns.
type claim struct {
	id              string
	claim, attempts int64
}

func claimOf(job *pinion.Job) claim { return claim{text(job.ID), job.Claim, int64(job.Attempts)} }

// claimsOf are the columns of the jobs handed in, by id, so that two statements over the same jobs lock them in one order.
func claimsOf(jobs []*pinion.Job) (args []any, order []*pinion.Job) {
	order = slices.SortedFunc(slices.Values(jobs), func(a, b *pinion.Job) int { return cmp.Compare(a.ID, b.ID) })
	ids, claims, attempts := make([]string, len(jobs)), make([]int64, len(jobs)), make([]int64, len(jobs))
	for i, job := range order {
		ids[i], claims[i], attempts[i] = text(job.ID), job.Claim, int64(job.Attempts)
	}
	return []any{ids, claims, attempts}, order
}

// collect reads what the statements over claims return: each as it was handed in, and whether it was canceled.
func collect(found pgx.Rows, into map[claim]bool) error {
	var c claim
	var canceled bool
	_, err := pgx.ForEachRow(found, []any{&c.id, &c.claim, &c.attempts, &canceled}, func() error { into[c] = canceled; return nil })
	return err
}

// settle runs a statement over the jobs that are still under their claims, and returns the others, and those that it
// ended as canceled. A try after one that may have been committed also takes for its own what then looks as that would
// have left it: settled is the status.
func (s *Storage) settle(ctx context.Context, name, sql string, settled pinion.Status, jobs []*pinion.Job, args ...any) (lost, canceled []*pinion.Job, err error) {
	var ours map[claim]bool
	err = s.write(ctx, name, func(ctx context.Context, conn *pgx.Conn, again bool) error {
		ours = make(map[claim]bool, len(jobs))
		if len(jobs) == 0 {
			return nil
		}
		if again && settled != "" {
			found, _ := conn.Query(ctx, s.sql.settled, args[0], args[1], args[2], settled)
			if err := collect(found, ours); err != nil {
				return err
			}
		}
		found, _ := conn.Query(ctx, sql, args...)
		return collect(found, ours)
	})
	if err != nil {
		return nil, nil, err
	}
	for _, job := range jobs {
		c := claimOf(job)
		if end, held := ours[c]; !held {
			lost = append(lost, job)
		} else if end {
			canceled = append(canceled, job)
		}
		if sql != s.sql.beat {
			delete(ours, c) // who comes twice has lost it the second time
		}
	}
	return lost, canceled, nil
}

// ofOne is for the verbs that take one job, where a lost or canceled one is an error.
func ofOne(lost, canceled []*pinion.Job, err error) error {
	if len(lost) > 0 {
		return fmt.Errorf("%w: job %s", pinion.ErrLeaseLost, lost[0].ID)
	}
	if len(canceled) > 0 {
		return fmt.Errorf("%w: job %s", pinion.ErrCanceled, canceled[0].ID)
	}
	return err
}

// MarkDone records success; see [pinion.Storage].
func (s *Storage) MarkDone(ctx context.Context, jobs ...*pinion.Job) (lost []*pinion.Job, err error) {
	args, order := claimsOf(jobs)
	results := make([]*string, len(jobs))
	for i, job := range order {
		if job.Result != nil && json.Valid(job.Result) {
			results[i] = new(string(job.Result))
		}
	}
	lost, _, err = s.settle(ctx, "mark done", s.sql.done, pinion.StatusSuccess, jobs, append(args, results)...)
	return lost, err
}

// MarkFailed records a failure that is to be retried; see [pinion.Storage].
func (s *Storage) MarkFailed(ctx context.Context, job *pinion.Job, cause error, retryAt time.Time) error {
	jobs := []*pinion.Job{job}
	args, _ := claimsOf(jobs)
	err := ofOne(s.settle(ctx, "mark failed", s.sql.failed, pinion.StatusPending, jobs, append(args, pinion.ErrorText(cause), timeOrNull(retryAt))...))
	if err == nil {
		s.ring()
	}
	return err
}

// DeadLetter gives a job up; see [pinion.Storage].
func (s *Storage) DeadLetter(ctx context.Context, job *pinion.Job, cause error) error {
	attempts := job.Attempts
	if errors.Is(cause, pinion.ErrAttemptsUsedUp) { // the job was not run under this claim
		attempts--
	}
	return s.bury(ctx, job, cause, attempts)
}

func (s *Storage) bury(ctx context.Context, job *pinion.Job, cause error, attempts int) error {
	jobs := []*pinion.Job{job}
	args, _ := claimsOf(jobs)
	return ofOne(s.settle(ctx, "dead-letter", s.sql.letter, pinion.StatusFailed, jobs, append(args, pinion.ErrorText(cause), attempts)...))
}

// Heartbeat prolongs claims; see [pinion.Storage].
func (s *Storage) Heartbeat(ctx context.Context, jobs ...*pinion.Job) (lost []*pinion.Job, err error) {
	args, _ := claimsOf(jobs)
	lost, _, err = s.settle(ctx, "heartbeat", s.sql.beat, "", jobs, args...)
	return lost, err
}

// Release gives claims back; see [pinion.Storage].
func (s *Storage) Release(ctx context.Context, at time.Time, cause error, jobs ...*pinion.Job) (lost, canceled []*pinion.Job, err error) {
	args, _ := claimsOf(jobs)
	var failure *string
	if cause != nil {
		failure = new(pinion.ErrorText(cause))
	}
	lost, canceled, err = s.settle(ctx, "release", s.sql.release, pinion.StatusPending, jobs, append(args, timeOrNull(at), failure)...)
	if err == nil {
		s.ring()
	}
	return lost, canceled, err
}

// Cancel tells jobs to end; see [pinion.Canceler].
func (s *Storage) Cancel(ctx context.Context, ids ...string) (ended, asked []string, err error) {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = text(id)
	}
	waits := make(map[string]bool) // the others run
	err = s.write(ctx, "cancel", func(ctx context.Context, conn *pgx.Conn, _ bool) error {
		found, _ := conn.Query(ctx, s.sql.cancel, names)
		var id string
		var waited bool
		_, err := pgx.ForEachRow(found, []any{&id, &waited}, func() error { waits[id] = waited; return nil })
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	for _, id := range ids {
		if waited, found := waits[id]; waited {
			ended = append(ended, id)
			delete(waits, id) // a second time there is nothing to end, but what runs may be asked again
		} else if found {
			asked = append(asked, id)
		}
	}
	return ended, asked, nil
}

// Canceled tells which jobs have been asked to end; see [pinion.Canceler].
func (s *Storage) Canceled(ctx context.Context, jobs ...*pinion.Job) (canceled []*pinion.Job, err error) {
	args, _ := claimsOf(jobs)
	var found map[claim]bool
	err = s.read(ctx, "canceled", func(ctx context.Context, conn *pgx.Conn, _ bool) error {
		found = make(map[claim]bool)
		rows, _ := conn.Query(ctx, s.sql.canceled, args...)
		return collect(rows, found)
	})
	for _, job := range jobs {
		if found[claimOf(job)] {
			canceled = append(canceled, job)
		}
	}
	return canceled, err
}

// ReapStale takes back lost leases (see [pinion.Storage]) and prunes some of what was finished longer ago than Retention.
func (s *Storage) ReapStale(ctx context.Context, visibility time.Duration) (reaped int, err error) {
	called := time.Now()
	visibility = max(visibility, 0)
	err = s.write(ctx, "reap", func(ctx context.Context, conn *pgx.Conn, _ bool) error {
		// Since the call, heartbeats may have waited for a connection as this has.
		tag, err := conn.Exec(ctx, s.sql.stale, interval(visibility), interval(visibility+time.Since(called)))
		reaped += int(tag.RowsAffected())
		return err
	})
	if err != nil {
		return 0, err
	}
	if reaped > 0 {
		s.ring()
	}
	return reaped, s.pruneOld(ctx)
}

// ---- Values ----

// microTime cuts a time to what the server keeps.
func microTime(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

func timeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return new(microTime(t))
}

func timeOf(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

func interval(d time.Duration) pgtype.Interval {
	return pgtype.Interval{Microseconds: d.Microseconds(), Valid: true}
}
