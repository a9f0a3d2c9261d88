package e2e

import (
	"fmt"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/testenv"
)

// systemScenarios boot containers as machines, with the init of their image.
var systemScenarios = []scenario{
	{"machine without an init", localOnly, nil, noInit},
	{"rights of a machine", localOnly, nil, machineRights},
	{"machine with busybox", localOnly, containers, busyboxMachine},
	{"machine for once", localOnly, containers, machineForOnce},
	{"machine with sysvinit", localOnly, containers, sysvinitMachine},
	{"machine with systemd", rackOnly, containers, systemdMachine},
}

// machineTar is the archive of a machine with systemd on a host of the rack.
const machineTar = "machine.tar"

func noInit(t *testing.T, w *world, _ api.Kind) {
	boot := func(args ...string) testenv.Result {
		return w.Try(t.Context(), append([]string{"run", "--init=system"}, args...)...)
	}
	refused(t, "no init", boot("--entrypoint", "/lib/nothing", "base"), 127, "base", "/lib/nothing", "--entrypoint")
	refused(t, "a VM", boot("--vm", "base"), 125, "--vm")
	refused(t, "no user namespace", boot("--userns=host", "base"), 125, "--userns=host")
	refused(t, "another user", boot("-u", "1000", "base"), 125, "--user")
	refused(t, "a wrong word", w.Try(t.Context(), "run", "--init=launchd", "base"), 125, "launchd", "system")
}

// machineRights tries with the rights of an init what only the host's root may. The
// masks of /proc are the first to go: an init may unmount what is its own.
func machineRights(t *testing.T, w *world, _ api.Kind) {
	w.start(t, api.Container, "box", "--network", "none", "--init=system", "base")
	try := func(line string) testenv.Result { return w.Try(t.Context(), "exec", "box", "sh", "-c", line) }
	expect(t, "prepare", try("mkdir /tmp/a /tmp/b; umount /proc/sys /proc/kcore /proc/keys /proc/irq 2>/dev/null; true"), 0, "")
	for _, line := range []string{
		"mount -t tmpfs t /tmp/a && umount /tmp/a", "hostname inside", "unshare -m true", "nsenter -t 1 -m true",
		"echo 4096 >/proc/sys/net/core/somaxconn", "ip link set lo down",
	} {
		if r := try(line); r.Exit != 0 {
			t.Errorf("its own: %s: %s", line, r)
		}
	}
	for _, line := range []string{
		"echo /tmp/x >/proc/sys/kernel/core_pattern", "echo 1 >/proc/sys/vm/drop_caches", "echo 0 >/proc/sys/kernel/randomize_va_space",
		"echo h >/proc/sysrq-trigger", "head -c1 /proc/kcore", "mknod /tmp/disk b 254 0", "insmod /bin/busybox", "dmesg",
		"mount -o remount,rw /sys", "mount -t sysfs s /tmp/a && echo x >/tmp/a/kernel/uevent_helper", "mount -t debugfs d /tmp/b",
		"mount -t cgroup -o memory c /tmp/b && echo 1 >/tmp/b/memory.limit_in_bytes", "mkdir /tmp/b/inner", "echo /tmp/x >/tmp/b/release_agent",
		"echo -1000 >/proc/self/oom_score_adj",
	} {
		if r := try(line); r.Exit == 0 {
			t.Errorf("the host's: %s: %s", line, r)
		}
	}
}

// onHost makes a directory of files on the world's machine.
func (w *world) onHost(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := path.Join(w.Machine.Temp(), testenv.Name(t))
	testenv.Shell(t, w.Machine, "mkdir -p -m 0755 "+dir)
	t.Cleanup(func() { testenv.Shell(t, w.Machine, "rm -rf "+dir) })
	for name, text := range files {
		testenv.Shell(t, w.Machine, fmt.Sprintf("cat >%[1]s/%[2]s <<'EOF'\n%[3]s\nEOF\nchmod 755 %[1]s/%[2]s", dir, name, text))
	}
	return dir
}

// booted waits until what a machine's scripts have written to their volume is as
// wanted.
func (w *world) booted(t *testing.T, name, want string) {
	t.Helper()
	testenv.Eventually(t, time.Minute, func() error {
		r := w.Try(t.Context(), "exec", name, "cat", "/mark/history")
		if got := strings.Join(strings.Fields(r.Stdout), " "); got != want {
			return fmt.Errorf("the history of %s is %q, not %q: %s", name, got, want, r)
		}
		return nil
	})
}

