package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
)

func open(t testing.TB) *image.Store {
	t.Helper()
	return openAt(t, t.TempDir(), image.Options{})
}

func openAt(t testing.TB, root string, opt image.Options) *image.Store {
	t.Helper()
	s, err := image.Open(root, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// rootfs makes the archive of a root filesystem from names and contents; a
// name that ends in a slash is a directory.
func rootfs(t testing.TB, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		h := tar.Header{Typeflag: tar.TypeReg, Name: files[i], Mode: 0o755, Size: int64(len(files[i+1]))}
		if strings.HasSuffix(files[i], "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func imported(t testing.TB, s *image.Store, name string, archive []byte) image.Image {
	t.Helper()
	names, err := s.Import(t.Context(), bytes.NewReader(archive), image.ImportOptions{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.Resolve(t.Context(), names[0])
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// mountLayer mounts one layer and returns where.
func mountLayer(t testing.TB, l image.Layer) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount(l.Path, dir, "erofs", unix.MS_RDONLY|unix.MS_NODEV, ""); err != nil {
		t.Fatalf("mount %s: %v", l.Path, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestImportRootfs(t *testing.T) {
	s := open(t)
	img := imported(t, s, "tiny", rootfs(t, "etc/", "", "etc/hostname", "tiny\n"))
	if len(img.Layers) != 1 || img.Name != "tiny:latest" || img.Config.Command[0] != "/bin/sh" {
		t.Fatalf("%+v", img)
	}
	b, err := os.ReadFile(filepath.Join(mountLayer(t, img.Layers[0]), "etc/hostname"))
	if err != nil || string(b) != "tiny\n" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestBase(t *testing.T) {
	s := open(t)
	if _, err := s.Base(t.Context(), "", nil); err != nil {
		t.Fatal(err)
	}
	img, err := s.Resolve(t.Context(), "base")
	if err != nil {
		t.Fatal(err)
	}
	dir := mountLayer(t, img.Layers[0])
	for _, name := range []string{"bin/sh", "usr/bin/env", "etc/passwd", "tmp"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	if fi, err := os.Stat(filepath.Join(dir, "tmp")); err != nil || fi.Mode()&os.ModeSticky == 0 {
		t.Errorf("/tmp is %v, %v", fi.Mode(), err)
	}
	// Another store makes the same image, bit by bit.
	other := open(t)
	if _, err := other.Base(t.Context(), "", nil); err != nil {
		t.Fatal(err)
	}
	again, err := other.Resolve(t.Context(), "base")
	if err != nil || again.Digest != img.Digest || again.Layers[0].EROFS != img.Layers[0].EROFS {
		t.Errorf("second build: %v, %v; first %v", again.Digest, err, img.Digest)
	}
}

func TestNothingLeftAfterFailure(t *testing.T) {
	root := t.TempDir()
	s := openAt(t, root, image.Options{})
	if _, err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := files(t, root)
	archive := rootfs(t, "a", strings.Repeat("x", 100_000), "../evil", "x")
	_, err := s.Import(t.Context(), bytes.NewReader(archive), image.ImportOptions{Name: "evil"})
	if !api.IsKind(err, api.Invalid) || !strings.Contains(err.Error(), `import evil: entry "../evil": refused`) {
		t.Errorf("got %v", err)
	}
	if after := files(t, root); len(after) != len(before) {
		t.Errorf("left behind: %v, before %v", after, before)
	}
	if list, err := s.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

// files lists the files below a store's root.
func files(t testing.TB, root string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, strings.TrimPrefix(path, root))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestHoldOutlivesNameAndRestart(t *testing.T) {
	root := t.TempDir()
	s := openAt(t, root, image.Options{})
	img := imported(t, s, "a", rootfs(t, "f", "a"))
	ctx := context.Background()
	s.Hold("instance-1", img.Digest)
	if _, err := s.Remove(ctx, "a"); !api.IsKind(err, api.InUse) || !strings.Contains(err.Error(), "instance-1") {
		t.Errorf("remove of a held image: %v", err)
	}
	imported(t, s, "a", rootfs(t, "f", "b")) // the name moves on
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openAt(t, root, image.Options{})
	s.Hold("instance-1", img.Digest) // as its record says
	if _, err := s.Collect(ctx); err != nil {
		t.Fatal(err)
	}
	again, err := s.ResolveDigest(ctx, img.Digest)
	if err != nil || again.Layers[0].Path != img.Layers[0].Path {
		t.Fatalf("%v, %v", again, err)
	}
	if _, err := os.Stat(img.Layers[0].Path); err != nil {
		t.Error(err)
	}
	s.Release("instance-1")
	if freed, err := s.Collect(ctx); err != nil || freed == 0 {
		t.Errorf("freed %d, %v", freed, err)
	}
	if _, err := os.Stat(img.Layers[0].Path); err == nil {
		t.Error("the layer is still there")
	}
	if _, err := s.ResolveDigest(ctx, img.Digest); !api.IsKind(err, api.NotFound) {
		t.Error(err)
	}
}

func TestNamesAndRemoval(t *testing.T) {
	s := open(t)
	ctx := t.Context()
	img := imported(t, s, "a:1", rootfs(t, "f", "x"))
	if err := s.Tag(ctx, "a:1", "host:5000/b:2"); err != nil {
		t.Fatal(err)
	}
	list, err := s.List(ctx)
	if err != nil || len(list) != 2 || list[0].Name != "a:1" || list[1].Name != "host:5000/b:2" || list[0].Digest != list[1].Digest || list[0].Type != image.TypeRootFS {
		t.Fatalf("%+v, %v", list, err)
	}
	full, err := s.Inspect(ctx, "b:2")
	if !api.IsKind(err, api.NotFound) {
		t.Errorf("%+v, %v", full, err)
	}
	if full, err = s.Inspect(ctx, "host:5000/b:2"); err != nil || len(full.Layers) != 1 || full.Layers[0].EROFS == 0 || full.Config == nil || full.Platform != "linux/amd64" {
		t.Errorf("%+v, %v", full, err)
	}
	// By the first digits of the digest, and by all of them.
	for _, d := range []string{img.Digest[7:19], img.Digest[7:], img.Digest} {
		if got, err := s.Resolve(ctx, d); err != nil || got.Digest != img.Digest {
			t.Errorf("resolve %s: %v, %v", d, got.Digest, err)
		}
	}
	s.Hold("i", img.Digest)
	// One of two names may go while the image is in use, the last may not.
	if name, err := s.Remove(ctx, "a:1"); err != nil || name != "a:1" {
		t.Error(name, err)
	}
	if _, err := s.Remove(ctx, "host:5000/b:2"); !api.IsKind(err, api.InUse) {
		t.Error(err)
	}
	if removed, _, err := s.Prune(ctx, image.PruneOptions{All: true}); err != nil || len(removed) != 0 {
		t.Error(removed, err)
	}
	if full, err := s.Inspect(ctx, "host:5000/b:2"); err != nil || len(full.Users) != 1 || full.Users[0] != "i" {
		t.Errorf("%+v, %v", full, err)
	}
	s.Release("i")
	if removed, freed, err := s.Prune(ctx, image.PruneOptions{All: true}); err != nil || len(removed) != 1 || freed == 0 {
		t.Error(removed, freed, err)
	}
	for _, name := range []string{"a:1", "host:5000/b:2", "nothing"} {
		if _, err := s.Resolve(ctx, name); !api.IsKind(err, api.NotFound) || !strings.Contains(err.Error(), "berth pull") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLayerIsMadeAgain loses an EROFS image, as a copied or damaged store may.
func TestLayerIsMadeAgain(t *testing.T) {
	root := t.TempDir()
	s := openAt(t, root, image.Options{})
	img := imported(t, s, "a", rootfs(t, "f", "x"))
	if err := os.Remove(img.Layers[0].Path); err != nil {
		t.Fatal(err)
	}
	again, err := s.Resolve(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(again.Layers[0].Path); err != nil {
		t.Error(err)
	}
}
