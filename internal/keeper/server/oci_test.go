package server_test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/keeper"
)

// container is a bundle with a busybox root filesystem, run by berth-oci.
type container struct {
	*world
	runtime, bundle, id string
}

// newContainer builds berth-oci and a bundle whose process runs the script.
func newContainer(t *testing.T, script string, tty bool) *container {
	t.Helper()
	if testing.Short() {
		t.Skip("builds berth-oci")
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("busybox-static is not installed")
	}
	w := newWorld(t)
	c := &container{world: w, runtime: filepath.Join(w.run, "berth-oci"), bundle: filepath.Join(w.run, "bundle"), id: filepath.Base(w.run)}
	c.command("env", "CGO_ENABLED=0", "go", "build", "-o", c.runtime, "github.com/berthcloud/berth/cmd/berth-oci")
	bin := filepath.Join(c.bundle, "rootfs", "bin")
	for _, dir := range []string{bin, filepath.Join(c.bundle, "rootfs", "proc"), filepath.Join(c.bundle, "rootfs", "dev")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(w.run, 0o711); err != nil { // the container's root must find its filesystem
		t.Fatal(err)
	}
	c.command("cp", busybox, bin)
	c.command("ln", "-s", "busybox", filepath.Join(bin, "sh"))
	type object = map[string]any
	ids := []object{{"containerID": 0, "hostID": 100000, "size": 65536}}
	config, err := json.Marshal(object{
		"ociVersion": "1.2.0",
		"process":    object{"terminal": tty, "user": object{"uid": 0, "gid": 0}, "args": []string{"/bin/sh", "-c", script}, "env": []string{"PATH=/bin"}, "cwd": "/"},
		"root":       object{"path": "rootfs"},
		"mounts": []object{
			{"destination": "/proc", "type": "proc", "source": "proc"},
			{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"mode=755"}},
			{"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": []string{"newinstance", "ptmxmode=0666", "mode=0620"}},
		},
		"linux": object{
			"namespaces":  []object{{"type": "pid"}, {"type": "mount"}, {"type": "user"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}},
			"uidMappings": ids, "gidMappings": ids,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.bundle, "config.json"), config, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { exec.Command(c.runtime, c.args("delete", "--force", c.id)...).Run() })
	return c
}

func (c *container) command(name string, args ...string) {
	c.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		c.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

func (c *container) args(args ...string) []string {
	return append([]string{"--root", filepath.Join(c.run, "oci")}, args...)
}

// create returns the process that keeps the container.
func (c *container) create(kind keeper.StdioKind) keeper.Process {
	p := c.shell(c.id, "")
	p.Mode = keeper.Runtime
	p.PIDFile = filepath.Join(c.run, "pid")
	p.Stdio = keeper.Stdio{Kind: kind, UID: 100000, GID: 100000}
	args := []string{"create", "--bundle", c.bundle, "--pid-file", p.PIDFile}
	if kind == keeper.PTY {
		p.Stdio.ConsoleSocket = filepath.Join(c.run, "console")
		args = append(args, "--console-socket", p.Stdio.ConsoleSocket)
	}
	p.Args = append([]string{c.runtime}, c.args(append(args, c.id)...)...)
	return p
}

func TestContainer(t *testing.T) {
	c := newContainer(t, "echo out; echo err >&2; echo by name >/proc/self/fd/1; exit 7", false)
	c.start(c.create(keeper.Pipes))
	c.command(c.runtime, c.args("start", c.id)...)
	if exit := c.wait(c.id); exit.Code != 7 {
		t.Errorf("exit = %+v", exit)
	}
	got := c.log(c.id)
	for _, want := range []string{"stdout F out\n", "stderr F err\n", "stdout F by name\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("log lacks %q:\n%s", want, got)
		}
	}
}

func TestContainerTerminal(t *testing.T) {
	c := newContainer(t, "read x; echo got $x; test -t 0 && exit 3", true)
	c.start(c.create(keeper.PTY))
	a, err := c.c.Attach(c.ctx, c.id, keeper.AttachOptions{Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	c.command(c.runtime, c.args("start", c.id)...)
	if _, err := a.Write([]byte("input\n")); err != nil {
		t.Error(err)
	}
	out, _, exit, err := collect(c.ctx, a)
	if err != nil || exit.Code != 3 || !strings.Contains(out, "got input") {
		t.Errorf("%q, %+v, %v", out, exit, err)
	}
}

// TestContainerKilledKeeper: a container outlives its keeper, and its exit code
// and output arrive at the next one.
func TestContainerKilledKeeper(t *testing.T) {
	c := newContainer(t, "trap 'echo bye; exit 9' TERM; echo up; while :; do busybox sleep 0.05; done", false)
	c.start(c.create(keeper.Pipes))
	c.command(c.runtime, c.args("start", c.id)...)
	c.eventually("it is up", func() bool { return strings.Contains(c.log(c.id), "up") })
	c.killKeeper()
	if err := c.c.Signal(c.ctx, c.id, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if exit := c.wait(c.id); exit.Code != 9 {
		t.Errorf("exit = %+v", exit)
	}
	if got := c.log(c.id); got != "stdout F up\nstdout F bye\n" {
		t.Errorf("log: %q", got)
	}
}

func TestContainerFails(t *testing.T) {
	c := newContainer(t, "", false)
	if err := os.Remove(filepath.Join(c.bundle, "config.json")); err != nil {
		t.Fatal(err)
	}
	_, err := c.c.Start(c.ctx, c.create(keeper.Pipes))
	var ce *keeper.CommandError
	if !errors.As(err, &ce) || ce.Stderr == "" || strings.Contains(ce.Stderr, "\n") || api.IsKind(err, api.Unavailable) {
		t.Errorf("error = %v", err)
	}
}
