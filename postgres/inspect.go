package postgres

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/rules"
)

const (
	// Three counts, because each has an index.
	countPendingSQL = `SELECT (SELECT count(*) FROM @jobs j WHERE ` + isReadySQL + `)
		+ (SELECT count(*) FROM @jobs j WHERE ` + isAsideSQL + `)
		+ (SELECT count(*) FROM @jobs WHERE status='PENDING' AND future)`
	getJobSQL = `SELECT j.seq, ` + jobColumns + ` FROM @jobs j WHERE id=$1`
)

// Size implements [pinion.Storage].
func (s *Storage) Size(ctx context.Context) (jobs int, err error) {
	err = s.read(ctx, "size", func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, s.sql(countPendingSQL)).Scan(&jobs)
	})
	return jobs, err
}

// Get implements [pinion.Inspector].
func (s *Storage) Get(ctx context.Context, id string) (*pinion.Job, error) {
	var found row
	err := s.read(ctx, "get", func(ctx context.Context, conn *pgx.Conn) (err error) {
		rows, _ := conn.Query(ctx, s.sql(getJobSQL), nameOrNone(id))
		found, err = pgx.CollectExactlyOneRow(rows, scanRow)
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("%w: %q", pinion.ErrNotFound, id)
	}
	return found.job, err
}

// conditions are a Filter as SQL.
type conditions struct {
	sql  string // each condition begins with AND
	args []any  // by their numbers in sql
}

// bind adds a condition, in which %d is the number of the argument.
func (c *conditions) bind(condition string, arg any) {
	c.args = append(c.args, arg)
	c.sql += " AND " + fmt.Sprintf(condition, len(c.args))
}

// bindText adds a condition about text. What is not text is found nowhere, and the server would refuse it.
func (c *conditions) bindText(condition, text string) {
	if !rules.IsText(text) {
		c.sql += " AND false"
		return
	}
	c.bind(condition, text)
}

// where returns a filter as SQL, whose arguments stand behind those given. After and Before are about the
// column when.
func where(f pinion.Filter, when string, args ...any) conditions {
	c := conditions{args: args}
	switch f.Status {
	case "":
	case pinion.StatusPending, pinion.StatusRunning, pinion.StatusSuccess, pinion.StatusFailed:
		c.sql += " AND j.status='" + string(f.Status) + "'" // a bound status would match no partial index
	default:
		c.sql += " AND false"
	}
	if f.IDs != nil {
		c.bind("j.id=ANY($%d::text[])", namesOrNone(f.IDs))
	}
	if f.Queue != "" {
		c.bindText("j.queue=$%d", f.Queue)
	}
	if f.Task != "" {
		c.bind(foldedSQL+"=$%d", fold(nameOrNone(f.Task)))
	}
	if f.Key != "" {
		c.bindText("j.key=$%d", f.Key)
	}
	if f.KeyPrefix != "" {
		c.bindText("starts_with(j.key, $%d)", f.KeyPrefix)
		c.bindText("j.key>=$%d", f.KeyPrefix) // which an index knows
	}
	if f.Text != "" {
		c.bindText("strpos(j.error, $%d)>0", f.Text)
	}
	if f.Error != "" {
		c.bindText(`split_part(coalesce(j.error, ''), E'\n\n', 1)=$%d`, rules.ErrorMessage(f.Error))
	}
	if !f.After.IsZero() {
		c.bind(when+">=$%d", rules.DueTime(f.After))
	}
	if !f.Before.IsZero() {
		c.bind(when+"<$%d", rules.DueTime(f.Before))
	}
	return c
}

// isNarrow reports whether only few jobs match, which an index finds.
func isNarrow(f pinion.Filter) bool {
	return f.Status == pinion.StatusRunning || f.IDs != nil || f.Key != "" || f.KeyPrefix != ""
}

const pageSize = 200 // jobs that a listing reads at a time

// Jobs implements [pinion.Inspector].
func (s *Storage) Jobs(ctx context.Context, f pinion.Filter) iter.Seq2[*pinion.Job, error] {
	return s.list(ctx, "j.seq", "true", where(f, "j.created_at", nil), f)
}

// DeadLetters implements [pinion.Inspector].
func (s *Storage) DeadLetters(ctx context.Context, f pinion.Filter) iter.Seq2[*pinion.Job, error] {
	f.Status = ""
	return s.list(ctx, "j.dead", "j.dead IS NOT NULL", where(f, "j.finished_at", nil), f)
}

// list reads pages in the order of a number, so that no snapshot stays open while the caller works. The last
// number that was read is the argument $1.
func (s *Storage) list(
	ctx context.Context, number, only string, c conditions, f pinion.Filter,
) iter.Seq2[*pinion.Job, error] {
	return func(yield func(*pinion.Job, error) bool) {
		order := number
		if isNarrow(f) {
			order += "+0" // few rows: find them by their own index and sort them
		}
		after, direction, last := ">", "", int64(math.MinInt64)
		if f.Newest {
			after, direction, last = "<", "DESC", math.MaxInt64
		}
		sql := inSchema(s.opts.Schema, fmt.Sprintf(
			`SELECT %s, %s FROM @jobs j WHERE %s AND %s%s$1::bigint%s ORDER BY %s %s LIMIT %d`,
			number, jobColumns, only, order, after, c.sql, order, direction, pageSize))
		args := slices.Clone(c.args) // a sequence may be ranged over again
		listed := 0
		for {
			args[0] = last
			page, err := s.page(ctx, sql, args)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, r := range page {
				listed++
				if !yield(r.job, nil) || listed == f.Limit {
					return
				}
			}
			if len(page) < pageSize {
				return
			}
			last = page[len(page)-1].number
		}
	}
}

func (s *Storage) page(ctx context.Context, sql string, args []any) (page []row, err error) {
	err = s.browse(ctx, "list", func(ctx context.Context, conn *pgx.Conn) error {
		page, err = collectRows(conn.Query(ctx, sql, args...))
		return err
	})
	return page, err
}
