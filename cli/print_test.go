package cli

import (
	"testing"
	"time"
)

func TestRatesAndDurationsAreRounded(t *testing.T) {
	for rate, want := range map[float64]string{
		0: "0", 1. / 60: "0.02", 0.999: "1.00", 12.34: "12.3", 99.9: "99.9", 12345.6: "12346",
	} {
		if got := perSecond(rate); got != want {
			t.Errorf("perSecond(%v) = %s, want %s", rate, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m", 47 * time.Hour: "47h", 49 * time.Hour: "2d",
	} {
		if got := rough(d); got != want {
			t.Errorf("rough(%v) = %s, want %s", d, got, want)
		}
	}
}
