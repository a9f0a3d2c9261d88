package storage

import "testing"

// BenchmarkMount measures what a container pays for its layers when no other uses
// them, nor has for a while.
func BenchmarkMount(b *testing.B) {
	s, err := Open(b.TempDir(), b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	layers := testLayers(b)
	for b.Loop() {
		if _, err := s.Mount(b.Context(), "x", layers); err != nil {
			b.Fatal(err)
		}
		s.Release("x")
		if err := s.Sweep(); err != nil {
			b.Fatal(err)
		}
	}
}
