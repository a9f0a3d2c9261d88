package qemu

import (
	"os/exec"
	"testing"
	"time"
)

// program returns QEMU, or skips the test.
func program(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("needs qemu-system-x86_64")
	}
	return path
}

// TestProbeGuest shows that the probe guest itself is right: an emulated
// processor runs it.
func TestProbeGuest(t *testing.T) {
	if err := runProbe(t.Context(), program(t), "tcg", "qemu64"); err != nil {
		t.Error(err)
	}
}

// TestProbe asks for whatever this host has. Only the form of the answer is
// known.
func TestProbe(t *testing.T) {
	start := time.Now()
	works, reason := Probe(t.Context(), program(t))
	t.Logf("KVM works: %v (%s), after %v", works, reason, time.Since(start))
	if reason == "" {
		t.Error("no reason was given")
	}
}
