package container

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/instance/instancetest"
	"github.com/berthcloud/berth/internal/keeper"
)

// bin holds the programs under test, built once.
var bin string

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "berth-container")
	if err == nil {
		bin = dir
		var out []byte
		build := exec.Command("go", "build", "-o", dir, "../../../cmd/berth-oci", "../../../cmd/berth-keeper")
		build.Env = append(os.Environ(), "CGO_ENABLED=0") // the reaping init runs where no dynamic linker is
		out, err = build.CombinedOutput()
		os.Stderr.Write(out)
	}
	code := 1
	if err == nil {
		code = m.Run()
	}
	os.RemoveAll(dir)
	// The parent of the tests' cgroups, unless another package's tests use it.
	parents, _ := filepath.Glob("/sys/fs/cgroup/*/berth-test")
	for _, parent := range append(parents, "/sys/fs/cgroup/berth-test") {
		_ = unix.Rmdir(parent)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// world is what one test's driver stands on.
type world struct {
	run    string
	client *keeper.Client
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	w := &world{run: t.TempDir()}
	w.client = keeper.New(keeper.Config{Run: w.run, Binary: filepath.Join(bin, "berth-keeper")})
	t.Cleanup(func() {
		if err := w.client.Shutdown(context.Background()); err != nil {
			t.Errorf("keeper: %v", err)
		}
	})
	return w
}

func (w *world) driver(*testing.T) instance.Driver {
	return New(Config{Keeper: w.client, Runtime: filepath.Join(bin, "berth-oci"), State: filepath.Join(w.run, "oci"), Host: host()})
}

func host() instance.Host {
	var fs unix.Statfs_t
	_ = unix.Statfs("/sys/fs/cgroup", &fs)
	return instance.Host{
		Arch: runtime.GOARCH, CPUs: runtime.NumCPU(), Memory: 1 << 30,
		UserNamespaces: true, CgroupV2: fs.Type == unix.CGROUP2_SUPER_MAGIC,
	}
}

// layer makes a root filesystem of busybox.
func layer(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layer")
	for _, d := range []string{"bin", "etc", "tmp", "root"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "tmp"), 0o1777); err != nil {
		t.Fatal(err)
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs busybox-static")
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "cat", "head", "sleep", "true", "id", "ls", "echo", "touch", "mkdir", "ps", "grep", "mount"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// prepare completes a run with a root filesystem and a range of ids.
func prepare(t *testing.T, process instance.Process) *instance.Prepared {
	t.Helper()
	p := instancetest.Prepare(t, process)
	p.Rootfs = instance.Rootfs{Layers: []string{layer(t)}, Upper: filepath.Join(p.Dir, "upper"), Work: filepath.Join(p.Dir, "work")}
	for _, dir := range []string{p.Rootfs.Upper, p.Rootfs.Work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p.Users = instance.IDRange{First: 1 << 20, Size: 1 << 16}
	return p
}

func TestSuite(t *testing.T) {
	w := newWorld(t)
	instancetest.Run(t, instancetest.Harness{Driver: w.driver, Prepare: prepare, Host: host()})
}
