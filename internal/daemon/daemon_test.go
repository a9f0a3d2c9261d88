package daemon

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/client"
	"github.com/berthcloud/berth/internal/testenv"
)

// start runs a daemon in this process until the test's end, or until stop.
func start(t *testing.T, root, run string) (c *client.Client, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	cfg := Config{Root: root, Run: run, Bin: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	go func() { done <- Run(ctx, cfg, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		t.Fatalf("start: %v", err)
	}
	c, err := client.New("unix://" + filepath.Join(run, "berthd.sock"))
	if err != nil {
		t.Fatal(err)
	}
	ended := false
	stop = func() error {
		if ended {
			return nil
		}
		ended = true
		cancel()
		return <-done
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return c, stop
}

func needRoot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("a daemon needs root")
	}
}

func TestDaemonsLiveSideBySide(t *testing.T) {
	needRoot(t)
	testenv.Check(t)
	one, _ := start(t, t.TempDir(), testenv.Dir(t))
	two, _ := start(t, t.TempDir(), testenv.Dir(t))
	a, errA := one.Info(t.Context())
	b, errB := two.Info(t.Context())
	if errA != nil || errB != nil || a.Root == b.Root || a.Drivers["container"] != "ready" {
		t.Errorf("%+v, %v; %+v, %v", a, errA, b, errB)
	}
}

func TestPlacesAreNotShared(t *testing.T) {
	needRoot(t)
	testenv.Check(t)
	root, run := t.TempDir(), testenv.Dir(t)
	_, stop := start(t, root, run)
	for _, c := range []Config{{Root: root, Run: testenv.Dir(t)}, {Root: t.TempDir(), Run: run}} {
		c.Log = slog.New(slog.DiscardHandler)
		err := Run(t.Context(), c, func() { t.Error("a second daemon came up") })
		if !api.IsKind(err, api.InUse) || !strings.Contains(err.Error(), "another berthd uses this directory") {
			t.Errorf("err = %v", err)
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	start(t, root, run) // the places are free again
}

func TestRefusedPlaces(t *testing.T) {
	needRoot(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]Config{
		"107":  {Root: t.TempDir(), Run: "/run/" + strings.Repeat("x", 90)},
		"file": {Root: filepath.Join(file, "root"), Run: testenv.Dir(t)},
	} {
		c.Log = slog.New(slog.DiscardHandler)
		err := Run(t.Context(), c, func() { t.Error("the daemon came up") })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("err = %v; want %q in it", err, want)
		}
	}
}

func TestStateIsPrivate(t *testing.T) {
	needRoot(t)
	testenv.Check(t)
	root, run := t.TempDir(), testenv.Dir(t)
	start(t, root, run)
	for dir, want := range map[string]os.FileMode{root: 0o700, run: 0o711} {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %o", dir, info.Mode(), err, want)
		}
	}
	// CVE-2024-25621: what others can pass through must not let them look in.
	list, err := os.ReadDir(run)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if e.Name() != "berthd.sock" && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is open to others: %v", e.Name(), info.Mode())
		}
	}
}

func TestRunDirectoryOfAnotherBoot(t *testing.T) {
	needRoot(t)
	testenv.Check(t)
	root, run := t.TempDir(), testenv.Dir(t)
	_, stop := start(t, root, run)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	stale := filepath.Join(run, "keeper", "stale")
	if err := os.MkdirAll(stale, 0o700); err != nil {
		t.Fatal(err)
	}
	_, stop = start(t, root, run)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(stale); err != nil {
		t.Errorf("in the same boot: %v", err)
	}
	if err := os.WriteFile(filepath.Join(run, "boot_id"), []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, root, run)
	if _, err := os.Stat(stale); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after another boot: %v", err)
	}
}

func TestInstancesArePlacedApart(t *testing.T) {
	needRoot(t)
	testenv.Check(t)
	root := t.TempDir()
	var fs unix.Statfs_t
	if err := unix.Statfs(root, &fs); err != nil || fs.Type != unix.EXT4_SUPER_MAGIC {
		t.Skip("temporary files are not on ext4")
	}
	start(t, root, testenv.Dir(t))
	dir, err := os.Open(filepath.Join(root, "instances"))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	flags, err := unix.IoctlGetUint32(int(dir.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil || flags&topDir == 0 {
		t.Errorf("flags of ROOT/instances are %#x, %v", flags, err)
	}
}
