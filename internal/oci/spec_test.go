package oci_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// shellHook is a hook that runs a script with the container's state in the file S.
func shellHook(script string) []specs.Hook {
	return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin:/usr/bin"}}}
}

// TestHookState gives each kind of hook the status and the pid that belong to its
// point of the lifecycle (runtime.md, State).
func TestHookState(t *testing.T) {
	b := newBox(t, "sleep 100")
	b.spec.Root.Readonly = false
	b.spec.Annotations = map[string]string{"org.example": "x"}
	file := func(name string) string { return filepath.Join(b.rootfs(), name) }
	b.spec.Hooks = &specs.Hooks{
		Prestart:        shellHook("cat >" + file("prestart")),
		CreateRuntime:   shellHook("cat >" + file("createRuntime")),
		CreateContainer: shellHook("cat >" + file("createContainer")),
		StartContainer:  shellHook("cat >/startContainer"),
		Poststart:       shellHook("cat >" + file("poststart")),
		Poststop:        shellHook("cat >" + file("poststop")),
	}
	b.start()
	var state specs.State
	must(t, json.Unmarshal([]byte(b.oci("state", b.id).stdout), &state))
	host := state.Pid
	if out := b.oci("delete", "--force", b.id); out.code != 0 {
		t.Fatalf("%+v", out)
	}
	for _, c := range []struct {
		name   string
		status specs.ContainerState
		pid    int
	}{
		{"prestart", specs.StateCreated, host}, {"createRuntime", specs.StateCreated, host}, {"createContainer", specs.StateCreated, 1},
		{"startContainer", specs.StateCreated, 1}, {"poststart", specs.StateRunning, host}, {"poststop", specs.StateStopped, 0},
	} {
		raw, err := os.ReadFile(file(c.name))
		must(t, err)
		var s specs.State
		must(t, json.Unmarshal(raw, &s))
		if s.Status != c.status || s.Pid != c.pid || s.ID != b.id || s.Bundle != b.bundle || s.Annotations["org.example"] != "x" {
			t.Errorf("%s hook: %s; want %s and pid %d", c.name, raw, c.status, c.pid)
		}
	}
}

// TestHookFailures follows the lifecycle when a hook fails: an error, no container, and
// poststop hooks after whatever hooks came before (runtime.md, Lifecycle, 3 to 13).
func TestHookFailures(t *testing.T) {
	for _, point := range []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart"} {
		b := newBox(t, "sleep 100")
		b.spec.Root.Readonly = false
		trace := filepath.Join(b.bundle, "trace")
		h := &specs.Hooks{Poststop: shellHook("echo poststop >>" + trace)}
		list := map[string]*[]specs.Hook{
			"prestart": &h.Prestart, "createRuntime": &h.CreateRuntime, "createContainer": &h.CreateContainer,
			"startContainer": &h.StartContainer, "poststart": &h.Poststart,
		}[point]
		*list = append(shellHook("echo so and so >&2; exit 3"), shellHook("echo never >>"+trace)...)
		b.spec.Hooks = h
		out := b.run()
		if out.code != 1 || !strings.Contains(out.stderr, "hooks."+point+"[0] /bin/sh: exit status 3: so and so") {
			t.Errorf("%s: %+v", point, out)
		}
		if raw, err := os.ReadFile(trace); err != nil || string(raw) != "poststop\n" {
			t.Errorf("%s: afterwards ran %q, %v; want poststop once", point, raw, err)
		}
		b.nothing()
	}
}

// TestHookTimeout ends a hook that takes longer than it may, and gives it no
// environment but its own.
func TestHookTimeout(t *testing.T) {
	b := newBox(t, "true")
	second := 1
	b.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "60"}, Timeout: &second}}}
	if out := b.run(); out.code != 1 || !strings.Contains(out.stderr, "hooks.createRuntime[0] /bin/sleep: took longer than its timeout of 1 s") {
		t.Errorf("%+v", out)
	}
	env := filepath.Join(b.bundle, "env")
	b.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "/usr/bin/env >" + env}, Env: []string{"A=b"}}}}
	if out := b.run(); out.code != 0 {
		t.Fatalf("%+v", out)
	}
	raw, err := os.ReadFile(env)
	if must(t, err); !strings.Contains(string(raw), "A=b\n") || strings.Contains(string(raw), "HOME=") {
		t.Errorf("environment %q; want A=b and none of the caller's", raw)
	}
	b.nothing()
}

