package oci

import (
	"os"
	"strings"
	"testing"

	"github.com/berthcloud/berth/internal/oci/bundle"
)

// TestFailedCreateKeepsNothingOpen: a runtime that stands by outlives what fails in
// it, with the child already there.
func TestFailedCreateKeepsNothingOpen(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	spec, err := bundle.Parse([]byte(`{"ociVersion":"1.2.0","process":{"args":["true"],"cwd":"/"},"root":{"path":"rootfs"},
		"linux":{"namespaces":[{"type":"user"},{"type":"mount"}],
			"uidMappings":[{"containerID":0,"hostID":100000,"size":10}],
			"gidMappings":[{"containerID":0,"hostID":100000,"size":10}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	// What bundle.Parse would refuse, and after it only the kernel does.
	spec.Linux.UIDMappings = append(spec.Linux.UIDMappings, spec.Linux.UIDMappings[0])
	rt := &Runtime{Root: t.TempDir()}
	o := CreateOptions{ID: "x", Bundle: &bundle.Bundle{Dir: t.TempDir(), Spec: spec, Raw: []byte("{}")}, Console: -1, NoCgroups: true}
	open := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	before := 0
	for i := range 5 {
		if _, err := rt.Create(t.Context(), o); err == nil || !strings.Contains(err.Error(), "linux.uidMappings") {
			t.Fatalf("error = %v", err)
		}
		if i == 0 {
			before = open()
		}
	}
	if after := open(); after != before {
		t.Errorf("%d descriptors, %d after four more failures", before, after)
	}
}