// busyboxMachine goes through a whole life: startup script, services, kill -9 of
// berthd, shutdown from outside and from within, reboot.
func busyboxMachine(t *testing.T, w *world, _ api.Kind) {
	dir := w.onHost(t, map[string]string{
		"inittab": "::sysinit:/etc/init.d/up\n::respawn:/usr/bin/nc -ll -p 80 -e /bin/date\n::respawn:/usr/bin/tail -f /dev/null\n::shutdown:/etc/init.d/down",
		"up":      "#!/bin/sh\nread id </etc/machine-id\necho \"$container up\" >>/mark/history\necho \"machine $id is up\"",
		"down":    "#!/bin/sh\necho down >>/mark/history\necho machine is down",
	})
	w.later(t, "volume", "rm", "-f", "mark")
	w.start(t, api.Container, "box", "--network", "none", "--init=system", "--restart", "on-failure",
		"-v", "mark:/mark", "-v", dir+":/etc/init.d:ro", "-v", dir+"/inittab:/etc/inittab:ro", "base")
	up := w.logged(t, "box", "is up")
	services := func() error {
		r := w.Try(t.Context(), "exec", "box", "sh", "-c", "pidof nc tail | wc -w; grep -c /run/lock /proc/mounts; readlink /proc/1/exe")
		if r.Stdout != "2\n1\n/bin/busybox\n" {
			return fmt.Errorf("inside: %s", r)
		}
		return nil
	}
	testenv.Eventually(t, time.Minute, services)

	pid := w.field(t, "box", ".Status.PID")
	w.Kill(t)
	w.Start(t)
	w.becomes(t, "box", ".Status.State", "running")
	if now := w.field(t, "box", ".Status.PID"); now != pid {
		t.Errorf("process 1 was %s and is %s", pid, now)
	}

	w.Berth(t, "stop", "box")
	w.ended(t, "box")
	w.logged(t, "box", "machine is down")
	w.Berth(t, "start", "box")
	w.booted(t, "box", "berth up down berth up")
	testenv.Eventually(t, time.Minute, services)

	w.Berth(t, "exec", "box", "reboot")
	w.booted(t, "box", "berth up down berth up down berth up")
	w.becomes(t, "box", ".Status.State", "running")
	if got := w.Berth(t, "events", "--since", "5m", "--until", "0s", "--filter", "action=exit", "--format", "{{.Detail}}"); !strings.Contains(got, "reboot:true") {
		t.Errorf("no event tells of the reboot: %q", got)
	}
	if log := w.logged(t, "box", "is up"); strings.Count(log, strings.TrimSpace(up)) != 3 {
		t.Errorf("the machine's id is not the same in each run:\n%s", log)
	}
	// A power off is a clean end, of which no policy makes a restart.
	w.Berth(t, "exec", "box", "poweroff")
	w.becomes(t, "box", ".Status.State", "exited")
	w.ended(t, "box")
}

// machineForOnce reboots a machine that is removed when it ends: on the same root
// filesystem, whose overlay is volatile.
func machineForOnce(t *testing.T, w *world, _ api.Kind) {
	w.start(t, api.Container, "box", "--network", "none", "--rm", "--init=system", "base")
	w.Berth(t, "exec", "box", "sh", "-c", "echo first >/left")
	pid := w.field(t, "box", ".Status.PID")
	w.Berth(t, "exec", "box", "reboot")
	testenv.Eventually(t, time.Minute, func() error {
		r := w.Try(t.Context(), "exec", "box", "cat", "/left")
		if now := w.Try(t.Context(), "inspect", "--format", "{{.Status.PID}}", "box"); r.Stdout != "first\n" || strings.TrimSpace(now.Stdout) == pid {
			return fmt.Errorf("process 1 was %s and is %s: %s", pid, now, r)
		}
		return nil
	})
	w.Berth(t, "exec", "box", "poweroff")
	w.Try(t.Context(), "wait", "--condition=removed", "box")
	if r := w.Try(t.Context(), "inspect", "box"); r.Exit == 0 {
		t.Errorf("still there: %s", r)
	}
}

// ended fails the test unless a machine ended cleanly and no policy started it.
func (w *world) ended(t *testing.T, name string) {
	t.Helper()
	const status = "{{.Status.State}} {{.Status.ExitCode}} {{.Status.Restarts}}{{.Status.Error}}"
	if got := w.Berth(t, "inspect", "--format", status, name); got != "exited 0 0" {
		t.Errorf("the machine has ended as %q", got)
	}
}