// TestNoProcess creates a container without a process, which start refuses and exec
// does not need (config.md: process is "REQUIRED when start is called").
func TestNoProcess(t *testing.T) {
	b := newBox(t, "")
	b.spec.Process = nil
	b.write()
	for range 2 {
		if out := b.oci("create", "--bundle", b.bundle, b.id); out.code != 0 {
			t.Fatalf("create: %+v", out)
		}
		out := b.oci("start", b.id)
		if out.code != 1 || !strings.Contains(out.stderr, "process: missing") || b.status() != "created" {
			t.Errorf("start: %+v, and the container is %s", out, b.status())
		}
		if out := b.oci("delete", b.id); out.code != 0 {
			t.Errorf("delete: %+v", out)
		}
	}
	if out := b.run(); out.code != 1 || !strings.Contains(out.stderr, "process: missing") {
		t.Errorf("run: %+v", out)
	}
	b.nothing()
}

// TestMountsInOrder lists the mounts as the specification does (config.md: "MUST mount
// entries in the listed order"), and those of kinds that are made in different ways.
func TestMountsInOrder(t *testing.T) {
	b := newBox(t, "cat /proc/self/mountinfo")
	host := t.TempDir()
	b.spec.Mounts = append(b.spec.Mounts,
		specs.Mount{Destination: "/m/1", Type: "bind", Source: host, Options: []string{"rbind", "rprivate"}},
		specs.Mount{Destination: "/m/2", Type: "tmpfs", Source: "tmpfs"},
		specs.Mount{Destination: "/m/3", Type: "bind", Source: "config.json", Options: []string{"bind", "ro"}},
		specs.Mount{Destination: "/m/4", Type: "tmpfs", Source: "tmpfs"})
	b.spec.Root.Readonly = false
	out := b.run()
	at := -1
	for _, m := range b.spec.Mounts {
		i := strings.Index(out.stdout, " "+m.Destination+" ")
		if i <= at {
			t.Errorf("%s is not listed after what comes before it: %+v", m.Destination, out)
		}
		at = i
	}
	b.nothing()
}

// TestMountPropagation mounts below bind mounts, inside and outside: a shared one
// passes it on both ways, a slave takes it, a private one keeps it.
func TestMountPropagation(t *testing.T) {
	b := newBox(t, "for m in shared slave private; do mount -t tmpfs inside /$m/inside; done; echo ready; cat /fifo; grep -o '/[a-z]*/outside' /proc/self/mountinfo; sleep 100")
	*b.spec.Process.Capabilities = specs.LinuxCapabilities{Bounding: []string{"CAP_SYS_ADMIN"}, Effective: []string{"CAP_SYS_ADMIN"}, Permitted: []string{"CAP_SYS_ADMIN"}}
	b.spec.Root.Readonly = false
	host := t.TempDir()
	must(t, unix.Mount("tmpfs", host, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { _ = unix.Unmount(host, unix.MNT_DETACH) })
	must(t, unix.Mount("", host, "", unix.MS_SHARED, ""))
	for _, dir := range []string{"inside", "outside"} {
		must(t, os.Mkdir(filepath.Join(host, dir), 0o755))
	}
	must(t, unix.Mkfifo(filepath.Join(b.rootfs(), "fifo"), 0o600))
	for _, prop := range []string{"shared", "slave", "private"} {
		b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/" + prop, Type: "bind", Source: host, Options: []string{"rbind", "r" + prop}})
	}
	b.start()
	read := func() string { raw, _ := os.ReadFile(b.log()); return string(raw) }
	eventually(t, "the mounts inside", func() bool { return strings.Contains(read(), "ready") })
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	if n := strings.Count(string(mounts), host+"/inside "); n != 1 {
		t.Errorf("%d mounts made inside have reached the host; want that of the shared one: %s", n, read())
	}
	must(t, unix.Mount("tmpfs", filepath.Join(host, "outside"), "tmpfs", 0, "size=64k"))
	must(t, os.WriteFile(filepath.Join(b.rootfs(), "fifo"), []byte("go\n"), 0))
	eventually(t, "the mounts from outside", func() bool { return strings.Contains(read(), "/slave/outside") })
	if log := read(); !strings.Contains(log, "/shared/outside") || strings.Contains(log, "/private/outside") {
		t.Errorf("mounts made outside that have reached the container: %s", log)
	}
}

// TestFilterForbidsGetcwd starts under a filter that forbids what the runtime itself
// uses.
func TestFilterForbidsGetcwd(t *testing.T) {
	for _, noNewPrivs := range []bool{false, true} {
		b := newBox(t, "pwd 2>&1; true")
		b.spec.Process.NoNewPrivileges = noNewPrivs
		b.spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
			{Names: []string{"getcwd", "chdir"}, Action: specs.ActErrno},
		}}
		if out := b.run(); out.code != 0 {
			t.Errorf("no_new_privs %v: %+v", noNewPrivs, out)
		}
		b.nothing()
	}
}
