package pinion

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/pinion-queue/pinion/internal/rules"
)

// session runs statements and keeps the first error. After an error the rest do nothing, as with a bufio.Writer, so
// that a verb reads as its statements.
type session struct {
	query  func(query string, args []any, yield func([]any) bool) error
	change func(query string, args []any) (sql.Result, error)
	err    error

	form   *insertForm // of the rows that insert holds back
	held   []any       // their values, row by row
	shared bool        // they may be those of several callers; see flush
}

// errShared says that rows were refused which may be those of several callers.
var errShared = errors.New("rows of several callers were refused") // never leaves the writer

// fail makes err the error of the session, unless it has one already.
func (q *session) fail(err error) { q.err = cmp.Or(q.err, err) }

// exec runs a statement and returns how many rows it changed.
func (q *session) exec(query string, args ...any) int {
	q.flush()
	if q.err != nil {
		return 0
	}
	result, err := q.change(query, args)
	if err != nil {
		q.err = err
		return 0
	}
	n, _ := result.RowsAffected()
	return int(n)
}

// rows ranges over the rows of a query. The slice is reused. A column may hold a value of any type, because other
// programs write to the file too; a row that could not be read would block all rows behind it.
func (q *session) rows(query string, args ...any) iter.Seq[[]any] {
	return func(yield func([]any) bool) {
		q.flush()
		if q.err == nil {
			q.fail(q.query(query, args, yield))
		}
	}
}

// value returns the first value of a query's first row, or nil if there is no row.
func (q *session) value(query string, args ...any) any {
	for v := range q.rows(query, args...) {
		return v[0]
	}
	return nil
}

// insertForm is an INSERT with certain columns, of one row or several.
type insertForm struct {
	width int      // how many values of a row are bound
	texts []string // of an INSERT of 1 row, 2, 4, … maxInsertRows
}

const maxInsertRows = 64

// newInsertForm returns the form of INSERTs that begin with into and whose rows are all written as row is, with a ? for
// each value that is bound.
func newInsertForm(into, row string) *insertForm {
	f := &insertForm{width: strings.Count(row, "?")}
	// In a transaction of the user's, an INSERT of one row with VALUES would roll back all of the transaction when the
	// disk is full. One that selects its row undoes itself, and so does one of several rows.
	f.texts = append(f.texts, into+" SELECT "+row)
	for n := 2; n <= maxInsertRows; n *= 2 {
		f.texts = append(f.texts, into+" VALUES ("+row+")"+strings.Repeat(", ("+row+")", n-1))
	}
	return f
}

// insert inserts a row, but not at once: rows that follow one another and have the same form share a statement, which
// saves more than a third of their time. The session stores them before its next statement.
func (q *session) insert(form *insertForm, row ...any) {
	isFull := len(q.held) == maxInsertRows*form.width
	if isFull || form != q.form {
		q.flush()
	}
	if q.err != nil {
		return
	}
	q.form = form
	q.held = append(q.held, row...)
}

// flush stores the rows that insert holds back. If they are refused and may be those of several callers, the error is
// errShared, and the session is not shared any more: the callers can try again, each with its own statements.
func (q *session) flush() {
	if len(q.held) == 0 {
		return
	}
	defer q.drop()
	if q.err != nil {
		return
	}
	rest := q.held
	for i, text := range slices.Backward(q.form.texts) {
		n := q.form.width << i // the values of 2^i rows
		for q.err == nil && len(rest) >= n {
			_, q.err = q.change(text, rest[:n])
			rest = rest[n:]
		}
	}
	if q.err != nil && q.shared {
		q.err = errShared
		q.shared = false
	}
}

// drop forgets the rows that insert holds back.
func (q *session) drop() {
	clear(q.held) // their arguments may be large
	q.held = q.held[:0]
}

// queries returns the query function of a session on a database or a transaction of database/sql.
func queries(ctx context.Context, db interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}) func(query string, args []any, yield func([]any) bool) error {
	return func(query string, args []any, yield func([]any) bool) (err error) {
		rows, err := db.QueryContext(ctx, query, args...)
		if err != nil {
			return err
		}
		defer func() {
			closeErr := rows.Close()
			if err == nil {
				err = closeErr
			}
		}()
		columns, err := rows.Columns()
		if err != nil {
			return err
		}
		values, targets := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			targets[i] = &values[i]
		}
		for rows.Next() {
			if err := rows.Scan(targets...); err != nil {
				return err
			}
			if !yield(values) {
				return nil
			}
		}
		return rows.Err()
	}
}

