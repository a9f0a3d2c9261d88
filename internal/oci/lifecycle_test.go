package oci_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthcloud/berth/internal/oci"
)

func TestRunExitStatus(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"zero", []string{"true"}, 0, ""},
		{"seven", []string{"sh", "-c", "exit 7"}, 7, ""},
		{"signal", []string{"sh", "-c", "sh -c 'kill -9 $$'; exit $?"}, 137, ""},
		{"missing", []string{"no-such-command"}, 127, `"no-such-command": executable file not found`},
		{"missing path", []string{"/no/such"}, 127, `"/no/such": no such file`},
		{"not executable", []string{"/etc/passwd"}, 126, `"/etc/passwd": cannot be executed`},
		{"directory", []string{"/etc"}, 126, "is a directory"},
		{"not a program", []string{"/etc/junk"}, 126, "not a program for this machine"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBox(t, "")
			must(t, os.WriteFile(filepath.Join(b.rootfs(), "etc/junk"), []byte{1, 2, 3}, 0o755))
			b.spec.Process.Args = c.args
			out := b.run()
			if out.code != c.code || !strings.Contains(out.stderr, c.says) || strings.Count(out.stderr, "\n") > 1 {
				t.Errorf("status %d, %q; want %d and %q in one line", out.code, out.stderr, c.code, c.says)
			}
			b.nothing()
		})
	}
}

func TestLifecycle(t *testing.T) {
	b := newBox(t, "echo hello; sleep 100")
	b.write()
	pidFile := filepath.Join(t.TempDir(), "pid")
	create := func() output { return b.oci("create", "--bundle", b.bundle, "--pid-file", pidFile, b.id) }
	if out := create(); out.code != 0 || out.stdout != "" {
		t.Fatalf("create: %+v", out)
	}
	if s := b.status(); s != "created" {
		t.Errorf("after create: %s", s)
	}
	pid, err := os.ReadFile(pidFile)
	must(t, err)
	if _, err := os.Stat("/proc/" + string(pid)); err != nil {
		t.Errorf("the pid file names no process: %v", err)
	}
	if out := create(); out.code == 0 || !strings.Contains(out.stderr, "already exists") {
		t.Errorf("a second create: %+v", out)
	}
	if out := b.oci("start", b.id); out.code != 0 {
		t.Fatalf("start: %+v", out)
	}
	if s := b.status(); s != "running" {
		t.Errorf("after start: %s", s)
	}
	comm, _ := os.ReadFile("/proc/" + string(pid) + "/comm")
	if string(comm) == "berth-oci\n" {
		t.Error("the first process is still the runtime's")
	}
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"start", b.id}, "not in the created state"},
		{[]string{"delete", b.id}, "still running"},
		{[]string{"kill", b.id, "NOSUCH"}, "unknown signal"},
	} {
		if out := b.oci(c.args...); out.code != 1 || !strings.Contains(out.stderr, c.says) {
			t.Errorf("%v: %+v; want %q", c.args, out, c.says)
		}
	}
	if out := b.oci("list", "--format", "json"); !strings.Contains(out.stdout, b.id) {
		t.Errorf("list: %+v", out)
	}
	if out := b.oci("kill", b.id, "KILL"); out.code != 0 {
		t.Errorf("kill: %+v", out)
	}
	eventually(t, "the container stops", func() bool { return b.status() == "stopped" })
	if out := b.oci("kill", b.id, "KILL"); out.code != 1 || !strings.Contains(out.stderr, "not running") {
		t.Errorf("kill of a stopped one: %+v", out)
	}
	if out := b.oci("exec", b.id, "true"); out.code != 255 || !strings.Contains(out.stderr, "not running") {
		t.Errorf("exec in a stopped one: %+v", out)
	}
	if out := b.oci("delete", b.id); out.code != 0 {
		t.Errorf("delete: %+v", out)
	}
	if out := b.oci("delete", b.id); out.code != 1 || !strings.Contains(out.stderr, "does not exist") {
		t.Errorf("delete of none: %+v", out)
	}
	b.nothing()
}

// TestDeleteCreated deletes a container that never ran.
func TestDeleteCreated(t *testing.T) {
	b := newBox(t, "true")
	b.write()
	if out := b.oci("create", "--bundle", b.bundle, b.id); out.code != 0 {
		t.Fatalf("%+v", out)
	}
	if out := b.oci("delete", b.id); out.code != 0 {
		t.Errorf("delete: %+v", out)
	}
	b.nothing()
}

