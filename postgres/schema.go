package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion"
)

// migrations bring the schema from each version to the next, all in one transaction. Append to them; never change one.
// An @ before a name stands for the schema.
var migrations = []string{`
CREATE TABLE @jobs (
	seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- the order of insertion
	claim bigint NOT NULL DEFAULT 0,
	grab bigint NOT NULL DEFAULT 0, -- the call that claimed it
	priority bigint NOT NULL DEFAULT 0,
	created_at timestamptz NOT NULL DEFAULT statement_timestamp(),
	run_at timestamptz,
	heartbeat_at timestamptz,
	finished_at timestamptz,
	dead bigint, -- its place in the dead-letter queue
	attempts integer NOT NULL DEFAULT 0,
	reaped integer NOT NULL DEFAULT 0, -- how often
	canceled boolean NOT NULL DEFAULT false,
	future boolean NOT NULL DEFAULT false, -- not ready before run_at; an index cannot look at the clock
	status text COLLATE "C" NOT NULL DEFAULT 'PENDING',
	id text COLLATE "C" NOT NULL DEFAULT replace(gen_random_uuid()::text, '-', ''),
	task text COLLATE "C" NOT NULL,
	queue text COLLATE "C" NOT NULL DEFAULT 'default',
	key text COLLATE "C",
	args text NOT NULL DEFAULT '[]', -- JSON as it was given: json would look at it again, jsonb would change it
	kwargs text NOT NULL DEFAULT '{}',
	worker text NOT NULL DEFAULT '',
	error text,
	result text
) WITH (fillfactor=90, autovacuum_vacuum_scale_factor=0.01, autovacuum_vacuum_threshold=5000, autovacuum_analyze_scale_factor=0.05);
CREATE SEQUENCE @dead_letters;
CREATE UNIQUE INDEX jobs_id ON @jobs(id);
CREATE UNIQUE INDEX jobs_key ON @jobs(key) WHERE key IS NOT NULL AND status IN ('PENDING', 'RUNNING');
-- The orders of claims: of all queues, and of one.
CREATE INDEX jobs_ready ON @jobs(priority DESC, seq) WHERE status='PENDING' AND NOT future;
CREATE INDEX jobs_ready_in_queue ON @jobs(queue, priority DESC, seq) WHERE status='PENDING' AND NOT future;
CREATE INDEX jobs_future ON @jobs(run_at) WHERE status='PENDING' AND future;
CREATE INDEX jobs_running ON @jobs(grab) WHERE status='RUNNING';
CREATE INDEX jobs_finished ON @jobs(finished_at) WHERE status IN ('SUCCESS', 'FAILED') AND dead IS NULL;
CREATE INDEX jobs_dead ON @jobs(dead) WHERE dead IS NOT NULL;
`, `
ALTER TABLE @jobs
	ADD COLUMN folded text COLLATE "C", -- the task without regard to case, where that is not lower(task); see fold
	ADD COLUMN meta text,
	ADD COLUMN key_until_start smallint NOT NULL DEFAULT 0, -- 1: it holds its key until it starts; 2: it has started
	ADD COLUMN aside boolean NOT NULL DEFAULT false, -- ready, and out of the way of workers that do not know the task
	ADD COLUMN lease interval,
	ADD COLUMN doubted_at timestamptz, -- a reaper found the lease expired
	ADD COLUMN started_at timestamptz;
CREATE TABLE @limits (
	queue text COLLATE "C" PRIMARY KEY,
	most integer NOT NULL
);
-- Each statement that ends jobs adds rows, so that statements do not wait for each other. Reaping merges them.
CREATE TABLE @ends (
	at timestamptz NOT NULL, -- the second, then the minute, then the hour
	queue text COLLATE "C" NOT NULL,
	task text COLLATE "C" NOT NULL,
	succeeded bigint NOT NULL,
	failed bigint NOT NULL,
	took interval NOT NULL,
	span smallint NOT NULL DEFAULT 0 -- what at is: 0 a second, 1 a minute, 2 an hour
) WITH (autovacuum_vacuum_scale_factor=0.01, autovacuum_vacuum_threshold=5000);
CREATE INDEX ends_at ON @ends(span, at);
ALTER TABLE @pinion_version ADD COLUMN id text NOT NULL DEFAULT gen_random_uuid()::text; -- tells this queue from others
DROP INDEX @jobs_key, @jobs_ready, @jobs_ready_in_queue, @jobs_running;
CREATE UNIQUE INDEX jobs_key2 ON @jobs(key)
	WHERE key IS NOT NULL AND status IN ('PENDING', 'RUNNING') AND key_until_start<2;
CREATE INDEX jobs_by_key ON @jobs(key) WHERE key IS NOT NULL; -- for whoever looks for a key
CREATE INDEX jobs_ready2 ON @jobs(priority DESC, seq) WHERE status='PENDING' AND NOT future AND NOT aside;
CREATE INDEX jobs_ready_in_queue2 ON @jobs(queue, priority DESC, seq) WHERE status='PENDING' AND NOT future AND NOT aside;
CREATE INDEX jobs_aside ON @jobs((coalesce(folded, lower(task))), priority DESC, seq)
	WHERE status='PENDING' AND NOT future AND aside;
CREATE INDEX jobs_aside_in_queue ON @jobs(queue, (coalesce(folded, lower(task))), priority DESC, seq)
	WHERE status='PENDING' AND NOT future AND aside;
CREATE INDEX jobs_future_by_priority ON @jobs(priority DESC, run_at) WHERE status='PENDING' AND future;
CREATE INDEX jobs_running2 ON @jobs(queue) WHERE status='RUNNING';
`}

