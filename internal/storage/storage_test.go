package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/testenv"
)

// testLayers returns the layers of the base image.
func testLayers(t testing.TB) []Layer {
	t.Helper()
	store, err := image.Open(t.TempDir(), image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	name, err := store.Base(t.Context(), "", nil)
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

// TestImageIsReadDirectly expects the options that make a layer as fast as a file.
func TestImageIsReadDirectly(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	image, dir := testLayers(t)[0].Path, t.TempDir()
	if !readsDirectly(image) || readAhead(image) == 0 {
		t.Skip("the temporary directory is not on a disk that can")
	}
	testenv.Eventually(t, 20*time.Second, func() error {
		before := erofsBDIs()
		if err := mountErofs(image, dir); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := unix.Unmount(dir, 0); err != nil {
				t.Fatal(err)
			}
		}()
		info, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir))
		if err != nil || len(info) != 1 {
			t.Fatal(info, err)
		}
		if strings.HasPrefix(info[0].Source, "/dev/loop") {
			t.Skip("the kernel mounts no image without a loop device")
		}
		if !strings.Contains(info[0].VFSOptions, "directio") && unix.Mount(image, dir, "erofs", layerFlags, "directio") == nil {
			t.Errorf("mounted with %q", info[0].VFSOptions)
			return unix.Unmount(dir, 0)
		}
		var fresh []string
		for name := range erofsBDIs() {
			if !before[name] {
				fresh = append(fresh, name)
			}
		}
		if len(fresh) != 1 {
			return fmt.Errorf("others mount images at the same time: %q", fresh)
		}
		depth, err := os.ReadFile(filepath.Join(bdiDir, fresh[0], "read_ahead_kb"))
		if want := fmt.Sprintln(readAhead(image)); err == nil && string(depth) != want {
			return fmt.Errorf("reads %q KiB ahead; want %q", depth, want)
		}
		return err
	})
}

// TestLoopDevice mounts a layer as older kernels do.
func TestLoopDevice(t *testing.T) {
	if _, err := os.Stat("/dev/loop-control"); os.Getuid() != 0 || err != nil {
		t.Skip("needs root and loop devices")
	}
	image, dir := testLayers(t)[0].Path, t.TempDir()
	if err := mountLoop(image, dir); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	if _, err := os.ReadFile(filepath.Join(dir, "bin/busybox")); err != nil {
		t.Error(err)
	}
	info, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir))
	if err != nil || len(info) != 1 {
		t.Fatal(info, err)
	}
	block := filepath.Join("/sys/block", filepath.Base(info[0].Source))
	if direct, err := os.ReadFile(filepath.Join(block, "loop/dio")); err != nil || readsDirectly(image) && string(direct) != "1\n" {
		t.Errorf("direct: %q, %v", direct, err)
	}
	if depth, want := readAhead(image), readAhead(dir); depth > 0 && depth != want {
		t.Errorf("reads %d KiB ahead; want %d", want, depth)
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

// TestDisks: a volume with a size is one sparse file, which gets a filesystem as long as
// nobody has written to it.
func TestDisks(t *testing.T) {
	s, err := Open(t.TempDir(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	v, isNew, err := s.CreateDisk(ctx, "data", 64<<20, nil)
	if err != nil || !isNew || v.Size != 64<<20 {
		t.Fatalf("%+v, %v, %v", v, isNew, err)
	}
	if info, err := os.Stat(v.Path); err != nil || info.Size() != v.Size || info.Mode().Perm() != 0o600 {
		t.Fatalf("%+v, %v", info, err)
	}
	if again, isNew, err := s.CreateDisk(ctx, "data", 64<<20, nil); err != nil || isNew || again.Path != v.Path {
		t.Errorf("a second creation: %+v, %v, %v", again, isNew, err)
	}
	super := make([]byte, 2)
	read := func() string {
		t.Helper()
		file, err := os.Open(v.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := file.ReadAt(super, 1024+0x38); err != nil {
			t.Fatal(err)
		}
		return string(super)
	}
	if err := s.FormatDisk(ctx, v); err != nil || read() != "\x53\xef" {
		t.Errorf("%v, the magic number is %q", err, super)
	}
	if err := os.WriteFile(v.Path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.FormatDisk(ctx, v); err != nil || read() != "\x00\x00" {
		t.Errorf("%v: what was written has become %q", err, super)
	}
	if _, _, err := s.CreateVolume(ctx, "tree", nil); err != nil {
		t.Fatal(err)
	}
	for says, create := range map[string]func() error{
		"--mount type=disk": func() error { _, _, err := s.CreateVolume(ctx, "data", nil); return err },
		"not 128MiB":        func() error { _, _, err := s.CreateDisk(ctx, "data", 128<<20, nil); return err },
		"by -v":             func() error { _, _, err := s.CreateDisk(ctx, "tree", 64<<20, nil); return err },
	} {
		if err := create(); !api.IsKind(err, api.Conflict) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, which does not say %q", err, says)
		}
	}
	if err := s.RemoveVolume(ctx, "data"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Dir(v.Path)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after the removal: %v", err)
	}
}
