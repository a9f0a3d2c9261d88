package image_test

import (
	"archive/tar"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/berthcloud/berth/internal/image"
)

// bigRootfs writes an archive of 300 MB in 10,000 files, the size at which
// SPECIFICATION.md measures, and returns its path.
func bigRootfs(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "big.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	content := make([]byte, 30_000)
	random := rand.NewChaCha8([32]byte{1})
	for i := range 10_000 {
		if i%100 == 0 {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprintf("d%d/", i/100), Mode: 0o755}); err != nil {
				t.Fatal(err)
			}
		}
		random.Read(content)
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("d%d/f%d", i/100, i), Mode: 0o644, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// BenchmarkImport measures import, load and save of an image of 300 MB in
// 10,000 files.
func BenchmarkImport(b *testing.B) {
	tarball := bigRootfs(b)
	b.Run("import", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			s, err := image.Open(b.TempDir(), image.Options{})
			if err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			if _, err := s.ImportPath(b.Context(), tarball, image.ImportOptions{Name: "big"}); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			s.Close()
			b.StartTimer()
		}
		b.ReportMetric(peakRSS(b), "peak-MiB")
	})
	s := open(b)
	if _, err := s.ImportPath(b.Context(), tarball, image.ImportOptions{Name: "big"}); err != nil {
		b.Fatal(err)
	}
	saved := filepath.Join(b.TempDir(), "saved.tar")
	b.Run("save", func(b *testing.B) {
		for b.Loop() {
			f, err := os.Create(saved)
			if err != nil {
				b.Fatal(err)
			}
			if err := s.Export(b.Context(), f, "big"); err != nil {
				b.Fatal(err)
			}
			f.Close()
		}
	})
	b.Run("load", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			other, err := image.Open(b.TempDir(), image.Options{})
			if err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			if _, err := other.ImportPath(b.Context(), saved, image.ImportOptions{}); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			other.Close()
			b.StartTimer()
		}
	})
	b.Run("sha256", func(b *testing.B) { // the floor: one pass of hashing
		for b.Loop() {
			f, err := os.Open(tarball)
			if err != nil {
				b.Fatal(err)
			}
			h := sha256.New()
			io.Copy(h, f)
			f.Close()
		}
	})
}

// BenchmarkResolve measures what every start of an instance pays.
func BenchmarkResolve(b *testing.B) {
	s := open(b)
	if _, err := s.Base(b.Context(), "", nil); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := s.Resolve(b.Context(), "base"); err != nil {
			b.Fatal(err)
		}
	}
}

// peakRSS returns the process's greatest resident size in MiB.
func peakRSS(t testing.TB) float64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB")))
			if err != nil {
				t.Fatal(err)
			}
			return float64(kb) / 1024
		}
	}
	return 0
}

// TestImportMemory imports far more than it may keep in memory.
func TestImportMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 900 MB")
	}
	tarball := bigRootfs(t)
	s := open(t)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	if _, err := s.ImportPath(t.Context(), tarball, image.ImportOptions{Name: "big"}); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 64<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	if img, err := s.Resolve(t.Context(), "big"); err != nil || img.Layers[0].Size > 330_000_000 {
		t.Errorf("%+v, %v", img.Layers, err)
	}
}
