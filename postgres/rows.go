package postgres

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/rules"
)

// jobColumns are the columns that scanRow reads, behind a number.
const jobColumns = `j.id, j.task, j.args, j.kwargs, j.queue, j.priority, j.run_at, j.key, j.key_until_start, j.meta,
	j.status, j.attempts, j.claim, j.worker, j.reaped, j.canceled, j.error, j.result,
	j.created_at, j.heartbeat_at, j.heartbeat_at+j.lease, j.started_at, j.finished_at`

// row is a stored job.
type row struct {
	number     int64 // its place in the order in which it was selected
	job        *pinion.Job
	unreadable error // the arguments or Meta are not JSON, which happens only if another program wrote them
}

func scanRow(found pgx.CollectableRow) (r row, err error) {
	j := new(pinion.Job)
	var args, kwargs string
	var keyUntilStart int
	var key, meta, failure, result *string
	var runAt, heartbeatAt, leaseUntil, startedAt, finishedAt *time.Time
	err = found.Scan(&r.number, &j.ID, &j.Task, &args, &kwargs, &j.Queue, &j.Priority,
		&runAt, &key, &keyUntilStart, &meta,
		&j.Status, &j.Attempts, &j.Claim, &j.Worker, &j.Reaped, &j.Canceled, &failure, &result,
		&j.CreatedAt, &heartbeatAt, &leaseUntil, &startedAt, &finishedAt)
	if err != nil {
		return r, err
	}
	j.CreatedAt = j.CreatedAt.UTC()
	j.RunAt, j.HeartbeatAt, j.FinishedAt = timeOf(runAt), timeOf(heartbeatAt), timeOf(finishedAt)
	j.LeaseUntil, j.StartedAt = timeOf(leaseUntil), timeOf(startedAt)
	j.Key, j.KeyUntilStart = stringOf(key), keyUntilStart > 0
	j.Error = stringOf(failure)
	if result != nil {
		j.Result = json.RawMessage(*result)
	}
	r.job = j
	r.unreadable = j.DecodeArgs(args, kwargs)
	if r.unreadable != nil {
		shown, _ := json.Marshal(args + " " + kwargs) // a string always marshals
		j.Args, j.Kwargs = []any{json.RawMessage(shown)}, nil
	}
	if meta != nil {
		if err := json.Unmarshal([]byte(*meta), &j.Meta); err != nil && r.unreadable == nil {
			r.unreadable = fmt.Errorf("%w: the job's Meta: %w", pinion.ErrBadArgs, err)
		}
	}
	return r, nil
}

// metaOrNull returns Meta as it is stored.
func metaOrNull(job *pinion.Job) (*string, error) {
	if len(job.Meta) == 0 {
		return nil, nil
	}
	text, err := json.Marshal(job.Meta)
	if err != nil {
		return nil, err
	}
	return new(string(text)), nil
}

// fold returns a name without regard to case: two names have the same one if strings.EqualFold finds them
// equal. For ASCII it is the name in lower case.
func fold(name string) string { return strings.Map(foldRune, name) }

// foldRune returns the smallest of the runes that differ only in case, in lower case if it is ASCII.
func foldRune(r rune) rune {
	smallest := r
	for other := unicode.SimpleFold(r); other != r; other = unicode.SimpleFold(other) {
		smallest = min(smallest, other)
	}
	if 'A' <= smallest && smallest <= 'Z' {
		return smallest + 'a' - 'A'
	}
	return smallest
}

// foldedSQL is the column task without regard to case. The collation of task is C, in which lower changes only
// ASCII.
const foldedSQL = `coalesce(j.folded, lower(j.task))`

// foldedOrNull returns what the column folded holds: nil where lower(task) is right.
func foldedOrNull(task string) *string {
	folded := fold(task)
	if folded == lowerASCII(task) {
		return nil
	}
	return &folded
}

func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// storable returns s as the server takes it. For names that are looked for, see nameOrNone.
func storable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// nameOrNone returns name, or "", which matches nothing, if name is not text. storable would turn it into another name.
func nameOrNone(name string) string {
	if rules.IsText(name) {
		return name
	}
	return ""
}

func namesOrNone(names []string) []string {
	found := make([]string, len(names))
	for i, name := range names {
		found[i] = nameOrNone(name)
	}
	return found
}

func queueName(name string) string {
	if name == "" {
		return "default"
	}
	return name
}

// microTime cuts a time to what the server stores.
func microTime(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

func timeOrNull(t time.Time) *time.Time {
	t = rules.DueTime(t)
	if t.IsZero() {
		return nil
	}
	return &t
}

func timeOf(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

func stringOf(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// stringOrNull returns a pointer to s, nil if it is empty.
func stringOrNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func interval(d time.Duration) pgtype.Interval {
	return pgtype.Interval{Microseconds: d.Microseconds(), Valid: true}
}
