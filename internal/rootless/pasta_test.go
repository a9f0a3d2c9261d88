package rootless

import (
	"slices"
	"testing"
)

// TestPastaLeadsNothingIn holds what the arguments must never lose: pasta would open
// the host's loopback to instances, and the user's ports to the world.
func TestPastaLeadsNothingIn(t *testing.T) {
	args := pastaArgs(42, "/run/pid")
	if !slices.Contains(args, "--no-map-gw") {
		t.Errorf("the gateway is the host's loopback: %v", args)
	}
	for _, option := range []string{"--tcp-ports", "--udp-ports", "--tcp-ns", "--udp-ns"} {
		if i := slices.Index(args, option); i < 0 || args[i+1] != "none" {
			t.Errorf("%s is not none: %v", option, args)
		}
	}
}
