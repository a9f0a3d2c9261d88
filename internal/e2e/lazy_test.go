package e2e

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image/lazy/lazytest"
	"github.com/berthcloud/berth/internal/testenv"
)

const lazyCargo = 24 << 20

// lazyImage puts an image into a registry, of which busybox is a twentieth, at the end.
func lazyImage(t *testing.T, r *lazytest.Registry) (name string, size int64) {
	t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	l := lazytest.NewLayer(t,
		lazytest.File{Header: tar.Header{Name: "cargo"}, Content: lazytest.Cargo(1, lazyCargo)},
		lazytest.File{Header: tar.Header{Name: "bin/busybox"}, Content: busybox},
		lazytest.File{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/sh", Linkname: "busybox"}},
		lazytest.File{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/sleep", Linkname: "busybox"}},
	)
	r.Push(t, "app:1", []string{"/bin/sh"}, l)
	return r.Host + "/app:1", int64(len(l.Blob))
}

// servers returns the processes that serve what has not arrived.
func servers(t *testing.T, w *world) (pids []string) {
	t.Helper()
	for _, pid := range w.PIDs(t, "berth-lazy") {
		if exe, err := os.Readlink("/proc/" + pid + "/exe"); err == nil && filepath.Base(exe) == "berth-lazy" {
			pids = append(pids, pid) // and not the shell that looks for them
		}
	}
	return pids
}

// TestLazy runs instances of both kinds from an image that has not arrived, through
// crashes of who serves it and of berthd, and when it has arrived.
func TestLazy(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("a daemon needs root")
	}
	kinds := both
	if testing.Short() {
		kinds = containers
	}
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) { lazyInstance(t, kind) })
	}
}

func lazyInstance(t *testing.T, kind api.Kind) {
	testenv.CheckOwn(t)
	r := lazytest.New(t)
	name, size := lazyImage(t, r)
	w := &world{Daemon: testenv.NewDaemon(t, testenv.Here(t)), place: local}
	if kind == api.VM {
		for name, file := range archives(t, kernel{"cloud", ""}) {
			if strings.HasPrefix(name, "kernel/") {
				w.Berth(t, "image", "import", file, name)
			}
		}
	}
	lazily := []string{"--pull", "lazy", "--network", "none"}
	w.start(t, kind, "one", append(lazily, name, "/bin/sleep", "1000")...)
	expect(t, "exec", w.Try(t.Context(), "exec", "one", "/bin/sh", "-c", "echo up"), 0, "up\n")
	if sent := r.Sent.Load(); sent > size/2 {
		t.Errorf("%d of %d bytes were sent for a shell", sent, size)
	}
	w.Kill(t)
	w.Start(t)
	expect(t, "exec after berthd's death", w.Try(t.Context(), "exec", "one", "/bin/busybox", "echo", "on"), 0, "on\n")

	pids := servers(t, w)
	if len(pids) != 1 {
		t.Fatalf("servers: %v", pids)
	}
	testenv.Shell(t, w.Machine, "kill -9 "+pids[0])
	w.WaitGone(t, pids[0])
	if r := w.Try(t.Context(), "exec", "one", "/bin/busybox", "md5sum", "/cargo"); r.Exit == 0 {
		t.Errorf("what has not arrived can be read after its server's death: %s", r)
	}
	testenv.Eventually(t, 30*time.Second, func() error {
		if len(servers(t, w)) == 0 {
			return errors.New("no other server")
		}
		return nil
	})
	w.Berth(t, "restart", "-t", "0", "one")
	expect(t, "exec after a restart", w.Try(t.Context(), "exec", "one", "/bin/busybox", "echo", "again"), 0, "again\n")

	r.Open()
	testenv.Eventually(t, time.Minute, func() error {
		if got := w.Berth(t, "image", "inspect", "--format", "{{(index .Layers 0).EROFS}}", name); got == "0" {
			return errors.New("it has not arrived")
		}
		return nil
	})
	w.Berth(t, "image", "fsck")
	r.Down.Store(true)
	sum := fmt.Sprintf("%x", sha256.Sum256(lazytest.Cargo(1, lazyCargo)))
	if got := w.Try(t.Context(), "exec", "one", "/bin/busybox", "sha256sum", "/cargo"); !strings.HasPrefix(got.Stdout, sum) {
		t.Errorf("from before, and still served: %s", got)
	}
	if got := w.Try(t.Context(), run(api.Container, append(lazily, "--rm", name, "/bin/busybox", "sha256sum", "/cargo")...)...); !strings.HasPrefix(got.Stdout, sum) {
		t.Errorf("another instance: %s", got)
	}
	w.remove(t, "one")
	w.Berth(t, "image", "rm", name)
	testenv.Eventually(t, time.Minute, func() error {
		if pids := servers(t, w); len(pids) > 0 {
			return fmt.Errorf("servers still run: %v", pids)
		}
		return nil
	})
}
