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
`}

// inSchema puts the quoted schema in the place of each @, and the text of ErrCanceled in that of @canceled.
func inSchema(schema, sql string) string {
	prefix := pgx.Identifier{schema}.Sanitize() + "."
	return strings.NewReplacer("@canceled", pinion.ErrCanceled.Error(), "@", prefix).Replace(sql)
}

// migrate creates the tables, or brings them up to date. Processes that open at once take turns.
func (s *Storage) migrate(ctx context.Context) error {
	return s.read(ctx, "migrate", func(ctx context.Context, conn *pgx.Conn) error {
		version, err := s.version(ctx, conn)
		if err != nil || version == len(migrations) {
			return err // usually nothing is to do, and no right but to read is needed
		}
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return s.migrateIn(ctx, tx) })
	})
}

func (s *Storage) migrateIn(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1::text, 0))`, "pinion: migrate "+s.opts.Schema)
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
	script += strings.Join(migrations[version:], "") + fmt.Sprintf("UPDATE @pinion_version SET version=%d", len(migrations))
	_, err = tx.Conn().PgConn().Exec(ctx, inSchema(s.opts.Schema, script)).ReadAll()
	return err
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
	return script + `CREATE TABLE @pinion_version (version integer NOT NULL); INSERT INTO @pinion_version VALUES (0);`, nil
}

// version returns the version of the tables, 0 if there are none.
func (s *Storage) version(ctx context.Context, q querier) (version int, err error) {
	var ours, others bool
	// From the catalogue: to_regclass may return what was true before the wait for the lock.
	err = q.QueryRow(ctx, `
		SELECT coalesce(bool_or(relname='pinion_version'), false), coalesce(bool_or(relname='jobs'), false)
		FROM pg_catalog.pg_class WHERE relname IN ('pinion_version', 'jobs')
			AND relnamespace=(SELECT oid FROM pg_catalog.pg_namespace WHERE nspname=$1::text)`, s.opts.Schema).Scan(&ours, &others)
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
	err = q.QueryRow(ctx, inSchema(s.opts.Schema, `SELECT version FROM @pinion_version`)).Scan(&version)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, errors.New("the table pinion_version is empty; want one row")
	}
	if err != nil {
		return 0, err
	}
	if version > len(migrations) {
		return 0, fmt.Errorf("the tables have version %d, of a newer Pinion; this program knows %d: update it", version, len(migrations))
	}
	return version, nil
}
