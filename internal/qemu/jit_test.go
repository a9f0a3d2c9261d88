package qemu

import "testing"

func TestRegions(t *testing.T) {
	t.Parallel()
	for maxCPUs, want := range map[int]int{1: 1, 2: 16, 4: 32, 8: 64, 63: 64, 64: 64, 65: 65} {
		if got := regions(maxCPUs); got != want {
			t.Errorf("%d processors at most: %d, want %d", maxCPUs, got, want)
		}
	}
}

func TestRoomToTranslate(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for _, c := range []struct {
		used                int64
		have, want, maxCPUs int
		room                bool
	}{
		{0, 1, 2, 2, true},
		{80 * mib, 1, 2, 2, true},
		{104 * mib, 1, 2, 2, true}, // 13 parts of 16 are full, one is in use
		{105 * mib, 1, 2, 2, false},
		{128 * mib, 1, 2, 2, false},
		{0, 1, 64, 64, false}, // one may be taken meanwhile
		{0, 1, 63, 64, true},
	} {
		if got := roomToTranslate(c.used, translatedMore*mib, c.have, c.want, c.maxCPUs); got != c.room {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