func sysvinitMachine(t *testing.T, w *world, _ api.Kind) {
	w.Berth(t, "image", "import", "-q", testenv.MachineArchive(t, "sysvinit-core"), "sysvinit")
	w.later(t, "image", "rm", "sysvinit")
	w.start(t, api.Container, "box", "--network", "none", "--init=system", "sysvinit")
	// The console is open again and again, for each of the scripts.
	w.logged(t, "box", "INIT: Entering runlevel: 2")
	expect(t, "runlevel", w.Try(t.Context(), "exec", "box", "runlevel"), 0, "N 2\n")
	w.Berth(t, "exec", "box", "start-stop-daemon", "--start", "--background", "--chuid", "nobody", "--exec", "/bin/sleep", "--", "600")
	testenv.Eventually(t, time.Minute, func() error {
		if r := w.Try(t.Context(), "exec", "box", "start-stop-daemon", "--status", "--user", "nobody", "--exec", "/bin/sleep"); r.Exit != 0 {
			return fmt.Errorf("the service: %s", r)
		}
		return nil
	})

	w.Berth(t, "exec", "box", "shutdown", "-r", "now")
	testenv.Eventually(t, time.Minute, func() error {
		if n := strings.Count(w.Berth(t, "logs", "box"), "INIT: Entering runlevel: 2"); n != 2 {
			return fmt.Errorf("booted %d times", n)
		}
		return nil
	})
	w.Berth(t, "stop", "box")
	w.ended(t, "box")
	w.logged(t, "box", "Asking all remaining processes to terminate")
	w.Berth(t, "start", "box")
	w.logged(t, "box", "INIT: Entering runlevel: 2")
	w.Berth(t, "exec", "box", "shutdown", "-h", "now")
	w.becomes(t, "box", ".Status.State", "exited")
	w.ended(t, "box")
}

func systemdMachine(t *testing.T, w *world, _ api.Kind) {
	w.Berth(t, "image", "import", "-q", w.Machine.Programs()+"/"+machineTar, "machine")
	w.later(t, "image", "rm", "machine")
	dir := w.onHost(t, map[string]string{
		"nap.service": "[Service]\nExecStart=/bin/sleep 600\nExecStop=/bin/sh -c 'echo down >>/mark/history'\nPrivateTmp=yes\nProtectSystem=strict\nReadWritePaths=/mark",
	})
	w.later(t, "volume", "rm", "-f", "mark")
	w.start(t, api.Container, "box", "--network", "none", "--init=system", "-v", "mark:/mark", "-v", dir+"/nap.service:/etc/systemd/system/nap.service:ro", "machine")
	testenv.Eventually(t, 2*time.Minute, func() error {
		if r := w.Try(t.Context(), "exec", "box", "systemctl", "is-system-running"); r.Stdout != "running\n" {
			return fmt.Errorf("systemd: %s\n%s", r, w.Try(t.Context(), "exec", "box", "systemctl", "--failed").Stdout)
		}
		return nil
	})
	w.logged(t, "box", "Multi-User System")
	r := w.Try(t.Context(), "exec", "box", "sh", "-c", strings.Join([]string{
		"systemctl start nap", "systemctl is-active nap", "cut -d: -f3 /proc/$(pidof sleep)/cgroup",
		"systemctl stop nap", "systemctl is-active nap", "journalctl -q -o cat -u nap | grep -c nap", "systemctl start nap", "cat /mark/history",
		"cat /etc/machine-id | wc -c", "systemd-detect-virt --container", "mkdir /sys/fs/cgroup/own && rmdir /sys/fs/cgroup/own",
		"cat /sys/fs/cgroup/cgroup.max.descendants", "echo max >/sys/fs/cgroup/pids.max",
	}, "\n"))
	if want := "active\n/system.slice/nap.service\ninactive\n4\ndown\n33\ncontainer-other\n4096\n"; r.Stdout != want || !strings.Contains(r.Stderr, "pids.max") {
		t.Errorf("inside: %s\nwant %q, and no right to the own limit", r, want)
	}
	w.Berth(t, "stop", "box")
	w.ended(t, "box")
	expect(t, "its history", w.Try(t.Context(), run(api.Container, "--rm", "-v", "mark:/mark", "base", "cat", "/mark/history")...), 0, "down\ndown\n")
}
