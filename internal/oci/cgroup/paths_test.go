package cgroup

import (
	"maps"
	"testing"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs"
)

// TestBelow finds what the library finds.
func TestBelow(t *testing.T) {
	if Unified() {
		t.Skip("cgroup v2 alone")
	}
	for _, path := range []string{"x", "a/b", "../../x", "a/../../b", "."} {
		config := &cgroups.Cgroup{Path: path, Resources: &cgroups.Resources{}}
		m, err := fs.NewManager(config, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := below(path), m.GetPaths(); !maps.Equal(got, want) {
			t.Errorf("%s:\n%v\nthe library has\n%v", path, got, want)
		}
	}
}
