package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
)

// The yardstick: Pinion's statements in a loop on one connection, with nothing around them. There are no calls
// to answer, no goroutines, no encoding and no fencing beyond the SQL's own, so a queue that makes one
// transaction of what the loop makes one transaction of cannot be faster. It can by making fewer of them.

func rawPeers() []*peer {
	of := func(synchronous string) *peer {
		loops := make(map[string]loop)
		for name, l := range map[string]func(*rawConn, int){
			"enqueue1": (*rawConn).enqueue, "batch": (*rawConn).batch, "drain": (*rawConn).drain,
			"mixed": (*rawConn).mixed,
		} {
			loops[name] = func(ctx context.Context, dir string, n int) (time.Duration, error) {
				return rawLoop(ctx, dir, synchronous, n, name, l)
			}
		}
		return &peer{
			name: "raw-" + synchronous, loops: loops, files: "pinion",
			about: "Pinion's SQL in a loop on one connection, synchronous=" + synchronous + "; no queue around it",
			open: func(ctx context.Context, dir string) (queue, error) {
				q, err := openPinion(ctx, dir, synchronous)
				return rawQueue{q, dir, synchronous}, err
			},
		}
	}
	return []*peer{of("FULL"), of("NORMAL")}
}

// loop does n jobs in a folder and tells how long they took.
type loop func(ctx context.Context, dir string, n int) (time.Duration, error)

func rawLoop(
	ctx context.Context, dir, synchronous string, n int, name string, l func(*rawConn, int),
) (took time.Duration, err error) {
	c, err := openRaw(ctx, dir, synchronous)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	start := time.Now()
	if l(c, n); c.err != nil {
		return 0, fmt.Errorf("raw loop: %w", c.err)
	}
	took = time.Since(start)
	status := "SUCCESS"
	if name == "enqueue1" || name == "batch" {
		status = "PENDING"
	}
	var rows, others int
	err = c.conn.QueryRowContext(ctx, `SELECT count(*) FILTER (WHERE status=?1), count(*) FILTER (WHERE status<>?1) FROM jobs`,
		status).Scan(&rows, &others)
	if err == nil && (rows != n || others != 0) {
		err = fmt.Errorf("raw loop: %d jobs are %s and %d something else; %d were to be", rows, status, others, n)
	}
	return took, err
}

// rawConn keeps the first error, after which its statements do nothing.
type rawConn struct {
	ctx    context.Context
	db     *sql.DB
	conn   *sql.Conn
	stmts  map[string]*sql.Stmt
	err    error
	number int // of the next job
}

func openRaw(ctx context.Context, dir, synchronous string) (*rawConn, error) {
	s, err := pinion.OpenSQLite(ctx, queueFile(dir), nil) // for its schema
	if err == nil {
		err = s.Close()
	}
	if err != nil {
		return nil, err
	}
	db, err := openFile(pureGo, dir, "_pragma=journal_mode(WAL)&_pragma=synchronous("+synchronous+")")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &rawConn{ctx: ctx, db: db, conn: conn, stmts: make(map[string]*sql.Stmt)}, nil
}

func (c *rawConn) close() error {
	for _, stmt := range c.stmts {
		stmt.Close()
	}
	return errors.Join(c.conn.Close(), c.db.Close())
}

func (c *rawConn) stmt(query string) *sql.Stmt {
	stmt := c.stmts[query]
	if stmt == nil && c.err == nil {
		stmt, c.err = c.conn.PrepareContext(c.ctx, query)
		if c.err == nil {
			c.stmts[query] = stmt
		}
	}
	return stmt
}

func (c *rawConn) exec(query string, args ...any) {
	if stmt := c.stmt(query); c.err == nil {
		_, c.err = stmt.Exec(args...)
	}
}

func (c *rawConn) transaction(body func()) {
	c.exec("BEGIN IMMEDIATE")
	body()
	c.exec("COMMIT")
}

func (c *rawConn) insert() {
	now := seconds()
	c.exec(`INSERT INTO jobs (id, func_name, args, kwargs, status, attempts, created_at, queue, priority, run_at, key,
			key_until_start, meta, future)
		VALUES (?, ?, ?, ?, 'PENDING', 0, ?, ?, ?, ?, ?, ?, ?, ?)`,
		pinion.NewID(), "task", `["`+payload(c.number)+`"]`, "{}", now, "default", 0, 0.0, nil, false, nil, false)
	c.number++
}

type claimed struct {
	rowid    int64
	id       string
	claim    int64
	attempts int64
}

