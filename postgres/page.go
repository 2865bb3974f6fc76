package postgres

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/rules"
)

// pendingSQL selects the PENDING jobs, of all queues or of $1, by their indexes.
const pendingSQL = `
	SELECT j.seq FROM @jobs j WHERE ` + isReadySQL + ` AND ($1='' OR j.queue=$1) UNION ALL
	SELECT j.seq FROM @jobs j WHERE ` + isAsideSQL + ` AND ($1='' OR j.queue=$1) UNION ALL
	SELECT j.seq FROM @jobs j WHERE j.status='PENDING' AND j.future AND ($1='' OR j.queue=$1)`

// listing is what a page is a part of.
type listing struct {
	number string // by which it is ordered
	only   string // a condition
}

var (
	allJobs     = listing{"j.seq", "true"}
	deadLetters = listing{"j.dead", "j.dead IS NOT NULL"}
)

// JobsPage implements [pinion.Inspector]. Where the PENDING jobs are the ones that come next, a look at the jobs in
// their order finds a page of them soonest; else an index finds them, if they are few.
func (s *Storage) JobsPage(ctx context.Context, f pinion.Filter, from int64) (page pinion.Page, err error) {
	err = s.browse(ctx, "list", func(ctx context.Context, conn *pgx.Conn) error {
		page, err = s.readPage(ctx, conn, allJobs, where(f, "j.created_at", nil), f, from, isNarrow(f))
		hasLookedInVain := err == nil && page.Next != 0 && len(page.Jobs) < rules.PageSize(f.Limit)
		if !hasLookedInVain || f.Status != pinion.StatusPending || isNarrow(f) {
			return err
		}
		seqs, err := s.fewPending(ctx, conn, f.Queue)
		if err != nil || seqs == nil {
			return err
		}
		c := where(f, "j.created_at", nil)
		c.bind("j.seq=ANY($%d::bigint[])", seqs)
		page, err = s.readPage(ctx, conn, allJobs, c, f, from, true)
		return err
	})
	return page, err
}

// DeadLettersPage implements [pinion.Inspector].
func (s *Storage) DeadLettersPage(ctx context.Context, f pinion.Filter, from int64) (page pinion.Page, err error) {
	f.Status = ""
	err = s.browse(ctx, "list", func(ctx context.Context, conn *pgx.Conn) error {
		page, err = s.readPage(ctx, conn, deadLetters, where(f, "j.finished_at", nil), f, from, isNarrow(f))
		return err
	})
	return page, err
}

// fewPending returns the numbers of the PENDING jobs of a queue, or of all if that is "". It returns nil if they are so
// many that a look at all jobs in their order finds some soon.
func (s *Storage) fewPending(ctx context.Context, conn *pgx.Conn, queue string) ([]int64, error) {
	rows, _ := conn.Query(ctx, s.sql(pendingSQL+fmt.Sprint(" LIMIT ", rules.PageLook+1)), nameOrNone(queue))
	seqs, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if len(seqs) > rules.PageLook {
		return nil, err
	}
	return seqs, err
}

// readPage reads a part of a listing. Where an index finds the rows that match, it sorts them. Otherwise it looks at a
// number of rows, in their order.
func (s *Storage) readPage(
	ctx context.Context, conn *pgx.Conn, l listing, c conditions, f pinion.Filter, from int64, narrow bool,
) (pinion.Page, error) {
	r, err := s.newPageReader(ctx, conn, l, c, f, from)
	if err == nil && narrow {
		err = r.readRange(ctx, l.number+"+0", r.last, r.order.End)
	} else if err == nil {
		err = r.look(ctx)
	}
	if err != nil {
		return pinion.Page{}, err
	}
	return r.page, nil
}

// pageReader reads a page.
type pageReader struct {
	s      *Storage
	conn   *pgx.Conn
	l      listing
	c      conditions
	f      pinion.Filter
	order  rules.Order
	page   pinion.Page
	last   int64 // the number of the last row that was read, from which the page goes on
	size   int   // of what was read, in bytes
	isFull bool
}

// newPageReader returns the reader of the page behind the number from. If that is 0, it queries where the listing
// begins.
func (s *Storage) newPageReader(
	ctx context.Context, conn *pgx.Conn, l listing, c conditions, f pinion.Filter, from int64,
) (*pageReader, error) {
	r := &pageReader{s: s, conn: conn, l: l, c: c, f: f, order: rules.OrderOf(f.Newest), last: from}
	if from != 0 {
		return r, nil
	}
	first := "coalesce(min(%[1]s), 1)-1"
	if f.Newest {
		first = "coalesce(max(%[1]s), 0)+1"
	}
	err := conn.QueryRow(ctx, inSchema(s.opts.Schema,
		fmt.Sprintf(`SELECT `+first+` FROM @jobs j WHERE %[2]s`, l.number, l.only))).Scan(&r.last)
	return r, err
}

// look reads what matches among the next rules.PageLook rows. It first reads the next PageLook row numbers: they hold
// at most as many rows, and often fill the page. Only then does it look for the last of the PageLook rows, which takes
// longer.
func (r *pageReader) look(ctx context.Context) error {
	start := r.last
	near := r.order.NearEnd(start)
	err := r.readRange(ctx, r.l.number, start, near)
	if err != nil || r.isFull {
		return err
	}
	end, err := r.s.endOfLook(ctx, r.conn, r.l, r.order, start, rules.PageLook)
	if err != nil {
		return err
	}
	if end == 0 {
		return r.readRange(ctx, r.l.number, near, r.order.End)
	}
	err = r.readRange(ctx, r.l.number, near, end)
	if !r.isFull {
		r.page.Next = end
	}
	return err
}

