package oci_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthcloud/berth/internal/oci"
	"github.com/berthcloud/berth/internal/oci/cgroup"
	"github.com/berthcloud/berth/internal/testenv"
)

// userBox is a box whose bundle, and the runtime that runs it, are an ordinary user's.
type userBox struct {
	*box
	user *testenv.User
}

func newUserBox(t *testing.T, script string) *userBox {
	t.Helper()
	testenv.Check(t)
	u := testenv.NewUser(t)
	b := &userBox{&box{t: t, id: testenv.Name(t), root: filepath.Join(u.Run, "berth-oci"), bundle: filepath.Join(u.Home, "bundle")}, u}
	makeRootfs(t, b.rootfs())
	b.spec = oci.ExampleUserSpec(u.ID, u.ID)
	b.spec.Process.Terminal = false
	b.spec.Process.Args = []string{"sh", "-c", script}
	t.Cleanup(func() {
		if out := b.oci("delete", "--force", b.id); out.code != 0 {
			t.Errorf("delete: %s", out.stderr)
		}
	})
	return b
}

// manyIDs maps all ids of the user: his own to the container's root.
func (b *userBox) manyIDs() {
	b.user.NeedIDs(b.t)
	ids := []specs.LinuxIDMapping{
		{ContainerID: 0, HostID: uint32(b.user.ID), Size: 1},
		{ContainerID: 1, HostID: testenv.SubordinateID, Size: testenv.SubordinateCount},
	}
	b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = ids, ids
}

// oci runs berth-oci as the user, without --root.
func (b *userBox) oci(args ...string) output {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(b.t.Context()), patience)
	defer cancel()
	return carryOut(b.t, b.user.Command(ctx, binary, args...))
}

func (b *userBox) write() {
	b.t.Helper()
	b.box.write()
	b.user.Own(b.t, b.bundle)
}

func (b *userBox) run() output {
	b.t.Helper()
	b.write()
	return b.oci("run", "--bundle", b.bundle, b.id)
}

// TestUserRuns runs containers as an ordinary user with one id and with many.
func TestUserRuns(t *testing.T) {
	const script = "id -u; id -g; stat -c %u /etc/passwd; cat /proc/self/uid_map /proc/self/setgroups; echo x > /tmp/x && stat -c %u /tmp/x; echo y > /dev/null; ls /sys/kernel >/dev/null && exit 7"
	for _, c := range []struct {
		name  string
		many  bool
		alter func(*specs.Spec)
		want  string
	}{
		{"one id", false, nil, "0\n0\n0\n0 61234 1\ndeny\n0\n"},
		{"many ids", true, nil, "0\n0\n0\n0 61234 1\n1 1610612736 65536\nallow\n0\n"},
		{"another user", true, func(s *specs.Spec) {
			s.Process.User = specs.User{UID: 5, GID: 6, AdditionalGids: []uint32{7}}
		}, "5\n6\n0\n0 61234 1\n1 1610612736 65536\nallow\n5\n"},
		{"own network", false, func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
		}, "0\n0\n0\n0 61234 1\ndeny\n0\n"},
		{"sysfs and cgroup of the engine's making", false, func(s *specs.Spec) {
			s.Mounts = oci.ExampleSpec().Mounts
			s.Mounts[2].Options = s.Mounts[2].Options[:5] // no gid=5
		}, "0\n0\n0\n0 61234 1\ndeny\n0\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newUserBox(t, script)
			b.spec.Root.Readonly = false
			if c.many {
				b.manyIDs()
			}
			if c.alter != nil {
				c.alter(b.spec)
			}
			must(t, os.Chmod(filepath.Join(b.rootfs(), "tmp"), 0o777))
			out := b.run()
			got := strings.Join(strings.FieldsFunc(out.stdout, func(r rune) bool { return r == ' ' }), " ")
			if out.code != 7 || strings.ReplaceAll(got, "\n ", "\n") != c.want || out.stderr != "" {
				t.Errorf("status %d, %q, %q; want %q", out.code, got, out.stderr, c.want)
			}
			b.nothing()
		})
	}
}

