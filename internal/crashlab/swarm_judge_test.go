package crashlab

import "testing"

func TestRunsAreCountedWhileTheyHaveTheirLeases(t *testing.T) {
	for _, test := range []struct {
		name       string
		log        string
		runs, most int
	}{
		{"two overlap", `
10 1 start	a:9	slot	.
11 2 start	b:9	slot	.
12 1 end	a:9	.
13 1 start	c:12	slot	.
`, 3, 2},
		{"a killed process runs nothing, whatever it has just written", `
10 1 start	a:9	slot	.
11 0 kill	1	.
12 1 start	b:9	slot	.
13 2 start	c:12	slot	.
14 2 start	d:12	slot	.
`, 4, 2},
		{"a stopped process has lost what it claimed before it goes on", `
10 1 start	a:9	slot	.
11 0 stop	1	.
12 2 start	b:9	slot	.
20 0 resume	1	.
21 1 start	c:9	slot	.
22 1 start	d:21	slot	.
`, 4, 2},
	} {
		runs, most := findRuns(parseLog(test.log))
		if len(runs) != test.runs || most != test.most {
			t.Errorf("%s: %d runs, at most %d at the same time, want %d and %d",
				test.name, len(runs), most, test.runs, test.most)
		}
	}
}