// preparedConn is a connection of the driver itself, which prepares each statement once: preparing costs more than
// running. database/sql would add locks, a pool and copies of all values, which is a tenth of a small transaction.
// Only one goroutine may use it at a time.
type preparedConn struct {
	conn  driver.Conn
	stmts map[string]preparedStmt // by their text
	args  []driver.NamedValue     // of the statement that is being run
}

type preparedStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// prepare returns the statement for a text and its arguments in the driver's form.
func (c *preparedConn) prepare(query string, args []any) (preparedStmt, []driver.NamedValue, error) {
	stmt, ok := c.stmts[query]
	if !ok {
		prepared, err := c.conn.Prepare(query)
		if err != nil {
			return nil, nil, err
		}
		stmt = prepared.(preparedStmt)
		c.stmts[query] = stmt
	}
	clear(c.args) // those of the last statement may be large
	c.args = c.args[:0]
	for i, v := range args {
		if n, ok := v.(int); ok {
			v = int64(n) // the driver knows no other integers
		}
		c.args = append(c.args, driver.NamedValue{Ordinal: i + 1, Value: v})
	}
	return stmt, c.args, nil
}

// change runs a statement. It passes no ctx on: a transaction that has begun is to end, and a ctx that can be canceled
// costs a goroutine for each statement.
func (c *preparedConn) change(query string, args []any) (sql.Result, error) {
	stmt, values, err := c.prepare(query, args)
	if err != nil {
		return nil, err
	}
	return stmt.ExecContext(context.Background(), values)
}

func (c *preparedConn) query(query string, args []any, yield func([]any) bool) error {
	stmt, bound, err := c.prepare(query, args)
	if err != nil {
		return err
	}
	rows, err := stmt.QueryContext(context.Background(), bound)
	if err != nil {
		return err
	}
	return yieldRows(rows, yield)
}

// yieldRows yields the rows of the driver, and closes them.
func yieldRows(rows driver.Rows, yield func([]any) bool) (err error) {
	defer func() {
		closeErr := rows.Close()
		if err == nil {
			err = closeErr
		}
	}()
	read := make([]driver.Value, len(rows.Columns()))
	values := make([]any, len(read))
	for {
		err := rows.Next(read)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for i, v := range read {
			values[i] = v
		}
		if !yield(values) {
			return nil
		}
	}
}

// close closes the statements too: SQLite would otherwise keep the connection, and with it the -wal file.
func (c *preparedConn) close() error {
	for _, stmt := range c.stmts {
		stmt.Close()
	}
	return c.conn.Close()
}

// text returns a stored value as text.
func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case []byte:
		return string(v)
	default:
		return fmt.Sprint(v)
	}
}

// integer returns a stored value as an integer, or 0 if it is not a number. A very large REAL becomes a smaller number.
func integer(v any) int64 {
	switch v := v.(type) {
	case int64:
		return v
	case float64:
		return int64(min(max(v, math.MinInt64/2), math.MaxInt64/2))
	default:
		return 0
	}
}

// seconds returns a time as the file has it: Unix seconds, in which microseconds are exact. The zero time is 0. A time
// outside the years 1 to 9999 becomes the nearest within.
func seconds(t time.Time) float64 {
	t = rules.DueTime(t)
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMicro()) / 1e6
}

const (
	year1    = -62135596800 // in Unix seconds
	year9999 = 253402300799 // its last second
)

// fromSeconds returns a stored value as a time. Anything outside the years 1 to 9999 becomes the nearest time within.
func fromSeconds(v any) time.Time {
	var s float64
	switch v := v.(type) {
	case float64:
		s = v
	case int64:
		s = float64(v)
	}
	if s == 0 {
		return time.Time{}
	}
	return time.UnixMicro(int64(math.Round(min(max(s, year1), year9999) * 1e6))).UTC()
}
