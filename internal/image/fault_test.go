package image_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/testenv"
)

func TestMain(m *testing.M) {
	if root := os.Getenv(killRoot); root != "" {
		workUntilKilled(root, os.Getenv(killWork), os.Getenv(killArg))
	}
	os.Exit(testenv.Main(m))
}

// TestKilledImport kills a process at several points of an import. The store
// opens again, is sound, shows nothing half-done, and imports the same image.
func TestKilledImport(t *testing.T) {
	archive := rootfs(t, "etc/", "", "big", strings.Repeat("0123456789", 500_000), "f", "x")
	for _, at := range []int{0, 600, len(archive) / 2, len(archive) - 700} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			root := t.TempDir()
			s := openAt(t, root, image.Options{})
			imported(t, s, "old", rootfs(t, "f", "old"))
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			killWriting(t, worker(root, "import", ""), archive[:at])

			s = openAt(t, root, image.Options{})
			list, err := s.List(t.Context())
			if err != nil || len(list) != 1 || list[0].Name != "old:latest" {
				t.Fatalf("%+v, %v", list, err)
			}
			if img, err := s.Resolve(t.Context(), "old"); err != nil {
				t.Fatalf("%+v, %v", img, err)
			}
			img := imported(t, s, "killed", archive)
			if b, err := os.ReadFile(filepath.Join(mountLayer(t, img.Layers[0]), "f")); err != nil || string(b) != "x" {
				t.Errorf("%q, %v", b, err)
			}
			if left, _ := os.ReadDir(filepath.Join(root, "tmp")); len(left) != 0 {
				t.Errorf("left in tmp: %v", left)
			}
		})
	}
}

// smallDisk returns a directory on a filesystem of 6 MiB.
func smallDisk(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	root := t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=6m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// containerd leaves the file by which it looks for fs-verity to the garbage
		// collector (fsverity.IsSupported).
		testenv.Eventually(t, 10*time.Second, func() error {
			runtime.GC()
			return unix.Unmount(root, 0)
		})
	})
	return root
}

// TestDiskFull fills the disk in the middle of an import.
func TestDiskFull(t *testing.T) {
	root := smallDisk(t)
	s, err := image.Open(root, image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	imported(t, s, "small", rootfs(t, "f", "x"))
	before := files(t, root)
	_, err = s.Import(t.Context(), bytes.NewReader(rootfs(t, "f", strings.Repeat("x", 20<<20))), image.ImportOptions{Name: "large"})
	if !api.IsKind(err, api.Exhausted) || !strings.Contains(err.Error(), "no space left") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %s: %v", api.KindOf(err), err)
	}
	if d := cmp.Diff(before, files(t, root)); d != "" {
		t.Errorf("left behind: %s", d)
	}
	if _, err := s.Resolve(t.Context(), "small"); err != nil {
		t.Error(err)
	}
}

// TestCollectWhileInUse collects garbage all the time while images are
// imported, held, renamed and removed: what is in use is never taken.
func TestCollectWhileInUse(t *testing.T) {
	s := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	var collector, workers sync.WaitGroup
	collector.Go(func() {
		for ctx.Err() == nil {
			if _, err := s.Collect(context.WithoutCancel(ctx)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	shared := rootfs(t, "shared", "layer")
	for w := range 3 {
		workers.Go(func() {
			for i := range 8 {
				archive := shared // the same for all: its layers are shared
				if i%2 == 1 {
					archive = rootfs(t, "own", fmt.Sprintf("%d-%d", w, i))
				}
				name, holder := fmt.Sprintf("image-%d", w), fmt.Sprintf("holder-%d", w)
				if err := useAndDrop(t, s, name, holder, archive); err != nil {
					t.Errorf("worker %d, round %d: %v", w, i, err)
					return
				}
			}
		})
	}
	workers.Wait()
	cancel()
	collector.Wait()
	if _, err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list, err := s.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

// useAndDrop is the life of an image: its content is there as long as it is held.
func useAndDrop(t *testing.T, s *image.Store, name, holder string, archive []byte) error {
	ctx := t.Context()
	if _, err := s.Import(ctx, bytes.NewReader(archive), image.ImportOptions{Name: name}); err != nil {
		return err
	}
	img, err := s.Resolve(ctx, name)
	if err != nil {
		return err
	}
	s.Hold(holder, img.Digest)
	if err := s.Tag(ctx, name, name+"-2"); err != nil {
		return err
	}
	if _, err := s.Remove(ctx, name); err != nil {
		return err
	}
	if _, err := s.ResolveDigest(ctx, img.Digest); err != nil {
		return err
	}
	f, err := os.Open(img.Layers[0].Path)
	if err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, f)
	f.Close()
	if err != nil || n != img.Layers[0].Size {
		return fmt.Errorf("layer of %d bytes has %d: %w", img.Layers[0].Size, n, err)
	}
	s.Release(holder)
	_, err = s.Remove(ctx, name+"-2")
	return err
}

func TestOpenTwice(t *testing.T) {
	root := t.TempDir()
	openAt(t, root, image.Options{})
	// bbolt's lock is per open file, so a second Open in this process sees it.
	if _, err := image.Open(root, image.Options{}); !api.IsKind(err, api.InUse) || !strings.Contains(err.Error(), "another berthd") {
		t.Errorf("got %v", err)
	}
}

// TestStateIsPrivate is row 13 of the attack classes.
func TestStateIsPrivate(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	s := openAt(t, root, image.Options{})
	imported(t, s, "a", rootfs(t, "f", "x"))
	info, err := os.Stat(root)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%s is %v, %v", root, info.Mode(), err)
	}
	for _, name := range []string{"content", "tmp", "meta.db"} {
		info, err := os.Stat(filepath.Join(root, name))
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is %v, %v", name, info.Mode(), err)
		}
	}
}

// killWriting starts a worker and kills it when it has been given a part of its input.
func killWriting(t *testing.T, cmd *exec.Cmd, part []byte) {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// A pipe holds 64 KiB: when the write returns, nearly all was read.
	if _, err := in.Write(part); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	wasKilled(t, cmd)
}