// TestDeadCreate deletes what a create that was killed has left: the reserved id,
// a state without a pid, and cgroups.
func TestDeadCreate(t *testing.T) {
	b := newBox(t, "true")
	dir := filepath.Join(b.root, b.id)
	must(t, os.MkdirAll(dir, 0o700))
	if s := b.status(); s != "creating" {
		t.Errorf("reserved: %s", s)
	}
	if out := b.oci("delete", b.id); out.code != 0 {
		t.Errorf("delete of a reserved id: %+v", out)
	}
	must(t, os.MkdirAll(dir, 0o700))
	cgroups := map[string]string{}
	for _, name := range []string{"memory", "devices", "freezer", "pids"} {
		cg := filepath.Join("/sys/fs/cgroup", name, b.id)
		if os.Mkdir(cg, 0o755) == nil {
			cgroups[name] = cg
		}
	}
	raw, err := json.Marshal(map[string]any{"ociVersion": "1.0.2", "id": b.id, "cgroups": cgroups})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "state.json"), raw, 0o600))
	if out := b.oci("delete", b.id); out.code != 0 {
		t.Errorf("delete of a half-made one: %+v", out)
	}
	b.nothing()
}

func TestExec(t *testing.T) {
	for _, user := range []bool{false, true} {
		t.Run("user namespace "+strconv.FormatBool(user), func(t *testing.T) {
			b := newBox(t, "sleep 100")
			if user {
				b.userNamespace()
			}
			b.start()
			for _, c := range []struct {
				args []string
				want string
				code int
			}{
				{[]string{"id", "-u"}, "0\n", 0},
				{[]string{"sh", "-c", "exit 9"}, "", 9},
				{[]string{"readlink", "/proc/self/ns/pid"}, "", 0},
				{[]string{"no-such"}, "", 127},
				{[]string{"/etc/passwd"}, "", 126},
				{[]string{"hostname"}, "berth\n", 0},
			} {
				out := b.oci(append([]string{"exec", b.id}, c.args...)...)
				if out.code != c.code || c.want != "" && out.stdout != c.want {
					t.Errorf("%v: %+v", c.args, out)
				}
			}
			out := b.oci("exec", "--user", "bob", "--env", "A=b", "--cwd", "/etc", b.id, "sh", "-c", "id; pwd; echo $A $HOME")
			if out.stdout != "uid=1000(bob) gid=1001(bob) groups=10(wheel)\n/etc\nb /home/bob\n" {
				t.Errorf("as bob: %+v", out)
			}
			for _, ns := range []string{"pid", "mnt", "net", "ipc", "uts", "user", "cgroup"} {
				first := b.oci("exec", b.id, "readlink", "/proc/1/ns/"+ns)
				if self := b.oci("exec", b.id, "readlink", "/proc/self/ns/"+ns); self.stdout != first.stdout {
					t.Errorf("namespace %s: %q, the container's is %q", ns, self.stdout, first.stdout)
				}
			}
			confinement := func(pid string) string {
				return b.oci("exec", b.id, "grep", "-E", "^(Cap|NoNewPrivs|Seccomp)", "/proc/"+pid+"/status").stdout
			}
			if self, first := confinement("self"), confinement("1"); self != first {
				t.Errorf("a command is confined by %s, the container by %s", self, first)
			}
		})
	}
}

func TestPauseUpdatePs(t *testing.T) {
	b := newBox(t, "sleep 100")
	b.start()
	if out := b.oci("pause", b.id); out.code != 0 {
		t.Fatalf("pause: %+v", out)
	}
	if s := b.status(); s != "paused" {
		t.Errorf("status %s", s)
	}
	if out := b.oci("exec", b.id, "true"); out.code != 255 || !strings.Contains(out.stderr, "paused") {
		t.Errorf("exec while paused: %+v", out)
	}
	if out := b.oci("resume", b.id); out.code != 0 || b.status() != "running" {
		t.Errorf("resume: %+v", out)
	}
	if out := b.oci("update", "--memory", "64m", "--pids-limit", "20", b.id); out.code != 0 {
		t.Errorf("update: %+v", out)
	}
	if raw, err := os.ReadFile("/sys/fs/cgroup/pids/" + b.id + "/pids.max"); err == nil && string(raw) != "20\n" {
		t.Errorf("pids.max = %q", raw)
	}
	var pids []int
	out := b.oci("ps", "--format", "json", b.id)
	if err := json.Unmarshal([]byte(out.stdout), &pids); err != nil || len(pids) == 0 {
		t.Errorf("ps: %+v, %v", out, err)
	}
	if out := b.oci("events", "--stats", b.id); out.code != 0 || !strings.Contains(out.stdout, `"pids":{"current":`) {
		t.Errorf("events: %+v", out)
	}
	if out := b.oci("delete", "--force", b.id); out.code != 0 {
		t.Errorf("delete of a running one: %+v", out)
	}
	b.nothing()
}