// claim takes up to limit jobs. The SELECT has no LIMIT: one that is bound would be prepared anew each time.
func (c *rawConn) claim(limit int) (jobs []claimed) {
	stmt := c.stmt(`SELECT rowid, id, func_name, args, kwargs, status, attempts, created_at, error, heartbeat_at, queue, priority,
		run_at, key, claim, finished_at, result FROM jobs INDEXED BY jobs_ready3
		WHERE status='PENDING' AND future=0 AND aside=0 AND queue=? ORDER BY priority DESC, rowid`)
	if c.err != nil {
		return nil
	}
	rows, err := stmt.Query("default")
	if err != nil {
		c.err = err
		return nil
	}
	var j claimed
	var rest [13]any
	for len(jobs) < limit && rows.Next() {
		c.err = rows.Scan(&j.rowid, &j.id, &rest[0], &rest[1], &rest[2], &rest[3], &j.attempts, &rest[4], &rest[5],
			&rest[6], &rest[7], &rest[8], &rest[9], &rest[10], &j.claim, &rest[11], &rest[12])
		if c.err != nil {
			break
		}
		jobs = append(jobs, j)
	}
	c.err = errors.Join(c.err, rows.Err(), rows.Close())
	const perStatement = 8
	token := time.Now().UnixMicro()
	for from := 0; from < len(jobs); from += perStatement {
		args := make([]any, 0, 4+perStatement)
		args = append(args, token, float64(token)/1e6, "raw", 10.0)
		for i := range perStatement {
			args = append(args, jobs[min(from+i, len(jobs)-1)].rowid)
		}
		c.exec(`UPDATE jobs SET status='RUNNING', attempts=attempts+1, claim=max(claim+1, ?), heartbeat_at=?, worker=?,
				lease=?, doubted_at=NULL, started_at=NULL, result=NULL, aside=0,
				key_until_start=iif(key_until_start=1, 2, key_until_start)
			WHERE rowid IN (?`+strings.Repeat(", ?", perStatement-1)+`)`, args...)
	}
	for i := range jobs {
		jobs[i].attempts++
		jobs[i].claim = max(jobs[i].claim+1, token)
	}
	return jobs
}

func (c *rawConn) finish(jobs []claimed) {
	if len(jobs) == 0 {
		return
	}
	now := seconds()
	for _, j := range jobs {
		c.exec(`UPDATE jobs SET status='SUCCESS', finished_at=?, result=?, lease=0, doubted_at=NULL, started_at=NULL
			WHERE id=? AND status='RUNNING' AND claim=? AND attempts=?`,
			now, nil, j.id, j.claim, j.attempts)
	}
	c.exec(`INSERT INTO pinion_ends (at, queue, task, succeeded, took) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (at, queue, task) DO UPDATE SET succeeded=succeeded+excluded.succeeded, took=took+excluded.took`,
		int64(now)/60*60, "default", "task", len(jobs), 0.001)
}

// enqueue is one job a transaction.
func (c *rawConn) enqueue(n int) {
	for range n {
		c.transaction(c.insert)
	}
}

// batch is a thousand jobs a transaction, one a statement.
func (c *rawConn) batch(n int) {
	for n > 0 {
		c.transaction(func() {
			for range min(n, 1000) {
				c.insert()
			}
		})
		n -= 1000
	}
}

// drain finishes a thousand jobs and claims the next in each transaction: what was claimed must have been
// committed before it runs.
func (c *rawConn) drain(int) {
	for held := []claimed(nil); c.err == nil; {
		c.transaction(func() {
			c.finish(held)
			held = c.claim(1000)
		})
		if len(held) == 0 {
			return
		}
	}
}

// mixed inserts four jobs, claims four and finishes the four claimed before in each transaction.
func (c *rawConn) mixed(n int) {
	var held []claimed
	for i := 0; (i < n || len(held) > 0) && c.err == nil; i += 4 {
		c.transaction(func() {
			for range min(4, n-i) {
				c.insert()
			}
			c.finish(held)
			held = c.claim(4)
		})
	}
}

func seconds() float64 { return float64(time.Now().UnixMicro()) / 1e6 }

// rawQueue is Pinion, for preparing the files, with the settings of the loop's own connection.
type rawQueue struct {
	queue
	dir, synchronous string
}

func (q rawQueue) settings(ctx context.Context) (settings []string, err error) {
	c, err := openRaw(ctx, q.dir, q.synchronous)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	return settingsOf(ctx, c.conn)
}
