package oci_test

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// needsCRIU skips where CRIU is missing or too old for the kernel. TestRackSystemd
// has a host where it works.
func needsCRIU(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("criu", "check").CombinedOutput(); err != nil {
		t.Skipf("criu check: %v: %s", err, out)
	}
}

// counting prints numbers as fast as one can follow.
const counting = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"

// counter reads what a container that counts prints.
type counter struct {
	t    *testing.T
	cmd  *exec.Cmd
	scan *bufio.Scanner
}

// count starts a command of berth-oci whose output, or that of the container it
// leaves behind, are numbers.
func (b *box) count(args ...string) *counter {
	b.t.Helper()
	r, w, err := os.Pipe()
	must(b.t, err)
	defer w.Close()
	b.t.Cleanup(func() { r.Close() })
	cmd := exec.Command(binary, append([]string{"--root", b.root}, args...)...)
	cmd.Stdout, cmd.Stderr = w, w
	must(b.t, cmd.Start())
	return &counter{b.t, cmd, bufio.NewScanner(r)}
}

// next returns the next number, or 0 at the end.
func (c *counter) next() int {
	c.t.Helper()
	if !c.scan.Scan() {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(c.scan.Text()))
	if err != nil {
		c.t.Fatalf("not a number: %v", err)
	}
	return n
}

// last reads to the end and returns the last number.
func (c *counter) last() (n int) {
	c.t.Helper()
	for m := c.next(); m > 0; m = c.next() {
		n = m
	}
	return n
}

// TestCheckpoint stops containers that count, and lets them go on counting in
// another life.
func TestCheckpoint(t *testing.T) {
	needsCRIU(t)
	for name, setup := range map[string]func(b *box){
		"user namespace": (*box).userNamespace,
		"terminal":       func(b *box) { b.spec.Process.Terminal = true },
		"of the host": func(b *box) { // mounts, and the cgroups of the host to see
			dir := b.t.TempDir()
			must(b.t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
			must(b.t, os.Symlink("/tmp", filepath.Join(b.rootfs(), "link")))
			b.spec.Mounts = append(b.spec.Mounts,
				specs.Mount{Destination: "/link/dir", Type: "bind", Source: dir, Options: []string{"rbind", "ro"}},
				specs.Mount{Destination: "/file", Type: "bind", Source: filepath.Join(dir, "file"), Options: []string{"bind"}})
			b.spec.Linux.Namespaces = slices.DeleteFunc(b.spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool {
				return ns.Type == specs.CgroupNamespace
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, counting)
			setup(b)
			b.write()
			images := filepath.Join(b.bundle, "images")
			first := b.count("run", "--keep", "--bundle", b.bundle, b.id)
			for first.next() < 5 {
			}
			if out := b.oci("checkpoint", "--image-path", images, b.id); out.code != 0 {
				t.Fatalf("%+v", out)
			}
			last := first.last()
			_ = first.cmd.Wait()
			if s := b.status(); s != "stopped" {
				t.Errorf("after the checkpoint: %s", s)
			}
			if out := b.oci("delete", b.id); out.code != 0 {
				t.Errorf("%+v", out)
			}
			second := b.count("restore", "--bundle", b.bundle, "--image-path", images, b.id)
			if n := second.next(); n <= last || n > last+2 {
				t.Errorf("goes on with %d after %d", n, last)
			}
			// It counts on before CRIU, and then the runtime, have said so.
			eventually(t, "running", func() bool { return b.status() == "running" })
			if out := b.oci("exec", b.id, "ls", "/"); out.code != 0 {
				t.Errorf("exec after the restore: %+v", out)
			}
			b.oci("kill", b.id, "KILL")
			second.last()
			_ = second.cmd.Wait()
			if code := second.cmd.ProcessState.ExitCode(); code != 137 {
				t.Errorf("exit status %d", code)
			}
			b.nothing()
		})
	}
}

// TestCheckpointDetached: a container that runs on, twice a memory before, and a
// restored one that nobody waits for, under another id.
func TestCheckpointDetached(t *testing.T) {
	needsCRIU(t)
	b := newBox(t, counting)
	b.spec.Linux.CgroupsPath = ""
	b.write()
	first := b.count("run", "--detach", "--bundle", b.bundle, b.id)
	must(t, first.cmd.Wait())
	dir := t.TempDir()
	seen := 0
	for _, args := range [][]string{
		{"--pre-dump", "--image-path", dir + "/1"},
		{"--pre-dump", "--image-path", dir + "/2", "--parent-path", "../1"},
		{"--leave-running", "--image-path", dir + "/3", "--parent-path", "../2", "--work-path", dir + "/logs", "--file-locks", "--tcp-established"},
	} {
		n := first.next()
		if out := b.oci(append(append([]string{"checkpoint"}, args...), b.id)...); out.code != 0 {
			t.Fatalf("%v: %+v", args, out)
		}
		for seen = n; seen < n+5; seen = first.next() {
		}
	}
	if _, err := os.Stat(dir + "/logs/dump.log"); err != nil {
		t.Error(err)
	}
	b.oci("delete", "--force", b.id)
	last := max(seen, first.last()) // it may have said nothing since

	other := *b
	other.id += "b"
	pidFile := filepath.Join(b.bundle, "pid")
	second := other.count("restore", "--detach", "--bundle", b.bundle, "--image-path", dir+"/3", "--pid-file", pidFile, other.id)
	must(t, second.cmd.Wait())
	if n := second.next(); n < 10 || n > last {
		t.Errorf("goes on with %d, the first life ended with %d", n, last)
	}
	pid, err := os.ReadFile(pidFile)
	must(t, err)
	if out := other.oci("state", other.id); !strings.Contains(out.stdout, `"pid": `+string(pid)) || !strings.Contains(out.stdout, `"running"`) {
		t.Errorf("%s: %+v", pid, out)
	}
	if out := other.oci("delete", "--force", other.id); out.code != 0 {
		t.Errorf("%+v", out)
	}
	other.nothing()
}

// TestCheckpointFails in one line that names the way out, and leaves the container as
// it was.
func TestCheckpointFails(t *testing.T) {
	b := newBox(t, counting)
	b.start()
	images := filepath.Join(b.bundle, "images")
	fails := func(says string, args ...string) {
		t.Helper()
		out := b.oci(args...)
		if out.code != 1 || !strings.Contains(out.stderr, says) || strings.Count(out.stderr, "\n") != 1 {
			t.Errorf("%v: %+v, want %q", args, out, says)
		}
	}
	t.Setenv("PATH", t.TempDir())
	fails("install the package criu", "checkpoint", "--image-path", images, b.id)
	fails("is none of soft, full, strict, ignore", "checkpoint", "--manage-cgroups-mode", "wild", b.id)
	fails("container does not exist", "checkpoint", "--image-path", images, b.id+"x")
	if s := b.status(); s != "running" {
		t.Errorf("after failures: %s", s)
	}
	b.oci("kill", b.id, "KILL")
	eventually(t, "stopped", func() bool { return b.status() == "stopped" })
	fails("not running", "checkpoint", "--image-path", images, b.id)
	if out := b.oci("delete", b.id); out.code != 0 {
		t.Errorf("%+v", out)
	}
	fails("holds no checkpoint", "restore", "--bundle", b.bundle, "--image-path", t.TempDir(), b.id)
	b.nothing()
}