func TestHooks(t *testing.T) {
	b := newBox(t, "echo run >> /trace")
	trace := filepath.Join(b.rootfs(), "trace")
	b.spec.Root.Readonly = false
	hook := func(name, path string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", `grep -q '"id":"` + b.id + `"' && echo ` + name + ` >> ` + path}, Env: []string{"PATH=/bin:/usr/bin"}}}
	}
	b.spec.Hooks = &specs.Hooks{
		Prestart: hook("prestart", trace), CreateRuntime: hook("createRuntime", trace),
		CreateContainer: hook("createContainer", trace), StartContainer: hook("startContainer", "/trace"),
		Poststart: hook("poststart", trace), Poststop: hook("poststop", trace),
	}
	if out := b.run(); out.code != 0 {
		t.Fatalf("%+v", out)
	}
	raw, err := os.ReadFile(trace)
	must(t, err)
	got := strings.Fields(string(raw))
	// poststart runs beside the workload.
	if i := len(got) - 3; i >= 0 && got[i] == "poststart" {
		got[i], got[i+1] = got[i+1], got[i]
	}
	if want := "prestart createRuntime createContainer startContainer run poststart poststop"; strings.Join(got, " ") != want {
		t.Errorf("order %v; want %s", got, want)
	}

	b.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/false"}}}
	if out := b.run(); out.code != 1 || !strings.Contains(out.stderr, "hooks.createRuntime[0] /bin/false") {
		t.Errorf("a failing hook: %+v", out)
	}
	b.nothing()
}

// TestSharedCgroup refuses the cgroup of another container, and leaves it alone.
func TestSharedCgroup(t *testing.T) {
	b := newBox(t, "sleep 100")
	b.start()
	if out := b.oci("run", "--bundle", b.bundle, b.id+"x"); out.code != 1 || !strings.Contains(out.stderr, "linux.cgroupsPath: the cgroup has 1 processes") {
		t.Errorf("%+v", out)
	}
	if s := b.status(); s != "running" {
		t.Errorf("the other container is %s", s)
	}
	if out := b.oci("exec", b.id, "true"); out.code != 0 {
		t.Errorf("exec: %+v", out)
	}
}

// TestNoCgroups runs, enters and deletes a container in the caller's cgroups.
func TestNoCgroups(t *testing.T) {
	b := newBox(t, "sleep 100")
	b.spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: new(int64(20))}
	b.write()
	out := b.oci("--cgroup-manager", "disabled", "create", "--bundle", b.bundle, b.id)
	if out.code != 0 || !strings.Contains(out.stderr, "linux.resources: the limits are left out") {
		t.Fatalf("create: %+v", out)
	}
	if out := b.oci("start", b.id); out.code != 0 {
		t.Fatalf("start: %+v", out)
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	must(t, err)
	if out := b.oci("exec", b.id, "true"); out.code != 0 {
		t.Errorf("exec: %+v", out)
	}
	var s oci.State
	must(t, json.Unmarshal([]byte(b.oci("state", b.id).stdout), &s))
	if theirs, err := os.ReadFile("/proc/" + strconv.Itoa(s.Pid) + "/cgroup"); err != nil || string(theirs) != string(own) {
		t.Errorf("in %s, the caller is in %s; %v", theirs, own, err)
	}
	for _, args := range [][]string{{"kill", "--all", b.id, "KILL"}, {"delete", "--force", b.id}} {
		if out := b.oci(args...); out.code != 0 {
			t.Errorf("%v: %+v", args, out)
		}
	}
	b.nothing()
}
