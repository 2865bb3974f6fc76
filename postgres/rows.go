package postgres

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pinion-queue/pinion"
)

// jobColumns are the columns that scanRow reads, behind a number.
const jobColumns = `j.id, j.task, j.args, j.kwargs, j.queue, j.priority, j.run_at, j.key, j.status, j.attempts, j.claim,
	j.created_at, j.heartbeat_at, j.finished_at, j.error, j.result, j.worker, j.canceled`

// row is a stored job.
type row struct {
	number     int64 // its place in the order in which it was selected
	job        *pinion.Job
	unreadable error // the arguments are not JSON, which happens only if another program wrote them
}

func scanRow(found pgx.CollectableRow) (r row, err error) {
	j := new(pinion.Job)
	var args, kwargs string
	var key, failure, result *string
	var runAt, heartbeatAt, finishedAt *time.Time
	err = found.Scan(&r.number, &j.ID, &j.Task, &args, &kwargs, &j.Queue, &j.Priority, &runAt, &key, &j.Status, &j.Attempts,
		&j.Claim, &j.CreatedAt, &heartbeatAt, &finishedAt, &failure, &result, &j.Worker, &j.Canceled)
	if err != nil {
		return r, err
	}
	j.CreatedAt = j.CreatedAt.UTC()
	j.RunAt, j.HeartbeatAt, j.FinishedAt = timeOf(runAt), timeOf(heartbeatAt), timeOf(finishedAt)
	j.Key, j.Error = stringOf(key), stringOf(failure)
	if result != nil {
		j.Result = json.RawMessage(*result)
	}
	r.job = j
	r.unreadable = j.DecodeArgs(args, kwargs)
	if r.unreadable != nil {
		shown, _ := json.Marshal(args + " " + kwargs) // a string always marshals
		j.Args, j.Kwargs = []any{json.RawMessage(shown)}, nil
	}
	return r, nil
}

// storable returns s as the server takes it. A name that this changes is the name of nothing that is stored.
func storable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

func storableAll(all []string) []string {
	changed := make([]string, len(all))
	for i, s := range all {
		changed[i] = storable(s)
	}
	return changed
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

func stringOf(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func interval(d time.Duration) pgtype.Interval {
	return pgtype.Interval{Microseconds: d.Microseconds(), Valid: true}
}
