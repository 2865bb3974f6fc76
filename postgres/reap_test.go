package postgres

import (
	"testing"
	"time"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/rules"
)

// All processes may have been stopped since the doubt. Then the reaper may be the first that goes on, and must give the
// heartbeats of the others time.
func TestAReaperLetsHeartbeatsGoFirst(t *testing.T) {
	s := open(t, schemaURL(t), nil)
	if err := s.Enqueue(t.Context(), pinion.NewJob("a")); err != nil {
		t.Fatal(err)
	}
	_, err := s.Dequeue(t.Context(), pinion.DequeueOptions{Max: 1, Lease: time.Millisecond, NoWait: true})
	if err != nil {
		t.Fatal(err)
	}
	for {
		began := time.Now()
		reaped, err := s.ReapStale(t.Context(), time.Second)
		took := time.Since(began)
		if err != nil {
			t.Fatal(err)
		}
		if reaped == 0 {
			continue
		}
		if took < rules.HeartbeatsFirst {
			t.Errorf("the lease was taken back %v after the look began, want %v or more", took, rules.HeartbeatsFirst)
		}
		break
	}
}
