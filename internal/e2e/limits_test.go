package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/testenv"
)

// limitScenarios prove that limits hold, inside the instance where it can be
// seen there.
var limitScenarios = []scenario{
	{"memory", realOnly, containers, memoryLimit},
	{"least memory", []place{local, user}, containers, leastMemory},
	{"vm size", realOnly, vms, vmSize},
	{"processes", realOnly, containers, processLimit},
	{"files", realOnly, both, filesAndMounts},
	{"update", realOnly, containers, updateLive},
	{"rates", []place{local, rack}, both, rates},
	{"disk size", []place{local, user}, both, diskSize},
	{"isolation", realOnly, containers, isolation},
	{"landlock", []place{local}, containers, landlocked},
}

func memoryLimit(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "box", "-m", "32m", "base", "sh", "-c", "echo begin; head -c 100000000 /dev/zero | tail; echo survived $?")
	w.Berth(t, "wait", "box")
	if out := w.logged(t, "box", "begin"); strings.Contains(out, "survived 0") {
		t.Errorf("100 MB fit into 32 MiB: %s", out)
	}
}

// leastMemory runs with the least that --memory takes, and says so below it.
func leastMemory(t *testing.T, w *world, kind api.Kind) {
	expect(t, "run", w.Try(t.Context(), run(kind, "--rm", "-m", "224k", "base", "true")...), 0, "")
	refused(t, "run", w.Try(t.Context(), run(kind, "--rm", "-m", "220k", "base", "true")...), 125, "220KiB", "224KiB")
}

func vmSize(t *testing.T, w *world, kind api.Kind) {
	r := w.Try(t.Context(), run(kind, "--rm", "--cpus", "2", "-m", "192m", "base", "sh", "-c", "nproc; grep MemTotal /proc/meminfo | tr -dc 0-9")...)
	cpus, memory, _ := strings.Cut(r.Stdout, "\n")
	if cpus != "2" || len(memory) != 6 || memory > "196608" || memory < "120000" {
		t.Errorf("want 2 processors and up to 196608 kB: %s", r)
	}
}

func processLimit(t *testing.T, w *world, kind api.Kind) {
	r := w.Try(t.Context(), run(kind, "--rm", "--pids-limit", "10", "base", "sh", "-c",
		"for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 5 & done; wait")...)
	if !strings.Contains(r.Stderr, "fork") {
		t.Errorf("12 processes fit a limit of 10: %s", r)
	}
}

func filesAndMounts(t *testing.T, w *world, kind api.Kind) {
	r := w.Try(t.Context(), run(kind, "--rm", "--read-only", "--tmpfs", "/scratch:size=1m", "--ulimit", "nofile=77:88", "base", "sh", "-c",
		"touch /x 2>/dev/null || echo read-only; echo y >/scratch/y && cat /scratch/y; ulimit -n; ulimit -Hn; head -c 2000000 /dev/zero >/scratch/z 2>/dev/null || echo full")...)
	expect(t, "run", r, 0, "read-only\ny\n77\n88\nfull\n")
}

func updateLive(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "box", "-m", "64m", "--cpus", "1", "base", "sleep", "600")
	w.Berth(t, "update", "-m", "128m", "--cpus", "0.5", "box")
	w.becomes(t, "box", ".Spec.Limits.Memory", "134217728")
	// The kernel has been told: find the container's cgroup by its process.
	pid := w.field(t, "box", ".Status.PID")
	got := testenv.Shell(t, w.Machine, `set -e
		p=$(sed -n 's/^0:://p' /proc/`+pid+`/cgroup)
		if [ -f /sys/fs/cgroup$p/memory.max ]; then cat /sys/fs/cgroup$p/memory.max /sys/fs/cgroup$p/cpu.max
		else
			cat /sys/fs/cgroup/memory$(sed -n 's/^[0-9]*:memory://p' /proc/`+pid+`/cgroup)/memory.limit_in_bytes
			cat /sys/fs/cgroup/cpu$(sed -n 's/^[0-9]*:cpu://p' /proc/`+pid+`/cgroup)/cpu.cfs_quota_us
		fi`)
	if !strings.HasPrefix(got, "134217728\n50000") {
		t.Errorf("the kernel's limits are %q", got)
	}
}

// rates limits disk and network, live, and looks at what the kernel or QEMU was told.
func rates(t *testing.T, w *world, kind api.Kind) {
	refused(t, "too slow", w.Try(t.Context(), run(kind, "--rm", "--disk-iops", "1", "base", "true")...), 125, "--disk-iops 1", "minimum of 10")
	refused(t, "no network", w.Try(t.Context(), run(kind, "--rm", "--network", "none", "--net-bandwidth", "1m", "base", "true")...), 125, "--net-bandwidth", "--network none")
	w.start(t, kind, "box", "--disk-iops", "5000", "--disk-bandwidth", "100m", "--net-bandwidth", "20m:30m", "base", "sleep", "600")
	w.Berth(t, "update", "--disk-iops", "400", "--net-bandwidth", "10m", "box")
	w.becomes(t, "box", ".Spec.Limits.DiskIOPS.Limit", "400")
	w.becomes(t, "box", ".Spec.Limits.DiskBandwidth.Limit", "104857600")
	expect(t, "write", w.Try(t.Context(), "exec", "box", "sh", "-c", "echo x >/x && sync && cat /x"), 0, "x\n")
	if kind == api.Container {
		got := testenv.Shell(t, w.Machine, `cd /sys/fs/cgroup
			p=$(sed -n 's/^0:://p' /proc/`+w.field(t, "box", ".Status.PID")+`/cgroup)
			test -f .$p/io.max && cat .$p/io.max || cat blkio$(sed -n 's/^[0-9]*:blkio://p' /proc/`+w.field(t, "box", ".Status.PID")+`/cgroup)/blkio.throttle.*_device`)
		if strings.Count(got, "104857600") != 2 || strings.Count(got, "400") < 2 {
			t.Errorf("the kernel's limits are %q", got)
		}
		refused(t, "a burst", w.Try(t.Context(), "update", "--disk-iops", "400:500", "box"), 1, "box", "no bursts")
	}
	w.Berth(t, "update", "--disk-iops", "-1", "--disk-bandwidth", "-1", "--net-bandwidth", "-1", "box")
}

