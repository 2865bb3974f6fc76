package postgres

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// bell wakes all who wait in this process: they are few, and each looks for itself.
type bell struct {
	mu   sync.Mutex // guards rung
	rung chan struct{}
}

// listen returns what the next ring closes. It is to be called before a look, so that no ring is missed.
func (b *bell) listen() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rung == nil {
		b.rung = make(chan struct{})
	}
	return b.rung
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rung != nil {
		close(b.rung)
		b.rung = nil
	}
}

// ring tells this process at once, and the others soon, that something became pending.
func (s *Storage) ring() {
	s.bell.ring()
	select {
	case s.pending <- struct{}{}:
	default: // they are to be told already
	}
}

func (s *Storage) channel() string { return "pinion " + s.opts.Schema }

// notify is the goroutine that tells other processes, after the commit and not in it: a transaction with a NOTIFY takes a
// lock at its COMMIT that all others of the server need too, and keeps it until the disk has answered. Alone it
// waits for no disk, and many enqueues share one. Should the process die in between, there is the slow look.
func (s *Storage) notify() {
	for {
		select {
		case <-s.pending:
		case <-s.ended.Done():
			select {
			case <-s.pending: // what Enqueue has just stored is announced before Close returns
			default:
				return
			}
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ended), time.Second)
		start := time.Now()
		s.pool.Exec(ctx, `SELECT pg_notify($1::text, $2::text)`, s.channel(), s.me) // an error leaves it to the slow look
		cancel()
		pause := 4 * time.Since(start)
		if len(s.pending) > 0 { // already: more keep coming
			pause = max(pause, notifyPause)
		}
		s.pause(context.Background(), pause)
	}
}

// line is where the Dequeues of this process queue up that ask for the same queues: one looks and waits, and hands on
// what it knows to the next. Two that wait would both look for every job that comes.
type line struct {
	turn   chan struct{}   // capacity 1: held by the one who looks, to whom the rest belongs
	rung   <-chan struct{} // nothing is to be had before this bell; nil: there may be something
	looked time.Time       // when the last look ended
	took   time.Duration   // that look
	found  int             // by it
}

func (s *Storage) lineFor(names []string) *line {
	name := strings.Join(names, "\x00")
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lines[name] == nil {
		s.lines[name] = &line{turn: make(chan struct{}, 1)}
	}
	return s.lines[name]
}

// await returns when there may be something to claim, or with an error when ctx or the storage has ended.
func (s *Storage) await(ctx context.Context, l *line, names []string) error {
	pause := s.opts.PollInterval
	select {
	case <-l.rung: // while jobs keep coming, nobody asks when the next is due
	default:
		var due *float64
		var passedOver bool
		err := s.read(ctx, "dequeue", func(ctx context.Context, conn *pgx.Conn, _ bool) error {
			return conn.QueryRow(ctx, s.sql.next, names).Scan(&due, &passedOver)
		})
		if err != nil {
			return err
		}
		if due != nil {
			pause = max(min(pause, time.Duration(*due*float64(time.Second))), 0)
		}
		if passedOver { // another claim had locked it, and may leave it
			pause = time.Millisecond
		}
		s.startListening()
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-l.rung:
		// While jobs keep coming, they are claimed several at a time, and looking takes half of the time at most. One
		// job that came alone is no reason to let the next wait; rings for nothing, of another queue's jobs, are.
		pause := max(lookPause, l.took)
		if l.found > 0 {
			pause = max(min(time.Duration(l.found-1)*lookPause, lookMost), l.took)
		}
		if soon := pause - time.Since(l.looked); soon > 0 && !s.pause(ctx, soon) {
			return ctx.Err()
		}
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ended.Done():
	}
	return nil // if it was closed, the next look says so
}

// startListening starts listen when somebody waits for the first time.
func (s *Storage) startListening() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.opts.NoListen && !s.listening && !s.closed {
		s.listening = true
		s.tasks.Go(s.listen)
	}
}

// listen is the goroutine that owns the connection that listens, and makes another when it breaks.
func (s *Storage) listen() {
	for tries := 0; s.ended.Err() == nil; tries++ {
		if conn, err := pgx.ConnectConfig(s.ended, s.config); err == nil {
			if _, err = conn.Exec(s.ended, "LISTEN "+pgx.Identifier{s.channel()}.Sanitize()); err == nil {
				tries = 0
				s.bell.ring() // for what was notified before
				for err == nil {
					notification, failed := conn.WaitForNotification(s.ended)
					if err = failed; err == nil && notification.Payload != s.me {
						s.bell.ring()
					}
				}
			}
			closing, cancel := context.WithTimeout(context.WithoutCancel(s.ended), time.Second)
			conn.Close(closing)
			cancel()
		}
		s.pause(s.ended, backoff(tries))
	}
}