// readRange reads the rows that match between two numbers, until the page is full: not the one with the number behind,
// but the one with last.
func (r *pageReader) readRange(ctx context.Context, number string, behind, last int64) error {
	limit := rules.PageSize(r.f.Limit)
	c := r.c
	c.args = slices.Clone(c.args)
	c.args[0] = behind
	c.bind(number+r.order.UpTo+"$%d::bigint", last)
	rows, err := r.conn.Query(ctx, inSchema(r.s.opts.Schema, fmt.Sprintf(
		`SELECT %s, %s FROM @jobs j WHERE %s AND %s%s$1::bigint%s ORDER BY %s %s LIMIT %d`,
		r.l.number, jobColumns, r.l.only, number, r.order.After, c.sql, number, r.order.Direction,
		limit-len(r.page.Jobs)+1)), c.args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if len(r.page.Jobs) == limit || r.size > rules.PageBytes {
			r.page.Next = r.last
			r.isFull = true
			return nil
		}
		for _, value := range rows.RawValues() {
			r.size += len(value)
		}
		found, err := scanRow(rows)
		if err != nil {
			return err
		}
		r.last = found.number
		r.page.Jobs = append(r.page.Jobs, found.job)
	}
	return rows.Err()
}

// endOfLook returns the number of the last of those jobs that follow a number and that are looked at, or 0 if no more
// follow.
func (s *Storage) endOfLook(
	ctx context.Context, conn *pgx.Conn, l listing, order rules.Order, number int64, look int,
) (int64, error) {
	rows, _ := conn.Query(ctx, inSchema(s.opts.Schema, fmt.Sprintf(
		`SELECT %[1]s FROM @jobs j WHERE %[2]s AND %[1]s%[3]s$1::bigint ORDER BY %[1]s %[4]s LIMIT 2 OFFSET %[5]d`,
		l.number, l.only, order.After, order.Direction, look-1)), number)
	found, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil || len(found) < 2 {
		return 0, err
	}
	return found[0], nil
}

// letter is what the grouping needs of a dead letter.
type letter struct {
	number int64
	hash   rules.ErrorHash // of its error
}

// GroupDeadLetters implements [pinion.Inspector]. It reads a part at a time, so that no snapshot stays open for long.
func (s *Storage) GroupDeadLetters(
	ctx context.Context, f pinion.Filter, look int,
) (found pinion.LetterGroups, err error) {
	f.Status = ""
	var counter rules.ErrorGroups
	last := int64(math.MaxInt64)
	for left := look; ; left -= rules.PageLook {
		part := rules.PageLook
		if look > 0 {
			part = min(part, left)
		}
		letters, end, err := s.letters(ctx, f, last, part)
		if err != nil {
			return pinion.LetterGroups{}, err
		}
		for _, l := range letters {
			counter.Add(l.hash, l.number)
		}
		last = end
		found.More = end != 0
		if end == 0 || left == part {
			break
		}
	}
	found.Errors = counter.Errors()
	found.Letters = counter.Letters
	found.Groups, err = s.newestOf(ctx, counter.Largest(f.Limit))
	if err != nil {
		return pinion.LetterGroups{}, err
	}
	return found, nil
}

// letters returns those of the next letters before a number that match, and the number of the last that it looked at,
// or 0 if there are no more.
func (s *Storage) letters(
	ctx context.Context, f pinion.Filter, before int64, look int,
) (found []letter, end int64, err error) {
	err = s.browse(ctx, "group dead letters", func(ctx context.Context, conn *pgx.Conn) error {
		found = nil
		end, err = s.endOfLook(ctx, conn, deadLetters, rules.NewestFirst, before, look)
		if err != nil {
			return err
		}
		c := where(f, "j.finished_at", before, end)
		rows, _ := conn.Query(ctx, inSchema(s.opts.Schema, `SELECT j.dead, coalesce(j.error, '') FROM @jobs j
			WHERE j.dead IS NOT NULL AND j.dead<$1::bigint AND j.dead>=$2::bigint`+c.sql), c.args...)
		var number int64
		var text string
		_, err := pgx.ForEachRow(rows, []any{&number, &text}, func() error {
			found = append(found, letter{number, rules.HashError(text)})
			return nil
		})
		return err
	})
	return found, end, err
}

// newestOf returns the groups with their newest letters. It leaves out those whose newest letter is gone.
func (s *Storage) newestOf(ctx context.Context, groups []*rules.ErrorGroup) (all []pinion.LetterGroup, err error) {
	counts := make(map[int64]int)
	var numbers []int64
	for _, g := range groups {
		counts[g.Newest] = g.Count
		numbers = append(numbers, g.Newest)
	}
	err = s.browse(ctx, "group dead letters", func(ctx context.Context, conn *pgx.Conn) error {
		all = nil
		found, err := collectRows(conn.Query(ctx, s.sql(`SELECT j.dead, `+jobColumns+` FROM @jobs j
			WHERE j.dead=ANY($1::bigint[]) ORDER BY array_position($1::bigint[], j.dead)`), numbers))
		for _, r := range found {
			all = append(all, pinion.LetterGroup{Count: counts[r.number], Newest: r.job})
		}
		return err
	})
	return all, err
}
