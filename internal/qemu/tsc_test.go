package qemu

import "testing"

func TestTSC(t *testing.T) {
	first, second := TSCKHz(t.Context()), TSCKHz(t.Context())
	if first < 100_000 || first > 10_000_000 {
		t.Skipf("no time stamp counter that runs at a fixed rate: %d kHz", first)
	}
	if diff := first - second; diff > first/1000 || diff < -first/1000 {
		t.Errorf("two measurements differ: %d and %d kHz", first, second)
	}
}
