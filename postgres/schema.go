package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// migrations bring the schema from each version to the next, in one transaction. They are only ever appended to. An @
// stands for the schema's name.
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

// inSchema puts the quoted name in the place of each @.
func inSchema(schema, sql string) string {
	return strings.ReplaceAll(sql, "@", pgx.Identifier{schema}.Sanitize()+".")
}

// migrate creates the tables, or brings them up to date. Processes that open at once take turns.
func (s *Storage) migrate(ctx context.Context) error {
	return s.read(ctx, "migrate", func(ctx context.Context, conn *pgx.Conn, _ bool) error {
		version, err := s.version(ctx, conn)
		if err != nil || version == len(migrations) {
			return err // mostly; then no right but to read is needed
		}
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1::text, 0))`, "pinion: migrate "+s.opts.Schema); err != nil {
				return err
			}
			version, err := s.version(ctx, tx)
			if err != nil || version == len(migrations) {
				return err
			}
			var script strings.Builder
			if version == 0 {
				var there bool // CREATE SCHEMA IF NOT EXISTS wants the right to create also when it has nothing to do
				if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname=$1::text)`, s.opts.Schema).Scan(&there); err != nil {
					return err
				}
				if !there {
					fmt.Fprintf(&script, "CREATE SCHEMA %s;", pgx.Identifier{s.opts.Schema}.Sanitize())
				}
				script.WriteString(`CREATE TABLE @pinion_version (version integer NOT NULL); INSERT INTO @pinion_version VALUES (0);`)
			}
			for _, m := range migrations[version:] {
				script.WriteString(m)
			}
			fmt.Fprintf(&script, "UPDATE @pinion_version SET version=%d", len(migrations))
			_, err = tx.Conn().PgConn().Exec(ctx, inSchema(s.opts.Schema, script.String())).ReadAll()
			return err
		})
	})
}

// version is that of the tables that are there, 0 if there are none.
func (s *Storage) version(ctx context.Context, q interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}) (version int, err error) {
	var ours, others bool
	// By the tables of the catalogue: to_regclass may say what was true before the wait for the lock.
	err = q.QueryRow(ctx, `SELECT coalesce(bool_or(relname='pinion_version'), false), coalesce(bool_or(relname='jobs'), false)
		FROM pg_catalog.pg_class WHERE relname IN ('pinion_version', 'jobs')
		AND relnamespace=(SELECT oid FROM pg_catalog.pg_namespace WHERE nspname=$1::text)`, s.opts.Schema).Scan(&ours, &others)
	switch {
	case err != nil:
		return 0, err
	case !ours && others:
		return 0, fmt.Errorf("the table %s belongs to another program; give the queue a schema of its own", pgx.Identifier{s.opts.Schema, "jobs"}.Sanitize())
	case !ours:
		return 0, nil
	}
	err = q.QueryRow(ctx, inSchema(s.opts.Schema, `SELECT version FROM @pinion_version`)).Scan(&version)
	if err == nil && version > len(migrations) {
		err = fmt.Errorf("its tables are of version %d, from a newer Pinion; this one knows %d: update this program", version, len(migrations))
	}
	if errors.Is(err, pgx.ErrNoRows) {
		err = errors.New("the table pinion_version is empty")
	}
	return version, err
}
