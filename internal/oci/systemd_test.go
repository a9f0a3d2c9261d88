package oci_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// newScope is newBox on a host that systemd runs, with a scope in a slice of its own.
func newScope(t *testing.T, script string) (b *box, unit string) {
	t.Helper()
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		t.Skip("systemd does not run this host; TestRackSystemd has one where it does")
	}
	b = newBox(t, script)
	b.spec.Linux.CgroupsPath = b.id + ".slice:berth:" + b.id
	memory, quota, period, pids := int64(64<<20), int64(50000), uint64(100000), int64(40)
	b.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &memory}
	b.spec.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	b.spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids}
	t.Cleanup(func() { _ = exec.Command("systemctl", "stop", b.id+".slice").Run() })
	return b, "berth-" + b.id + ".scope"
}

// properties returns what systemd says of a unit.
func properties(t *testing.T, unit string, names ...string) string {
	t.Helper()
	out, err := exec.Command("systemctl", "show", "--property", strings.Join(names, ","), unit).CombinedOutput()
	must(t, err)
	return string(out)
}

// has fails the test unless the text has all lines.
func has(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if !strings.Contains("\n"+text, "\n"+l+"\n") {
			t.Errorf("no line %q in\n%s", l, text)
		}
	}
}

// TestSystemdScope: systemd makes the cgroup of a container, knows its limits and
// keeps them; everything else works in it as in one that the runtime makes.
func TestSystemdScope(t *testing.T) {
	b, unit := newScope(t, "mknod /tmp/mem c 1 1; cat /tmp/mem 2>&1 | head -n 1 > /tmp/result; cat /dev/null >> /tmp/result && echo started; sleep 1000")
	must(t, os.Symlink("busybox", filepath.Join(b.rootfs(), "bin/mknod")))
	b.spec.Root.Readonly = false
	for _, set := range []*[]string{&b.spec.Process.Capabilities.Bounding, &b.spec.Process.Capabilities.Effective, &b.spec.Process.Capabilities.Permitted} {
		*set = append(*set, "CAP_MKNOD")
	}
	b.write()
	log, err := os.Create(b.log())
	must(t, err)
	defer log.Close()
	cmd := exec.Command(binary, "--root", b.root, "--systemd-cgroup", "run", "--detach", "--bundle", b.bundle, b.id)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(b.log())
		t.Fatalf("%v: %s", err, text)
	}
	eventually(t, "start", func() bool { text, _ := os.ReadFile(b.log()); return strings.Contains(string(text), "started") })

	dir := filepath.Join("/sys/fs/cgroup", b.id+".slice", unit)
	limits := func(memory string) {
		t.Helper()
		for name, want := range map[string]string{"memory.max": memory, "pids.max": "40", "cpu.max": "50000 100000"} {
			if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || strings.TrimSpace(string(got)) != want {
				t.Errorf("%s: %q, %v; want %s", name, got, err, want)
			}
		}
		has(t, properties(t, unit, "MemoryMax", "TasksMax", "CPUQuotaPerSecUSec", "Slice", "Delegate", "ActiveState"),
			"MemoryMax="+memory, "TasksMax=40", "CPUQuotaPerSecUSec=500ms", "Slice="+b.id+".slice", "Delegate=yes", "ActiveState=active")
	}
	limits("67108864")
	if out, err := exec.Command("systemctl", "daemon-reload").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	limits("67108864")
	if out := b.oci("--systemd-cgroup", "update", "--memory", "32m", b.id); out.code != 0 {
		t.Errorf("%+v", out)
	}
	limits("33554432")
	if got, err := os.ReadFile(filepath.Join(b.rootfs(), "tmp/result")); err != nil || !strings.Contains(string(got), "Operation not permitted") {
		t.Errorf("/dev/mem by another name: %q, %v", got, err)
	}
	// Commands that came without --systemd-cgroup find the scope, too.
	if out := b.oci("exec", b.id, "cat", "/proc/self/cgroup"); out.stdout != "0::/\n" {
		t.Errorf("%+v", out)
	}
	for _, args := range [][]string{{"pause", b.id}, {"resume", b.id}, {"ps", "--format", "json", b.id}, {"delete", "--force", b.id}} {
		if out := b.oci(args...); out.code != 0 {
			t.Errorf("%v: %+v", args, out)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left: %v", dir, err)
	}
	has(t, properties(t, unit, "LoadState", "ActiveState"), "ActiveState=inactive")
	b.nothing()
}

// TestSystemdScopeEnds: nothing stays of a container that cannot start, or that the
// kernel has ended for want of memory; a path of another form is refused.
func TestSystemdScopeEnds(t *testing.T) {
	b, _ := newScope(t, "")
	run := func(code int, says string) {
		t.Helper()
		b.write()
		out := b.oci("--systemd-cgroup", "run", "--bundle", b.bundle, b.id)
		if out.code != code || !strings.Contains(out.stderr, says) || strings.Count(out.stderr, "\n") > 1 {
			t.Errorf("%+v; want %d and %q", out, code, says)
		}
		if units, _ := exec.Command("systemctl", "list-units", "--all", "--plain", "--no-legend", "*"+b.id+".scope").Output(); len(units) > 0 {
			t.Errorf("left: %s", units)
		}
		b.nothing()
	}
	b.spec.Process.Args = []string{"no-such-program"}
	run(127, "executable file not found")
	must(t, os.Symlink("busybox", filepath.Join(b.rootfs(), "bin/tail")))
	b.spec.Process.Args = []string{"tail", "-c", "200m", "/dev/zero"}
	run(137, "")
	b.spec.Process.Args = []string{"true"}
	run(0, "")
	b.spec.Linux.CgroupsPath = ""
	run(0, "")
	for _, path := range []string{"/absolute", "a:b", "no-slice:berth:x", ":berth:", "a/b.slice:berth:x", "system.slice:berth:x.slice"} {
		b.spec.Linux.CgroupsPath = path
		run(1, "linux.cgroupsPath")
	}
}
