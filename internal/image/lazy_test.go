package image_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/image/lazy"
	"github.com/berthcloud/berth/internal/image/lazy/lazytest"
	"github.com/berthcloud/berth/internal/testenv"
)

const (
	cargoFiles = 12
	cargoSize  = 1<<20 + 777
)

// cargo is a layer of some files of a MiB, one small, one empty, links and a whiteout.
func cargo(t testing.TB) lazytest.Layer {
	files := []lazytest.File{{Header: tar.Header{Typeflag: tar.TypeDir, Name: "cargo/", Mode: 0o750, Uid: 7}}}
	for i := range cargoFiles {
		files = append(files, lazytest.File{Header: tar.Header{Name: fmt.Sprintf("cargo/%d", i)}, Content: lazytest.Cargo(i, cargoSize)})
	}
	return lazytest.NewLayer(t, append(files,
		lazytest.File{Header: tar.Header{Name: "small", PAXRecords: map[string]string{"SCHILY.xattr.user.note": "yes"}}, Content: []byte("small\n")},
		lazytest.File{Header: tar.Header{Name: "empty"}},
		lazytest.File{Header: tar.Header{Typeflag: tar.TypeLink, Name: "again", Linkname: "small"}},
		lazytest.File{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "link", Linkname: "small"}},
		lazytest.File{Header: tar.Header{Name: "cargo/.wh.gone"}},
	)...)
}

