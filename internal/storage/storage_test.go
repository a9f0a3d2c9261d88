package storage

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
)

// testLayers returns the layers of the base image.
func testLayers(t testing.TB) []Layer {
	t.Helper()
	store, err := image.Open(t.TempDir(), image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	name, err := store.Base(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	img, err := store.Resolve(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	var layers []Layer
	for _, l := range img.Layers {
		layers = append(layers, Layer{Digest: l.EROFS, Path: l.Path})
	}
	return layers
}

func mounts(t *testing.T, below string) int {
	t.Helper()
	list, err := mountinfo.GetMounts(mountinfo.PrefixFilter(below))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// sweep unmounts what nobody holds, as the end of a berthd does.
func sweep(t *testing.T, s *Storage) {
	t.Helper()
	if err := s.Sweep(); err != nil {
		t.Error(err)
	}
}

func TestLayersAreShared(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	root, run := t.TempDir(), t.TempDir()
	s, err := Open(root, run)
	if err != nil {
		t.Fatal(err)
	}
	layers := testLayers(t)
	first, err := s.Mount(t.Context(), "a", layers)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(first[0], "bin/busybox")); err != nil {
		t.Error(err)
	}
	second, err := s.Mount(t.Context(), "b", layers)
	if err != nil || second[0] != first[0] || mounts(t, run) != len(layers) {
		t.Errorf("two holders: %v, %v, %d mounts", second, err, mounts(t, run))
	}
	s.Release("a")
	sweep(t, s)
	if mounts(t, run) != len(layers) {
		t.Errorf("after one release: %d mounts", mounts(t, run))
	}

	// A berthd that was killed leaves mounts; b is still there, a layer without a
	// holder is not kept.
	stray := filepath.Join(run, "layers", strings.Repeat("0", 32))
	if err := mountImage(layers[0].Path, stray); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(root, run); err != nil {
		t.Fatal(err)
	}
	err = errors.Join(s.Adopt("b", second), s.Adopt("gone", []string{filepath.Join(run, "layers", strings.Repeat("1", 32))}))
	sweep(t, s)
	if err != nil || mounts(t, run) != len(layers) {
		t.Fatalf("after a restart: %v, %d mounts", err, mounts(t, run))
	}
	for range 2 {
		s.Release("b")
	}
	if mounts(t, run) != len(layers) {
		t.Errorf("%d mounts stayed for the next holder", mounts(t, run))
	}
	sweep(t, s)
	left, _ := os.ReadDir(filepath.Join(run, "layers"))
	if mounts(t, run) != 0 || len(left) != 0 {
		t.Errorf("%d mounts and %d directories are left", mounts(t, run), len(left))
	}
}

func TestDamagedLayer(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	run := t.TempDir()
	s, err := Open(t.TempDir(), run)
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	layers := append(testLayers(t), Layer{Digest: "sha256:" + strings.Repeat("1", 64), Path: bad})
	if _, err := s.Mount(t.Context(), "a", layers); err == nil {
		t.Error("a damaged layer was mounted")
	}
	sweep(t, s)
	if mounts(t, run) != 0 {
		t.Errorf("%d mounts are left", mounts(t, run))
	}
}

func TestVolumes(t *testing.T) {
	s, err := Open(t.TempDir(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	v, isNew, err := s.CreateVolume(ctx, "data", map[string]string{"a": "b"})
	if err != nil || !isNew {
		t.Fatalf("%+v, %v, %v", v, isNew, err)
	}
	if err := os.WriteFile(filepath.Join(v.Path, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	again, isNew, err := s.CreateVolume(ctx, "data", nil)
	if err != nil || isNew || again.Labels["a"] != "b" {
		t.Errorf("a second creation: %+v, %v, %v", again, isNew, err)
	}
	for _, bad := range []string{"", "..", "a/b", ".hidden", strings.Repeat("x", 129)} {
		if _, _, err := s.CreateVolume(ctx, bad, nil); !api.IsKind(err, api.Invalid) {
			t.Errorf("volume %q: %v", bad, err)
		}
		if _, err := s.Volume(ctx, bad); !api.IsKind(err, api.NotFound) {
			t.Errorf("volume %q: %v", bad, err)
		}
	}
	// What a killed creation leaves is not a volume and not in the way.
	if err := os.MkdirAll(filepath.Join(s.volumesDir(), "torn", volumeData, "old"), 0o700); err != nil {
		t.Fatal(err)
	}
	if list, err := s.Volumes(ctx); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	torn, _, err := s.CreateVolume(ctx, "torn", nil)
	if left, _ := os.ReadDir(torn.Path); err != nil || len(left) != 0 {
		t.Errorf("a new volume has %v, %v", left, err)
	}
	if err := s.RemoveVolume(ctx, "data"); err != nil {
		t.Error(err)
	}
	if err := s.RemoveVolume(ctx, "data"); !api.IsKind(err, api.NotFound) {
		t.Errorf("a second removal: %v", err)
	}
}
