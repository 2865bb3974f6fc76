package postgres

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	notifyAllSQL    = `SELECT pg_notify($1::text, '')`
	notifyOthersSQL = `SELECT pg_notify($1::text, $2::text)`
	notifyPause     = 2 * time.Millisecond // between two NOTIFYs of a process at least, while jobs keep coming
)

// channel returns the channel on which processes notify each other.
func (s *Storage) channel() string { return "pinion " + s.opts.Schema }

// broadcast wakes all who wait in this process. They are few, and each looks for itself.
type broadcast struct {
	mu     sync.Mutex    // guards closed
	signal chan struct{} // nil while nobody waits
}

// next returns a channel that the next wake closes. Call it before a look, so that no wake-up is missed.
func (b *broadcast) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.signal == nil {
		b.signal = make(chan struct{})
	}
	return b.signal
}

func (b *broadcast) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.signal != nil {
		close(b.signal)
		b.signal = nil
	}
}

// announceJobs wakes this process at once, and the others soon.
func (s *Storage) announceJobs() {
	s.wakeups.wake()
	select {
	case s.unannounced <- struct{}{}:
	default: // announce is about to notify the others anyway
	}
}

// announce is the goroutine that notifies other processes, after the commit and not in it. A transaction with a
// NOTIFY takes a lock at its COMMIT that all such transactions of the server share, and holds it until the disk
// has answered. A NOTIFY alone waits for no disk, and stands for many verbs. If the process dies in between,
// others find the jobs when they look by themselves.
func (s *Storage) announce() {
	for {
		select {
		case <-s.unannounced:
			s.notifyOthers()
		case <-s.closing.Done():
			select {
			case <-s.unannounced: // stored just before Close
				s.notifyOthers()
			default:
			}
			return
		}
	}
}

// notifyOthers sends one NOTIFY, and pauses so that announcing takes a fifth of the time at most.
func (s *Storage) notifyOthers() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.closing), time.Second)
	defer cancel()
	start := time.Now()
	s.pool.Exec(ctx, notifyOthersSQL, s.channel(), s.name) // after an error the others find the jobs by themselves
	pause := 4 * time.Since(start)
	if len(s.unannounced) > 0 {
		pause = max(pause, notifyPause)
	}
	s.pause(context.Background(), pause)
}

// startListening starts listen when a Dequeue waits for the first time.
func (s *Storage) startListening() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opts.NoListen || s.listening || s.closed {
		return
	}
	s.listening = true
	s.goroutines.Go(s.listen)
}

// listen is the goroutine that owns the connection that listens. It connects again when that breaks.
func (s *Storage) listen() {
	for tries := 0; s.closing.Err() == nil; tries++ {
		if s.listenOnce() {
			tries = 0
		}
		s.pause(s.closing, backoff(tries))
	}
}

// listenOnce listens on one connection until it breaks. It reports whether it came to listen at all.
func (s *Storage) listenOnce() (listened bool) {
	conn, err := pgx.ConnectConfig(s.closing, s.listenConfig)
	if err != nil {
		return false
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.closing), time.Second)
		defer cancel()
		conn.Close(ctx)
	}()
	if _, err := conn.Exec(s.closing, "LISTEN "+pgx.Identifier{s.channel()}.Sanitize()); err != nil {
		return false
	}
	s.wakeups.wake() // for what was notified before
	for {
		notification, err := conn.WaitForNotification(s.closing)
		if err != nil {
			return true
		}
		if notification.Payload != s.name {
			s.wakeups.wake()
		}
	}
}
