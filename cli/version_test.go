package cli

import (
	"runtime/debug"
	"testing"
)

func TestTheVersionIsThatOfPinionWhoeverBuildsIt(t *testing.T) {
	pinion := debug.Module{Path: modulePath, Version: "v0.3.1"}
	replaced := debug.Module{Path: modulePath, Version: "v0.3.1", Replace: &debug.Module{Path: "../pinion"}}
	shop := debug.Module{Path: "example.com/shop", Version: "v2.0.0"}
	for _, c := range []struct {
		name string
		info debug.BuildInfo
		want string
	}{
		{"go install", debug.BuildInfo{Main: pinion}, "v0.3.1"},
		{"a clone", debug.BuildInfo{Main: debug.Module{Path: modulePath, Version: "(devel)"}}, "(devel)"},
		{"a user's program", debug.BuildInfo{Main: shop, Deps: []*debug.Module{{Path: "a"}, &pinion}}, "v0.3.1"},
		{"a replaced Pinion", debug.BuildInfo{Main: shop, Deps: []*debug.Module{&replaced}}, "(devel)"},
		{"no modules", debug.BuildInfo{}, "(devel)"},
	} {
		if got := versionIn(&c.info); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestOnlyReleasesAreCompared(t *testing.T) {
	for version, want := range map[string]bool{
		"v0.2.0": true, "v1.20.3": true,
		"v0.2.1-0.20260101000000-0123456789ab": false, "v1.0.0-rc.1": false, "v1.0.0+dirty": false,
		"v2.0.0+incompatible": false, "v1.0": false, "1.0.0": false, "(devel)": false, "": false,
	} {
		if got := isRelease(version); got != want {
			t.Errorf("isRelease(%q) = %v, want %v", version, got, want)
		}
	}
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"v0.10.0", "v0.9.9", true}, {"v0.2.0", "v0.2.0", false}, {"v0.1.9", "v0.2.0", false},
		{"v1.0.0", "v0.99.99", true},
	} {
		if got := isNewer(c.a, c.b); got != c.want {
			t.Errorf("isNewer(%q, %q) = %v, want %v", c.a, c.b, got, c.want)
		}
	}
}
