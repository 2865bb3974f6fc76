package pinion

import (
	"context"
	"fmt"
	"math"
	"os"
	"time"
)

// SQLiteReport is what [SQLiteStorage.Check] finds.
type SQLiteReport struct {
	Schema   int      // the version of the file's schema; 0 is the Python library's
	Newest   int      // the version to which this package migrates a file when it writes
	Journal  string   // PRAGMA journal_mode: "wal", once this package has written
	Size     int64    // in bytes
	Free     int64    // how many bytes of Size are unused
	Links    int      // how many names (hard links) the file has; more than one is dangerous
	Paused   []string // queues with the limit 0
	Expired  []string // ids of RUNNING jobs whose lease has expired, for a worker to take back; at most 100
	Damage   []string // what PRAGMA quick_check finds wrong with the file, at most 100 lines
	Unusable []string // unfinished jobs that no worker can run, with the reason; at most 100
}

// maxFindings is how many findings of one kind a SQLiteReport lists.
const maxFindings = 100

// Check examines the file. It reads all of it, about a gigabyte in one or two seconds, and keeps nobody
// waiting. With an error it returns what it found before.
func (s *SQLiteStorage) Check(ctx context.Context) (SQLiteReport, error) {
	q := s.reader(ctx)
	pageSize := integer(q.value("PRAGMA page_size"))
	report := SQLiteReport{
		Schema:  int(integer(q.value("PRAGMA user_version"))),
		Newest:  schemaVersion,
		Journal: text(q.value("PRAGMA journal_mode")),
		Size:    pageSize * integer(q.value("PRAGMA page_count")),
		Free:    pageSize * integer(q.value("PRAGMA freelist_count")),
		Damage:  damage(q),
	}
	info, err := os.Stat(s.path)
	if err != nil {
		q.fail(err)
		return report, wrap("check", q.err)
	}
	report.Links = hardLinks(info)
	report.Paused = s.paused(q)
	report.Expired = s.expired(q, time.Now())
	report.Unusable = s.unusable(q)
	return report, wrap("check", q.err)
}

// paused returns the queues that are paused.
func (s *SQLiteStorage) paused(q *session) (queues []string) {
	if !s.indexed { // an older file has no such table
		return nil
	}
	for row := range q.rows(`SELECT queue FROM pinion_limits WHERE most=0 ORDER BY queue`) {
		queues = append(queues, text(row[0]))
	}
	return queues
}

// expired returns the ids of the running jobs whose own lease has expired. Claims of Python's have none.
func (s *SQLiteStorage) expired(q *session, now time.Time) (ids []string) {
	query := fmt.Sprintf(`SELECT id%sWHERE status='RUNNING' AND lease>0 AND heartbeat_at+lease<? LIMIT %d`,
		s.jobs, maxFindings)
	for row := range q.rows(query, seconds(now)) {
		ids = append(ids, text(row[0]))
	}
	return ids
}

// damage returns what SQLite finds wrong with the file.
func damage(q *session) (lines []string) {
	for row := range q.rows(fmt.Sprintf("PRAGMA quick_check(%d)", maxFindings)) {
		if line := text(row[0]); line != "ok" {
			lines = append(lines, line)
		}
	}
	return lines
}

// unusable returns the unfinished jobs that no worker can run, with the reasons.
func (s *SQLiteStorage) unusable(q *session) (lines []string) {
	query := `SELECT seq, ` + jobColumns + `, typeof(queue), future, aside` + s.jobs + `
		WHERE seq>? AND status NOT IN ('SUCCESS','FAILED') ORDER BY seq LIMIT 1000`
	after := int64(math.MinInt64)
	for {
		found := false
		for row := range q.rows(query, after) {
			found = true
			after = integer(row[0])
			id, reason := whyUnusable(row)
			if reason == nil {
				continue
			}
			lines = append(lines, fmt.Sprintf("%s: %v", id, reason))
			if len(lines) == maxFindings {
				return lines
			}
		}
		if !found {
			return lines
		}
	}
}

// whyUnusable returns the id of an unfinished job and why no worker can run it, or nil. The row ends with what the
// indexes by which claims find jobs go by: the type of the queue, and the columns future and aside.
func whyUnusable(row []any) (id string, reason error) {
	_, job, reason := jobOf(row)
	found := row[len(row)-3:]
	queueType, future, aside := text(found[0]), text(found[1]), text(found[2])
	isFlag := func(value string) bool { return value == "0" || value == "1" }
	switch {
	case job.Status != StatusPending && job.Status != StatusRunning:
		reason = fmt.Errorf("its status is %q; want PENDING or RUNNING", job.Status)
	case queueType != "text":
		reason = fmt.Errorf("its queue %q is of type %s; want text", job.Queue, queueType)
	case !isFlag(future):
		reason = fmt.Errorf("its column future is %s; want 0 or 1", future)
	case !isFlag(aside):
		reason = fmt.Errorf("its column aside is %s; want 0 or 1", aside)
	}
	return job.ID, reason
}