// TestUserLife goes through the commands that come after create.
func TestUserLife(t *testing.T) {
	b := newUserBox(t, "trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done")
	b.manyIDs()
	b.spec.Process.User.UID = 5 // signals to him are the right of the namespace's owner
	b.write()
	if out := b.oci("create", "--bundle", b.bundle, b.id); out.code != 0 {
		t.Fatalf("create: %+v", out)
	}
	if out := b.oci("state", b.id); !strings.Contains(out.stdout, `"status": "created"`) || !strings.Contains(out.stdout, `"owner": "61234"`) {
		t.Errorf("state: %+v", out)
	}
	if out := b.oci("start", b.id); out.code != 0 {
		t.Fatalf("start: %+v", out)
	}
	if out := b.oci("exec", "--user", "9:10", b.id, "sh", "-c", "id -u; id -g; echo $PATH; exit 4"); out.code != 4 || !strings.HasPrefix(out.stdout, "9\n10\n/") {
		t.Errorf("exec: %+v", out)
	}
	if out := b.oci("pause", b.id); out.code != 1 || !strings.Contains(out.stderr, "no cgroups") || strings.Count(out.stderr, "\n") != 1 {
		t.Errorf("pause: %+v", out)
	}
	if out := b.oci("list", "--quiet"); out.stdout != b.id+"\n" {
		t.Errorf("list: %+v", out)
	}
	if out := b.oci("kill", b.id, "KILL"); out.code != 0 {
		t.Errorf("kill: %+v", out)
	}
	eventually(t, "the container stops", func() bool { return strings.Contains(b.oci("state", b.id).stdout, "stopped") })
	if out := b.oci("delete", b.id); out.code != 0 {
		t.Errorf("delete: %+v", out)
	}
	b.nothing()
}

// TestUserExecsWithOneID runs a command where setgroups is denied.
func TestUserExecsWithOneID(t *testing.T) {
	b := newUserBox(t, "sleep 100")
	b.write()
	out, err := os.Create(filepath.Join(b.user.Home, "log"))
	must(t, err)
	defer out.Close()
	run := b.user.Command(t.Context(), binary, "run", "--detach", "--bundle", b.bundle, b.id)
	run.Stdout, run.Stderr = out, out
	if err := run.Run(); err != nil {
		t.Fatal(err)
	}
	if out := b.oci("exec", b.id, "id", "-u"); out.code != 0 || out.stdout != "0\n" {
		t.Errorf("exec: %+v", out)
	}
}

// TestUserSignals forwards a signal through both processes of the runtime.
func TestUserSignals(t *testing.T) {
	b := newUserBox(t, "trap 'exit 3' TERM; echo up >/tmp/up; while :; do sleep 0.05; done")
	b.spec.Root.Readonly = false
	b.write()
	run := b.user.Command(t.Context(), binary, "run", "--bundle", b.bundle, b.id)
	must(t, run.Start())
	up := filepath.Join(b.rootfs(), "tmp/up")
	eventually(t, "the container runs", func() bool { _, err := os.Stat(up); return err == nil })
	must(t, run.Process.Signal(syscall.SIGTERM))
	_ = run.Wait()
	if code := run.ProcessState.ExitCode(); code != 3 {
		t.Errorf("status %d", code)
	}
	b.nothing()
}

// TestUserRefusals says in one line what an ordinary user cannot have.
func TestUserRefusals(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*specs.Spec)
		says string
	}{
		{"no user namespace", func(s *specs.Spec) {
			s.Linux.Namespaces, s.Linux.UIDMappings, s.Linux.GIDMappings = s.Linux.Namespaces[:5], nil, nil
		}, "spec --rootless"},
		{"ids of others, or no helper to map them", func(s *specs.Spec) { s.Linux.UIDMappings[0].Size = 2 }, "linux.uidMappings, linux.gidMappings: "},
		{"the host's network", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/proc/1/ns/net"})
		}, "linux.namespaces["},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newUserBox(t, "true")
			c.do(b.spec)
			out := b.run()
			if out.code != 1 || !strings.Contains(out.stderr, c.says) || strings.Count(out.stderr, "\n") != 1 {
				t.Errorf("%+v; want %q in one line", out, c.says)
			}
			b.nothing()
		})
	}
}

// TestUserLimits warns where limits cannot be had, and says nothing where none are
// wanted.
func TestUserLimits(t *testing.T) {
	b := newUserBox(t, "ls /sys/fs/cgroup")
	limit := int64(64 << 20)
	b.spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
	out := b.run()
	if out.code != 0 || !strings.Contains(out.stderr, "no cgroup is delegated") || strings.Count(out.stderr, "\n") != 1 {
		t.Errorf("%+v", out)
	}
}

