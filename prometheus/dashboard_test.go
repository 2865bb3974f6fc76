package pinionprom_test

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pinion-queue/pinion"
	pinionprom "github.com/pinion-queue/pinion/prometheus"
)

// dashboard is what the tests read of dashboard.json.
type dashboard struct {
	Panels []struct {
		Title   string `json:"title"`
		Targets []struct {
			Expr string `json:"expr"`
		} `json:"targets"`
		GridPos struct{ X, Y, W, H int } `json:"gridPos"`
	} `json:"panels"`
	Templating struct {
		List []struct {
			Name       string `json:"name"`
			Definition string `json:"definition"`
		} `json:"list"`
	} `json:"templating"`
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	text, err := os.ReadFile("dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// The dashboard asks for each metric that a scrape shows, and for no other.
func TestTheDashboardUsesTheMetricsThatThereAre(t *testing.T) {
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	fill(t, storage)
	var jobs pinionprom.Jobs
	jobs.OnEnd(t.Context(), &pinion.Job{Task: "add", Queue: "default"},
		pinion.End{Outcome: pinion.OutcomeSucceeded, Took: 1, Waited: 1})
	var exported []string
	for name := range scrape(t, &jobs, &pinionprom.Queues{Storage: storage}) {
		exported = append(exported, name)
	}

	metric := regexp.MustCompile(`pinion_\w+`)
	var used []string
	for _, panel := range readDashboard(t).Panels {
		if len(panel.Targets) == 0 {
			t.Errorf("panel %q asks for nothing", panel.Title)
		}
		for _, target := range panel.Targets {
			for _, name := range metric.FindAllString(target.Expr, -1) {
				used = append(used, strings.TrimSuffix(name, "_bucket"))
			}
		}
	}
	slices.Sort(exported)
	slices.Sort(used)
	if diff := cmp.Diff(exported, slices.Compact(used)); diff != "" {
		t.Errorf("metrics (-exported +used):\n%s", diff)
	}
}

func TestTheQueriesOfTheDashboardAreWellFormed(t *testing.T) {
	d := readDashboard(t)
	known := map[string]bool{"__rate_interval": true}
	for _, variable := range d.Templating.List {
		known[variable.Name] = true
	}
	variable := regexp.MustCompile(`\$(\w+)`)
	for _, panel := range d.Panels {
		for _, target := range panel.Targets {
			for _, pair := range []string{"()", "{}", "[]"} {
				if strings.Count(target.Expr, pair[:1]) != strings.Count(target.Expr, pair[1:]) {
					t.Errorf("panel %q: %s: unequal numbers of %c and %c", panel.Title, target.Expr, pair[0], pair[1])
				}
			}
			for _, match := range variable.FindAllStringSubmatch(target.Expr, -1) {
				if !known[match[1]] {
					t.Errorf("panel %q: %s: there is no variable %s", panel.Title, target.Expr, match[1])
				}
			}
		}
	}
}

func TestThePanelsOfTheDashboardDoNotOverlap(t *testing.T) {
	taken := make(map[[2]int]string)
	for _, panel := range readDashboard(t).Panels {
		at := panel.GridPos
		for x := at.X; x < at.X+at.W; x++ {
			for y := at.Y; y < at.Y+at.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("panels %q and %q overlap", other, panel.Title)
				}
				taken[[2]int{x, y}] = panel.Title
			}
		}
	}
}
