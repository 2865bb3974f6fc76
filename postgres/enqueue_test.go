package postgres

import (
	"errors"
	"strings"
	"testing"

	"github.com/pinion-queue/pinion"
)

func TestANameThatTheServerCannotStoreOrFindIsRefusedAndALongOneIsNot(t *testing.T) {
	s := open(t, schemaURL(t), nil)
	long := strings.Repeat("é", (1<<10)/2)
	for name, want := range map[string]error{"a\x00": pinion.ErrBadArgs, long + "é": pinion.ErrBadArgs, long: nil} {
		for _, job := range []*pinion.Job{{Task: name}, {ID: name, Task: "a"}, {Queue: name, Task: "a"}, {Key: name, Task: "a"}} {
			if err := s.Enqueue(t.Context(), pinion.NewJob("beside"), job); !errors.Is(err, want) {
				t.Errorf("Enqueue with a name of %d bytes: %v, want %v", len(name), err, want)
			}
		}
	}
	if n, err := s.Size(t.Context()); n != 8 || err != nil {
		t.Errorf("%d jobs are pending, %v; want 8", n, err)
	}
}

func TestANilJobIsRefused(t *testing.T) {
	s := open(t, schemaURL(t), nil)
	if err := s.Enqueue(t.Context(), nil...); err != nil {
		t.Errorf("no job: %v", err)
	}
	var job *pinion.Job
	if err := s.Enqueue(t.Context(), pinion.NewJob("a"), job); !errors.Is(err, pinion.ErrBadArgs) {
		t.Errorf("a nil *Job: got %v, want %v", err, pinion.ErrBadArgs)
	}
	if n, err := s.Size(t.Context()); n != 0 || err != nil {
		t.Errorf("there are %d jobs, %v, want none", n, err)
	}
}
