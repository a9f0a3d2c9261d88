package storage

import "testing"

// BenchmarkMount measures what a container pays for its layers when no other
// uses them.
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
		if err := s.Release(b.Context(), "x"); err != nil {
			b.Fatal(err)
		}
	}
}