// TestUserSpec runs what spec --rootless writes.
func TestUserSpec(t *testing.T) {
	b := newUserBox(t, "true")
	b.user.Own(t, b.bundle)
	if out := b.oci("spec", "--rootless", "--bundle", b.bundle); out.code != 0 {
		t.Fatalf("spec: %+v", out)
	}
	raw, err := os.ReadFile(filepath.Join(b.bundle, "config.json"))
	must(t, err)
	plain := strings.NewReplacer(`"terminal": true`, `"terminal": false`, `"sh"`, `"id"`).Replace(string(raw))
	must(t, os.WriteFile(filepath.Join(b.bundle, "config.json"), []byte(plain), 0o600))
	b.user.Own(t, b.bundle)
	if out := b.oci("run", "--bundle", b.bundle, b.id); out.code != 0 || !strings.HasPrefix(out.stdout, "uid=0") || out.stderr != "" {
		t.Errorf("%+v", out)
	}
}

// TestUserDelegatedCgroup holds a container to a limit in a cgroup that is the user's.
func TestUserDelegatedCgroup(t *testing.T) {
	b := newUserBox(t, "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes; while :; do sleep 0.05; done")
	b.user.Delegate(t)
	limit := int64(64 << 20)
	b.spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro"}})
	b.write()
	log, err := os.Create(b.log())
	must(t, err)
	defer log.Close()
	run := b.user.Command(t.Context(), binary, "run", "--detach", "--bundle", b.bundle, b.id)
	run.Stdout, run.Stderr = log, log
	err = run.Run()
	said := func() string { text, _ := os.ReadFile(b.log()); return string(text) }
	if err != nil {
		t.Fatalf("%v: %s", err, said())
	}
	eventually(t, "the limit is seen", func() bool { return said() != "" })
	if said() != "67108864\n" {
		t.Errorf("memory.max %q", said())
	}
	for _, c := range [][]string{{"exec", b.id, "true"}, {"pause", b.id}, {"resume", b.id}, {"update", "--memory", "32M", b.id}} {
		if out := b.oci(c...); out.code != 0 {
			t.Errorf("%v: %+v", c, out)
		}
	}
	if out := b.oci("delete", "--force", b.id); out.code != 0 {
		t.Errorf("delete: %+v", out)
	}
	for _, pattern := range []string{"", "/*"} {
		if left, _ := filepath.Glob("/sys/fs/cgroup" + pattern + b.user.Cgroup + "/" + b.id); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}

// TestUserDelegatedController refuses a limit by the controller that is missing, and
// pauses only where that can be done.
func TestUserDelegatedController(t *testing.T) {
	b := newUserBox(t, "sleep 100")
	b.user.Delegate(t, "pids")
	limit := int64(64 << 20)
	b.spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
	out := b.run()
	if out.code != 1 || !strings.Contains(out.stderr, "controller memory, which is not delegated") || strings.Count(out.stderr, "\n") != 1 {
		t.Errorf("%+v", out)
	}
	b.nothing()
	limit = 50
	b.spec.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}
	b.write()
	if out := b.oci("create", "--bundle", b.bundle, b.id); out.code != 0 {
		t.Fatalf("%+v", out)
	}
	var pids []int
	if out := b.oci("ps", "--format", "json", b.id); json.Unmarshal([]byte(out.stdout), &pids) != nil || len(pids) != 1 {
		t.Errorf("ps: %+v", out)
	}
	if out := b.oci("pause", b.id); !cgroup.Unified() && (out.code != 1 || !strings.Contains(out.stderr, "controller freezer")) {
		t.Errorf("pause: %+v", out)
	}
	if out := b.oci("delete", "--force", b.id); out.code != 0 {
		t.Errorf("delete: %+v", out)
	}
}

// TestRootOfAnotherNamespace runs a container without a user namespace as root of one:
// what engines that have entered theirs do.
func TestRootOfAnotherNamespace(t *testing.T) {
	b := newUserBox(t, "id -u; echo x >/dev/null && ls /sys >/dev/null && echo fine")
	b.spec = oci.ExampleSpec()
	b.spec.Process.Terminal = false
	b.spec.Process.Args = []string{"sh", "-c", "id -u; echo x >/dev/null && ls /sys >/dev/null && echo fine"}
	b.spec.Mounts[2].Options = b.spec.Mounts[2].Options[:5] // no gid=5
	b.write()
	cmd := b.user.Command(t.Context(), "unshare", "--user", "--map-root-user", "--mount", binary, "--root", b.root, "run", "--bundle", b.bundle, b.id)
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "0\nfine\n" {
		t.Errorf("%v, %q", err, out)
	}
	b.nothing()
}