// openLazy opens a store that uses images before they have arrived.
func openLazy(t *testing.T, root string) *image.Store {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	s, err := image.Open(root, image.Options{Stall: 2 * time.Second, Lazy: image.LazyOptions{
		Program: lazy.Program{Path: filepath.Join(testenv.Programs(t), "berth-lazy"), User: 65534},
		Run:     filepath.Join(root, "run"), Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// lazyStore is openLazy for a test that needs one store. Its servers end with the test.
func lazyStore(t *testing.T) (*image.Store, string) {
	t.Helper()
	root := testenv.Dir(t)
	s := openLazy(t, root)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if left := served(t, root); len(left) != 0 {
			t.Errorf("left mounted: %v", left)
		}
	})
	return s, root
}

// served returns where layers of a store are mounted that have not arrived.
func served(t *testing.T, root string) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(root, "run", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

// pullLazily pulls an image of one layer of cargo, and mounts that.
func pullLazily(t *testing.T, s *image.Store, ref string) (name, dir string) {
	t.Helper()
	name, err := s.Pull(t.Context(), ref, image.PullOptions{Lazy: true})
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.Resolve(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return name, mountLayer(t, img.Layers[0])
}

// arrived waits until an image has arrived.
func arrived(t *testing.T, s *image.Store, name string) image.Image {
	t.Helper()
	var img image.Image
	testenv.Eventually(t, 30*time.Second, func() error {
		var err error
		if img, err = s.Resolve(t.Context(), name); err != nil {
			return err
		}
		for _, l := range img.Layers {
			if !strings.Contains(l.Path, "/content/blobs/") {
				return fmt.Errorf("layer %.12s is still at %s", l.Digest, l.Path)
			}
		}
		return nil
	})
	return img
}

// holds fails the test where a file of the cargo has another content than it should.
func holds(t *testing.T, dir string, i int) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(dir, "cargo", fmt.Sprint(i)))
	if err != nil || !bytes.Equal(got, lazytest.Cargo(i, cargoSize)) {
		t.Errorf("cargo/%d has %d bytes, %v", i, len(got), err)
	}
}

// sound fails the test where the store is not.
func sound(t *testing.T, s *image.Store) {
	t.Helper()
	if c, err := s.Check(t.Context(), image.CheckOptions{}); err != nil || c.Broken != 0 {
		t.Errorf("the store is %+v, %v", c, err)
	}
}

// TestLazyPull uses an image of which a part has arrived, and again when all has: it is
// the same filesystem to the byte.
func TestLazyPull(t *testing.T) {
	testenv.Check(t)
	r, l := lazytest.New(t), cargo(t)
	r.Push(t, "app:1", nil, l)
	s, _ := lazyStore(t)
	name, dir := pullLazily(t, s, r.Host+"/app:1")
	for name, want := range map[string]string{"small": "small\n", "again": "small\n", "link": "small\n", "empty": ""} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	holds(t, dir, 7)
	if sent := r.Sent.Load(); sent > int64(len(l.Blob))/2 {
		t.Errorf("%d of %d bytes were sent for one file of %d", sent, len(l.Blob), cargoFiles)
	}
	sound(t, s)
	img, err := s.Resolve(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(img.Layers[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	saved := make(chan error, 1)
	go func() { saved <- s.Export(t.Context(), io.Discard, name) }() // waits for the rest
	r.Open()
	if err := <-saved; err != nil {
		t.Errorf("save: %v", err)
	}
	img = arrived(t, s, name)
	if after, err := os.ReadFile(img.Layers[0].Path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("what has arrived differs from what was used before: %d and %d bytes, %v", len(before), len(after), err)
	}
	sound(t, s)
	holds(t, dir, 3) // of the mount from before
}

// TestLazyTampered pulls from a registry that changes a bit in the middle of the layer:
// that file cannot be read, others can, and the layer does not become an ordinary one.
func TestLazyTampered(t *testing.T) {
	testenv.Check(t)
	r, l := lazytest.New(t), cargo(t)
	r.Push(t, "app:1", nil, l)
	mark := lazytest.Cargo(5, cargoSize)[300<<10:][:64]
	spoil := func(p []byte) {
		if i := bytes.Index(p, mark); i >= 0 {
			p[i] ^= 1
		}
	}
	r.Spoil.Store(&spoil)
	s, _ := lazyStore(t)
	name, dir := pullLazily(t, s, r.Host+"/app:1")
	if _, err := os.ReadFile(filepath.Join(dir, "cargo/5")); !errors.Is(err, syscall.EIO) {
		t.Errorf("a spoiled file: %v", err)
	}
	holds(t, dir, 4)
	r.Open()
	r.Spoil.Store(nil)
	arrived(t, s, name)
	holds(t, dir, 5)
	sound(t, s)
}

// TestLazyRefused pulls what cannot be used before it has arrived.
func TestLazyRefused(t *testing.T) {
	testenv.Check(t)
	r, l := lazytest.New(t), cargo(t)
	other := lazytest.NewLayer(t, lazytest.File{Header: tar.Header{Name: "other"}, Content: []byte("x")})
	hostile := lazytest.NewLayer(t, lazytest.File{Header: tar.Header{Name: "../escape"}, Content: []byte("x")})
	r.Push(t, "wrong:1", nil, lazytest.Layer{Blob: l.Blob, TOC: other.TOC})
	r.Push(t, "hostile:1", nil, hostile)
	r.Push(t, "app:1", nil, l)
	r.Push(t, "plain:1", nil, lazytest.Layer{Blob: rootfs(t, "a", "b"), TOC: l.TOC})
	s, root := lazyStore(t)
	for repo, want := range map[string]string{"wrong": "but the image's manifest says", "hostile": "leads out of the root"} {
		_, err := s.Pull(t.Context(), r.Host+"/"+repo+":1", image.PullOptions{Lazy: true})
		if k := api.KindOf(err); err == nil || k != api.Corrupt && k != api.Invalid || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", repo, err)
		}
	}
	r.Open()
	for repo, want := range map[string]string{"app": "does not send parts", "plain": "no eStargz layer"} {
		r.Whole.Store(repo == "app")
		var said string
		name, err := s.Pull(t.Context(), r.Host+"/"+repo+":1", image.PullOptions{Lazy: true, Progress: func(p api.Progress) {
			if p.Text != "" {
				said = p.Text
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(said, want) {
			t.Errorf("%s: it says %q", repo, said)
		}
		if img, err := s.Resolve(t.Context(), name); err != nil || !strings.Contains(img.Layers[0].Path, "/content/blobs/") {
			t.Errorf("%s: %+v, %v", repo, img.Layers, err)
		}
	}
	if left := served(t, root); len(left) != 0 {
		t.Errorf("left mounted: %v", left)
	}
	if left, _ := os.ReadDir(filepath.Join(root, "lazy")); len(left) != 0 {
		t.Errorf("left on disk: %v", left)
	}
	sound(t, s)
}

// TestLazyRegistryGone reads from an image whose registry is gone: that fails, for the
// second reader at once, and works again when the registry is back.
func TestLazyRegistryGone(t *testing.T) {
	if testing.Short() {
		t.Skip("waits until a registry is given up")
	}
	testenv.Check(t)
	r, l := lazytest.New(t), cargo(t)
	r.Push(t, "app:1", nil, l)
	s, _ := lazyStore(t)
	name, dir := pullLazily(t, s, r.Host+"/app:1")
	holds(t, dir, 2)
	r.Down.Store(true)
	for _, file := range []string{"cargo/9", "cargo/10"} {
		if _, err := os.ReadFile(filepath.Join(dir, file)); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v", file, err)
		}
	}
	holds(t, dir, 2) // what is here
	r.Down.Store(false)
	testenv.Eventually(t, 30*time.Second, func() error {
		_, err := os.ReadFile(filepath.Join(dir, "cargo/9"))
		return err
	})
	holds(t, dir, 9)
	r.Open()
	arrived(t, s, name)
	sound(t, s)
}

// TestLazyDropped removes an image before it has arrived: nothing is left.
func TestLazyDropped(t *testing.T) {
	testenv.Check(t)
	r, l := lazytest.New(t), cargo(t)
	r.Push(t, "app:1", nil, l)
	r.Push(t, "app:2", []string{"/other"}, l)
	s, root := lazyStore(t)
	var names []string
	for _, tag := range []string{"1", "2"} {
		name, err := s.Pull(t.Context(), r.Host+"/app:"+tag, image.PullOptions{Lazy: true})
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	if dirs := served(t, root); len(dirs) != 1 {
		t.Errorf("one layer of two images is served as %v", dirs)
	}
	if _, err := s.Remove(t.Context(), names[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Resolve(t.Context(), names[1]); err != nil {
		t.Errorf("the other image of the layer: %v", err)
	}
	if _, err := s.Remove(t.Context(), names[1]); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 10*time.Second, func() error {
		left, err := os.ReadDir(filepath.Join(root, "lazy"))
		if dirs := served(t, root); len(left) > 0 || len(dirs) > 0 || err != nil {
			return fmt.Errorf("left: %v, %v, %w", left, dirs, err)
		}
		return nil
	})
}

// TestLazyAfterCrash goes on with what a crash of the host has left: a part of the layer,
// and zeros where there was more.
func TestLazyAfterCrash(t *testing.T) {
	if testing.Short() {
		t.Skip("fetches a whole layer twice")
	}
	testenv.Check(t)
	r, l := lazytest.New(t), cargo(t)
	r.Push(t, "app:1", nil, l)
	root := testenv.Dir(t)
	s := openLazy(t, root)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	name, err := s.Pull(t.Context(), r.Host+"/app:1", image.PullOptions{Lazy: true})
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.Resolve(t.Context(), name)
	if err == nil {
		_, err = os.ReadFile(img.Layers[0].Path)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	parts, err := filepath.Glob(filepath.Join(root, "lazy", "*", strings.TrimPrefix(img.Layers[0].Digest, "sha256:")))
	if err != nil || len(parts) != 1 {
		t.Fatalf("%v, %v", parts, err)
	}
	f, err := os.OpenFile(parts[0], os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt(make([]byte, len(l.Blob)*3/4), int64(len(l.Blob)/4)) // the table of contents, too
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	s = openLazy(t, root)
	if img, err = s.Resolve(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	dir := mountLayer(t, img.Layers[0])
	for i := range cargoFiles {
		holds(t, dir, i)
	}
	r.Open()
	arrived(t, s, name)
	sound(t, s)
}