// identitySQL tells this queue from any other: another schema has another id, and so has another database, unless it is
// a copy, which has another name.
const identitySQL = `SELECT id || ' in ' || current_database() FROM @pinion_version`

// inSchema puts the quoted schema in the place of each @, and the text of ErrCanceled in that of @canceled.
func inSchema(schema, sql string) string {
	prefix := pgx.Identifier{schema}.Sanitize() + "."
	return strings.NewReplacer("@canceled", pinion.ErrCanceled.Error(), "@", prefix).Replace(sql)
}

// migrate creates the tables, or brings them up to date. Processes that open at once take turns.
func (s *Storage) migrate(ctx context.Context) error {
	return s.read(ctx, "migrate", func(ctx context.Context, conn *pgx.Conn) error {
		version, err := s.version(ctx, conn)
		if err != nil {
			return err
		}
		if version < len(migrations) { // rarely; then more rights are needed than to read and write
			err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return s.migrateIn(ctx, tx) })
			if err != nil {
				return err
			}
		}
		return conn.QueryRow(ctx, s.sql(identitySQL)).Scan(&s.identity)
	})
}

func (s *Storage) migrateIn(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1::text, 0))`,
		"pinion: migrate "+s.opts.Schema)
	if err != nil {
		return err
	}
	version, err := s.version(ctx, tx) // another process may have migrated meanwhile
	if err != nil || version == len(migrations) {
		return err
	}
	script := ""
	if version == 0 {
		script, err = s.creation(ctx, tx)
		if err != nil {
			return err
		}
	}
	script += strings.Join(migrations[version:], "")
	script += fmt.Sprintf("UPDATE @pinion_version SET version=%d", len(migrations))
	_, err = tx.Conn().PgConn().Exec(ctx, inSchema(s.opts.Schema, script)).ReadAll()
	if err == nil && version == 1 {
		err = s.foldTasks(ctx, tx)
	}
	return err
}

// foldTasks fills the column folded for jobs of version 1.
func (s *Storage) foldTasks(ctx context.Context, tx pgx.Tx) error {
	rows, _ := tx.Query(ctx, s.sql(`SELECT DISTINCT task FROM @jobs WHERE task ~ '[^\x01-\x7f]'`))
	tasks, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, task := range tasks {
		_, err := tx.Exec(ctx, s.sql(`UPDATE @jobs SET folded=$2 WHERE task=$1`), task, foldedOrNull(task))
		if err != nil {
			return err
		}
	}
	return nil
}

// creation returns the SQL that makes version 0: the schema, if it is missing, and the table with the version. CREATE
// SCHEMA IF NOT EXISTS would need the right to create a schema even if there is one.
func (s *Storage) creation(ctx context.Context, tx pgx.Tx) (script string, err error) {
	var exists bool
	err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname=$1::text)`, s.opts.Schema).
		Scan(&exists)
	if err != nil {
		return "", err
	}
	if !exists {
		script = fmt.Sprintf("CREATE SCHEMA %s;", pgx.Identifier{s.opts.Schema}.Sanitize())
	}
	script += `CREATE TABLE @pinion_version (version integer NOT NULL); INSERT INTO @pinion_version VALUES (0);`
	return script, nil
}

// version returns the version of the tables, 0 if there are none.
func (s *Storage) version(ctx context.Context, q querier) (version int, err error) {
	var ours, others bool
	// From the catalogue: to_regclass may return what was true before the wait for the lock.
	err = q.QueryRow(ctx, `
		SELECT coalesce(bool_or(relname='pinion_version'), false), coalesce(bool_or(relname='jobs'), false)
		FROM pg_catalog.pg_class WHERE relname IN ('pinion_version', 'jobs')
			AND relnamespace=(SELECT oid FROM pg_catalog.pg_namespace WHERE nspname=$1::text)`, s.opts.Schema).
		Scan(&ours, &others)
	if err != nil {
		return 0, err
	}
	if !ours && others {
		return 0, fmt.Errorf("the table %s belongs to another program; give the queue a schema of its own",
			pgx.Identifier{s.opts.Schema, "jobs"}.Sanitize())
	}
	if !ours {
		return 0, nil
	}
	err = q.QueryRow(ctx, s.sql(`SELECT version FROM @pinion_version`)).Scan(&version)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, errors.New("the table pinion_version is empty; want one row")
	}
	if err != nil {
		return 0, err
	}
	if version > len(migrations) {
		return 0, fmt.Errorf("the tables have version %d, of a newer Pinion; this program knows %d: update it",
			version, len(migrations))
	}
	return version, nil
}