// diskSize makes the disk of a VM that runs larger; a container has none.
func diskSize(t *testing.T, w *world, kind api.Kind) {
	if kind == api.Container {
		w.start(t, kind, "box", "base", "sleep", "600")
		refused(t, "a container's disk", w.Try(t.Context(), "update", "--disk", "1g", "box"), 1, "box", "--disk", "VM")
		return
	}
	w.start(t, kind, "box", "--disk", "64m", "base", "sleep", "600")
	w.Berth(t, "update", "--disk", "300m", "box")
	w.becomes(t, "box", ".Spec.Limits.Disk", "314572800")
	expect(t, "write", w.Try(t.Context(), "exec", "box", "sh", "-c", "head -c 200000000 /dev/zero >/x && sync && stat -c %s /x"), 0, "200000000\n")
	refused(t, "shrink", w.Try(t.Context(), "update", "--disk", "64m", "box"), 1, "box", "300MiB", "shrink", "64MiB")
}

func isolation(t *testing.T, w *world, kind api.Kind) {
	// Root in the container is nobody on the host, has few capabilities, no way
	// to new ones, a filter, and sees nothing but itself.
	r := w.Try(t.Context(), run(kind, "--rm", "base", "sh", "-c", `
		awk '{print $2 != 0}' /proc/self/uid_map
		grep -E '^(NoNewPrivs|Seccomp|CapInh):' /proc/self/status | tr -d '\t '
		ls /proc | grep -c '^[0-9]'
		mount -t tmpfs none /tmp 2>/dev/null || echo no mount
		echo x 2>/dev/null >/proc/sys/kernel/core_pattern || echo no sysctl
		head -c1 /proc/kcore 2>/dev/null | wc -c`)...)
	lines := strings.Split(r.Stdout, "\n")
	if len(lines) < 8 || lines[0] != "1" || lines[1] != "CapInh:0000000000000000" || lines[2] != "NoNewPrivs:1" ||
		lines[3] != "Seccomp:2" || len(lines[4]) != 1 || lines[5] != "no mount" || lines[6] != "no sysctl" || strings.TrimSpace(lines[7]) != "0" {
		t.Errorf("not isolated: %s", r)
	}
}

// landlocked lets an instance and its commands write to one directory.
func landlocked(t *testing.T, w *world, kind api.Kind) {
	profile := filepath.Join(t.TempDir(), "profile.json")
	write := func(text string) {
		if err := os.WriteFile(profile, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"handledAccessFS": ["write_file", "make_reg"], "pathBeneath": [{"allowedAccess": ["write_file", "make_reg"], "paths": ["/tmp"]}]}`)
	const attempt = "echo yes >/tmp/new && cat /tmp/new; echo no >/new || echo denied"
	w.start(t, kind, "box", "--security-opt", "landlock="+profile, "base", "sh", "-c", attempt+"; sleep 600")
	if said := w.logged(t, "box", "denied\n"); !strings.HasPrefix(said, "yes\n") {
		t.Errorf("the instance says %q", said)
	}
	expect(t, "exec", w.Try(t.Context(), "exec", "box", "sh", "-c", attempt), 0, "yes\ndenied\n")
	write(`{"handledAccessFS": ["write"]}`)
	refused(t, "run", w.Try(t.Context(), run(kind, "--security-opt", "landlock="+profile, "base", "true")...), 125, `"write" is unknown`)
	refused(t, "run", w.Try(t.Context(), run(kind, "--security-opt", "landlock=/none", "base", "true")...), 125, "/none: no such file")
	refused(t, "run", w.Try(t.Context(), run(api.VM, "--security-opt", "landlock="+profile, "base", "true")...), 125, "for containers")
}

// confined looks at a QEMU from outside: it has no rights, and of the host its own
// files alone.
func confined(t *testing.T, m testenv.Machine, pid string) {
	t.Helper()
	said := testenv.Shell(t, m, `cd /proc/`+pid+`
		grep -E '^(CapPrm|CapEff|CapBnd|NoNewPrivs|Seccomp):' status | tr -d '\t'
		for kind in mnt pid net ipc uts cgroup; do test $(readlink ns/$kind) != $(readlink /proc/self/ns/$kind) || echo the same $kind; done
		ls root root/dev root/etc 2>/dev/null | grep -v -E '^(root.*:|dev|kvm|null|fd|etc|ld.so.cache|initrd|kernel|lib|lib64|usr|)$' | sort`)
	if said != "CapPrm:0000000000000000\nCapEff:0000000000000000\nCapBnd:0000000000000000\nNoNewPrivs:1\nSeccomp:2" {
		t.Errorf("QEMU is not confined:\n%s", said)
	}
}
