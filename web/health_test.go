package web

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pinion-queue/pinion"
)

func TestHealthSaysWhatIsWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := pinion.NewMemoryStorage()
		h := Health(q, quiet(t, Options{}))
		enqueue(t, q, pinion.NewJob("a"))
		if a := ask(t, h, "GET", "/"); a.status != http.StatusOK || a.body != "ok\n" {
			t.Errorf("a job that has just become due: %d %s", a.status, a.body)
		}
		time.Sleep(6 * time.Minute)
		a := ask(t, h, "GET", "/")
		want := "1 job is due, and the oldest has been due for 6m: no worker runs\n"
		if a.status != http.StatusServiceUnavailable || a.body != want {
			t.Errorf("a job that has been due for 6 minutes: %d %s", a.status, a.body)
		}
		if a := ask(t, Health(q, quiet(t, Options{MaxWait: time.Hour})), "GET", "/"); a.status != http.StatusOK {
			t.Errorf("with MaxWait an hour: %d %s", a.status, a.body)
		}
		if a := ask(t, Health(q, quiet(t, Options{MaxWait: -1})), "GET", "/"); a.status != http.StatusOK {
			t.Errorf("with a negative MaxWait: %d %s", a.status, a.body)
		}
		if err := q.SetLimit(t.Context(), "default", 0); err != nil {
			t.Fatal(err)
		}
		if a := ask(t, h, "GET", "/"); a.status != http.StatusOK {
			t.Errorf("a paused queue: %d %s", a.status, a.body)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		a = ask(t, h, "GET", "/")
		if a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, "closed") {
			t.Errorf("a storage that is closed: %d %s", a.status, a.body)
		}
	})
}
