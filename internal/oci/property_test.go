package oci_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestProcessProperties asks for what config.md lets a process have beyond what
// TestConfigTakesEffect asks for.
func TestProcessProperties(t *testing.T) {
	b := newBox(t, "cut -d ' ' -f 19,41 /proc/self/stat; busybox ionice -p $$; grep -E 'CapAmb|CapInh' /proc/self/status; ulimit -c; ulimit -H -c; cat /proc/sys/kernel/shm_rmid_forced; busybox stty size <>/dev/tty 2>/dev/null || echo none")
	must(t, os.Symlink("busybox", filepath.Join(b.rootfs(), "bin/cut")))
	p := b.spec.Process
	p.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 5}
	p.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
	caps := []string{"CAP_KILL"}
	p.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Permitted: caps, Effective: caps, Inheritable: caps, Ambient: caps}
	p.User = specs.User{UID: 1000, GID: 1001}
	p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 0, Hard: 4096}}
	p.ConsoleSize = &specs.Box{Height: 33, Width: 77} // to be ignored without a terminal
	b.spec.Linux.Sysctl = map[string]string{"kernel.shm_rmid_forced": "1"}
	want := "5 3\nbest-effort: prio 6\nCapInh:\t0000000000000020\nCapAmb:\t0000000000000020\n0\n8\n1\nnone\n" // ulimit counts blocks of 512 bytes
	if out := b.run(); out.stdout != want {
		t.Errorf("%+v; want %q", out, want)
	}
	b.nothing()
}

// TestConsoleSize gives the terminal its size before the process can look.
func TestConsoleSize(t *testing.T) {
	b := newBox(t, "busybox stty size")
	b.spec.Process.Terminal, b.spec.Process.ConsoleSize = true, &specs.Box{Height: 33, Width: 77}
	if out := b.run(); out.stdout != "33 77\r\n" {
		t.Errorf("%+v", out)
	}
	b.nothing()
}

// TestMountOptions mounts with every option that a Linux runtime MUST or SHOULD know
// (config.md, Linux mount options) and looks at what came of it.
func TestMountOptions(t *testing.T) {
	b := newBox(t, "cat /proc/self/mountinfo")
	b.spec.Root.Readonly = false
	host := t.TempDir()
	must(t, os.Mkdir(filepath.Join(host, "sub"), 0o755))
	must(t, unix.Mount("tmpfs", filepath.Join(host, "sub"), "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(host, "sub"), unix.MNT_DETACH) })
	type mount struct {
		options string
		want    string            // attributes of the mount, and after a space of the one below
		super   string            // of the filesystem
		kind    func(dest string) // nil for tmpfs
	}
	bind := func(dest string) {
		b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: dest, Source: host})
	}
	cases := []mount{
		{options: "ro,nosuid,nodev,noexec", want: "ro,nosuid,nodev,noexec,relatime"},
		{options: "noatime,nodiratime,nosymfollow", want: "rw,noatime,nodiratime,nosymfollow"},
		{options: "strictatime", want: "rw"},
		{options: "noexec,exec,nosuid,suid,nodev,dev,ro,rw,atime,diratime,symfollow", want: "rw,relatime"},
		{options: "norelatime,nostrictatime,relatime", want: "rw,relatime"},
		{options: "async,defaults,loud,silent,noiversion,nolazytime,nomand,remount,iversion", want: "rw,relatime"},
		{options: "sync,dirsync,lazytime,size=64k", want: "rw,relatime", super: "rw,sync,dirsync,lazytime,size=64k"},
		{options: "rbind,ro", want: "ro,relatime rw,relatime", kind: bind},
		{options: "rbind,rro", want: "ro,relatime ro,relatime", kind: bind},
		{options: "rbind,rro,rrw", want: "rw,relatime rw,relatime", kind: bind},
		{options: "rbind,rnosuid,rnodev,rnoexec,rnoatime,rnosymfollow,rnodiratime", want: "rw,nosuid,nodev,noexec,noatime,nodiratime,nosymfollow rw,nosuid,nodev,noexec,noatime,nodiratime,nosymfollow", kind: bind},
		{options: "rbind,rnosuid,rsuid,rdev,rexec,rrelatime,rsymfollow", want: "rw,relatime rw,relatime", kind: bind},
		{options: "rbind,rstrictatime", want: "rw rw", kind: bind},
		{options: "bind,nosuid", want: "rw,nosuid,relatime", kind: bind},
	}
	for i, c := range cases {
		dest := fmt.Sprintf("m/%d", i) // relative ones count from / (deprecated, but "MAY be")
		if c.kind == nil {
			b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: dest, Type: "tmpfs", Source: "tmpfs"})
		} else {
			c.kind(dest)
		}
		b.spec.Mounts[len(b.spec.Mounts)-1].Options = strings.Split(c.options, ",")
	}
	out := b.run()
	for i, c := range cases {
		got, below, super := "", "", ""
		for line := range strings.SplitSeq(out.stdout, "\n") {
			f := strings.Fields(line)
			if len(f) < 10 {
				continue
			}
			switch f[4] {
			case fmt.Sprintf("/m/%d", i):
				got, super = f[5], f[len(f)-1]
			case fmt.Sprintf("/m/%d/sub", i):
				below = " " + f[5]
			}
		}
		if got+below != c.want || !strings.HasPrefix(super, c.super) {
			t.Errorf("%s: mounted %q, filesystem %q; want %q, %q", c.options, got+below, super, c.want, c.super)
		}
	}
	if t.Failed() {
		t.Logf("%+v", out)
	}
	b.nothing()
}

// TestMappedMount maps ids of a mount by mappings of its own, without and with a user
// namespace, for one mount and for all below it.
func TestMappedMount(t *testing.T) {
	host, below := t.TempDir(), t.TempDir()
	sub := filepath.Join(host, "sub")
	must(t, os.Mkdir(sub, 0o755))
	must(t, unix.Mount(below, sub, "", unix.MS_BIND, "")) // a tmpfs cannot be mapped before Linux 6.3
	t.Cleanup(func() { _ = unix.Unmount(sub, unix.MNT_DETACH) })
	for _, dir := range []string{host, sub} {
		must(t, errors.Join(os.WriteFile(filepath.Join(dir, "file"), nil, 0o644), os.Chown(filepath.Join(dir, "file"), 1000, 1001)))
	}
	ids := func(to uint32) []specs.LinuxIDMapping {
		return []specs.LinuxIDMapping{{ContainerID: 1000, HostID: to, Size: 10}}
	}
	for _, c := range []struct {
		options, want string
		user          bool
		uids, gids    []specs.LinuxIDMapping
	}{
		{"rbind,idmap", "5000:5001 1000:1001", false, ids(5000), ids(5000)},
		{"rbind,ridmap", "5000:5001 5000:5001", false, ids(5000), ids(5000)},
		{"rbind,ridmap", "7:8 7:8", true, ids(1<<20 + 7), ids(1<<20 + 7)},
		{"rbind", "5000:5001 1000:1001", false, ids(5000), ids(5000)}, // a SHOULD, not a MUST
		{"rbind,ridmap", "1000:1001 1000:1001", true, nil, nil},       // the container's own mappings
	} {
		b := newBox(t, "echo $(stat -c %u:%g /v/file /v/sub/file)")
		if c.user {
			b.userNamespace()
		}
		b.spec.Mounts = append(b.spec.Mounts, specs.Mount{
			Destination: "/v", Type: "none", Source: host, Options: strings.Split(c.options, ","), UIDMappings: c.uids, GIDMappings: c.gids,
		})
		if out := b.run(); out.stdout != c.want+"\n" {
			t.Errorf("%+v: %+v", c, out)
		}
		b.nothing()
	}
	b := newBox(t, "true")
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/v", Source: host, Options: []string{"bind", "idmap"}})
	if out := b.run(); out.code != 1 || !strings.Contains(out.stderr, "mounts[7] (/v): idmap: the container has no user namespace to map through") {
		t.Errorf("idmap of nothing: %+v", out)
	}
	b.nothing()
}

// TestResources sets every limit that the kernel at hand has and reads the files.
func TestResources(t *testing.T) {
	shares, quota, period, burst := uint64(512), int64(20000), uint64(50000), uint64(5000)
	memory, reservation, swap, pids, tcp := int64(64<<20), int64(32<<20), int64(96<<20), int64(77), int64(16<<20)
	b := newBox(t, "sleep 100")
	b.spec.Linux.Resources = &specs.LinuxResources{
		CPU:    &specs.LinuxCPU{Shares: &shares, Quota: &quota, Period: &period, Burst: &burst, Cpus: "0", Mems: "0"},
		Memory: &specs.LinuxMemory{Limit: &memory, Reservation: &reservation, Swap: &swap, KernelTCP: &tcp},
		Pids:   &specs.LinuxPids{Limit: &pids},
	}
	disk := b.throttle()
	b.start()
	root, files := "/sys/fs/cgroup/", map[string]string{
		"cpu/%s/cpu.shares": "512", "cpu/%s/cpu.cfs_quota_us": "20000", "cpu/%s/cpu.cfs_period_us": "50000", "cpu/%s/cpu.cfs_burst_us": "5000",
		"cpuset/%s/cpuset.cpus": "0", "cpuset/%s/cpuset.mems": "0",
		"memory/%s/memory.limit_in_bytes": "67108864", "memory/%s/memory.soft_limit_in_bytes": "33554432",
		"memory/%s/memory.memsw.limit_in_bytes": "100663296", "memory/%s/memory.kmem.tcp.limit_in_bytes": "16777216",
		"pids/%s/pids.max": "77",
	}
	if disk != "" {
		files["blkio/%s/blkio.throttle.read_bps_device"], files["blkio/%s/blkio.throttle.write_iops_device"] = disk+" 1048576", disk+" 100"
	}
	if _, err := os.Stat(root + "cgroup.controllers"); err == nil {
		files = map[string]string{
			"%s/cpu.max": "20000 50000", "%s/cpu.max.burst": "5000", "%s/cpuset.cpus": "0", "%s/cpuset.mems": "0",
			"%s/memory.max": "67108864", "%s/memory.low": "33554432", "%s/memory.swap.max": "33554432", "%s/pids.max": "77",
		}
		if disk != "" {
			files["%s/io.max"] = disk + " rbps=1048576 wbps=max riops=max wiops=100"
		}
	}
	for file, want := range files {
		raw, err := os.ReadFile(root + fmt.Sprintf(file, b.id))
		if errors.Is(err, os.ErrNotExist) {
			t.Logf("%s: not in this kernel", file)
			continue
		}
		if must(t, err); strings.TrimSpace(string(raw)) != want {
			t.Errorf("%s is %q; want %s", file, raw, want)
		}
	}
}

// TestIdleResources sets what goes with no other weight: processors only when nothing
// else wants them. An update takes it back.
func TestIdleResources(t *testing.T) {
	b := newBox(t, "sleep 100")
	idle := int64(1)
	b.spec.Linux.Resources.CPU = &specs.LinuxCPU{Idle: &idle}
	b.start()
	file := "/sys/fs/cgroup/cpu/" + b.id + "/cpu.idle"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		file = "/sys/fs/cgroup/" + b.id + "/cpu.idle"
	}
	for _, want := range []string{"1\n", "0\n"} {
		if raw, err := os.ReadFile(file); err != nil || string(raw) != want {
			t.Errorf("cpu.idle is %q, %v; want %q", raw, err, want)
		}
		if out := b.oci("update", "--cpu-idle", "0", b.id); out.code != 0 {
			t.Errorf("%+v", out)
		}
	}
}

// throttle limits the first disk of the machine and returns its number, or "" where
// there is none.
func (b *box) throttle() string {
	disks, _ := filepath.Glob("/sys/block/[svn]d[a-z]/dev")
	if len(disks) == 0 {
		return ""
	}
	raw, err := os.ReadFile(disks[0])
	must(b.t, err)
	disk := specs.LinuxThrottleDevice{Rate: 1 << 20}
	_, err = fmt.Sscanf(string(raw), "%d:%d", &disk.Major, &disk.Minor)
	must(b.t, err)
	writes := disk
	writes.Rate = 100
	b.spec.Linux.Resources.BlockIO = &specs.LinuxBlockIO{
		ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{disk}, ThrottleWriteIOPSDevice: []specs.LinuxThrottleDevice{writes},
	}
	return strings.TrimSpace(string(raw))
}

// TestDevices makes nodes of every type with owner and mode, and refuses to take another
// file for one.
func TestDevices(t *testing.T) {
	b := newBox(t, "stat -c '%F %t:%T %u:%g %a' /dev/a /dev/b /x/c /dev/fifo; cat /dev/full | head -c 1 | wc -c")
	b.spec.Root.Readonly = false
	mode, uid, gid := os.FileMode(0o620), uint32(7), uint32(8)
	b.spec.Linux.Devices = []specs.LinuxDevice{
		{Path: "/dev/a", Type: "c", Major: 1, Minor: 3, FileMode: &mode, UID: &uid, GID: &gid},
		{Path: "/dev/b", Type: "b", Major: 7, Minor: 1},
		{Path: "/x/c", Type: "u", Major: 1, Minor: 5},
		{Path: "/dev/fifo", Type: "p"},
	}
	want := "character special file 1:3 7:8 620\nblock special file 7:1 0:0 666\ncharacter special file 1:5 0:0 666\nfifo 0:0 0:0 666\n1\n"
	if out := b.run(); out.stdout != want || out.stderr != "" {
		t.Errorf("%+v; want %q", out, want)
	}
	b.nothing()
	b.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/etc/passwd", Type: "c", Major: 1, Minor: 3}}
	if out := b.run(); out.code != 1 || !strings.Contains(out.stderr, `linux.devices[0] (/etc/passwd): the image has another file there (config-linux.md: "If a file already exists`) {
		t.Errorf("%+v", out)
	}
	b.nothing()
}

// TestAppArmor applies a profile that every kernel with AppArmor has, and refuses one
// that it does not have, or any where there is no AppArmor.
func TestAppArmor(t *testing.T) {
	b := newBox(t, "cat /proc/self/attr/current")
	enabled, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	b.spec.Process.ApparmorProfile = "unconfined"
	out := b.run()
	switch {
	case string(enabled) == "Y\n" && (out.code != 0 || out.stdout != "unconfined\n"):
		t.Errorf("%+v", out)
	case string(enabled) != "Y\n" && (out.code != 1 || !strings.Contains(out.stderr, "process.apparmorProfile: AppArmor is not enabled in this kernel")):
		t.Errorf("%+v", out)
	}
	b.nothing()
	b.spec.Process.ApparmorProfile = "no-such-profile"
	if out := b.run(); out.code != 1 || !strings.Contains(out.stderr, "process.apparmorProfile: ") {
		t.Errorf("%+v", out)
	}
	b.nothing()
}

// TestAppArmorExec wants a command under the container's profile, not under its caller's.
func TestAppArmorExec(t *testing.T) {
	if enabled, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled"); string(enabled) != "Y\n" {
		t.Skip("no AppArmor in this kernel")
	}
	b := newBox(t, "sleep 100")
	b.spec.Process.ApparmorProfile = "unconfined"
	b.start()
	if out := b.oci("exec", b.id, "cat", "/proc/self/attr/current"); out.code != 0 || out.stdout != "unconfined\n" {
		t.Errorf("%+v", out)
	}
	if out := b.oci("exec", "--apparmor", "no-such-profile", b.id, "true"); out.code == 0 || !strings.Contains(out.stderr, "process.apparmorProfile: ") {
		t.Errorf("%+v", out)
	}
}

// TestSELinux refuses a process label where there is no SELinux, and leaves out that of
// the mounts with a warning.
func TestSELinux(t *testing.T) {
	if _, err := os.Stat("/sys/fs/selinux"); err == nil {
		t.Skip("has SELinux, but no policy to test with")
	}
	b := newBox(t, "echo ran")
	b.spec.Linux.MountLabel = "system_u:object_r:svirt_sandbox_file_t:s0:c1,c2"
	if out := b.run(); out.stdout != "ran\n" || !strings.Contains(out.stderr, "warning: linux.mountLabel: this kernel has no SELinux") {
		t.Errorf("%+v", out)
	}
	b.spec.Process.SelinuxLabel = "system_u:system_r:svirt_lxc_net_t:s0:c1,c2"
	if out := b.run(); out.code != 1 || !strings.Contains(out.stderr, "process.selinuxLabel: ") {
		t.Errorf("%+v", out)
	}
	b.nothing()
}

// TestJoinEveryNamespace joins those that TestJoinNamespaces and the validation suite do
// not: of time and of cgroups.
func TestJoinEveryNamespace(t *testing.T) {
	first := newBox(t, "sleep 100")
	first.spec.Linux.Namespaces = append(first.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	first.start()
	pid := strings.TrimSpace(strings.Trim(strings.TrimSpace(first.oci("ps", "--format", "json", first.id).stdout), "[]"))
	second := newBox(t, "readlink /proc/self/ns/time; readlink /proc/self/ns/cgroup")
	second.id += "b"
	second.spec.Linux.CgroupsPath = "/" + second.id
	second.spec.Mounts = second.spec.Mounts[:len(second.spec.Mounts)-1] // its cgroups lie outside of what it sees
	second.spec.Linux.Namespaces = []specs.LinuxNamespace{
		{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace},
		{Type: specs.TimeNamespace, Path: "/proc/" + pid + "/ns/time"}, {Type: specs.CgroupNamespace, Path: "/proc/" + pid + "/ns/cgroup"},
	}
	want := ""
	for _, file := range []string{"time", "cgroup"} {
		link, err := os.Readlink("/proc/" + pid + "/ns/" + file)
		must(t, err)
		want += link + "\n"
	}
	if out := second.run(); out.stdout != want {
		t.Errorf("%+v; want %q", out, want)
	}
	second.oci("delete", "--force", second.id)
	second.nothing()
}

// TestUnified writes files of cgroup v2 by name, and refuses what is not there; on v1
// there is nothing to write to.
func TestUnified(t *testing.T) {
	b := newBox(t, "sleep 100")
	b.spec.Linux.Resources.Unified = map[string]string{"memory.high": "1073741824", "pids.max": "88"}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		if out := b.run(); out.code != 1 || !strings.Contains(out.stderr, "linux.resources.unified: names files of cgroup v2") {
			t.Errorf("on v1: %+v", out)
		}
		b.nothing()
		return
	}
	b.start()
	for file, want := range b.spec.Linux.Resources.Unified {
		if raw, err := os.ReadFile("/sys/fs/cgroup/" + b.id + "/" + file); err != nil || strings.TrimSpace(string(raw)) != want {
			t.Errorf("%s is %q, %v; want %s", file, raw, err, want)
		}
	}
	b.oci("delete", "--force", b.id)
	b.spec.Linux.Resources.Unified = map[string]string{"galaxy.max": "1"}
	if out := b.run(); out.code != 1 || !strings.Contains(out.stderr, "galaxy") {
		t.Errorf("a controller that does not exist: %+v", out)
	}
	b.nothing()
	// A new limit below what is used: the kernel of v2 would kill, checkBeforeUpdate
	// refuses instead.
	b.spec.Linux.Resources.Unified = nil
	b.start()
	file := filepath.Join(t.TempDir(), "resources.json")
	must(t, os.WriteFile(file, []byte(`{"memory":{"limit":4096,"checkBeforeUpdate":true}}`), 0o600))
	if out := b.oci("update", "--resources", file, b.id); out.code != 1 || b.status() != "running" {
		t.Errorf("checkBeforeUpdate: %+v, the container is %s", out, b.status())
	}
}

// TestNoexecMemory runs where files in memory cannot be executed unless they were made
// for that, and where none can (sysctl vm.memfd_noexec of the PID namespace).
func TestNoexecMemory(t *testing.T) {
	if _, err := os.Stat("/proc/sys/vm/memfd_noexec"); err != nil {
		t.Skip("not in this kernel: it is of Linux 6.3")
	}
	b := newBox(t, "echo ran")
	b.write()
	for sysctl, want := range map[string]struct{ stdout, stderr string }{
		"1": {stdout: "ran\n"},
		"2": {stderr: "berth-oci: " + b.id + ": the first program of the process: the sysctl vm.memfd_noexec is 2, so that nothing in memory can be executed; set it to 1 or 0\n"},
	} {
		script := "echo " + sysctl + ` >/proc/sys/vm/memfd_noexec && exec "$@"`
		cmd := exec.CommandContext(t.Context(), "unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script, "sh",
			binary, "--root", b.root, "run", "--bundle", b.bundle, b.id)
		var stdout, stderr strings.Builder
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		_ = cmd.Run()
		if stdout.String() != want.stdout || stderr.String() != want.stderr {
			t.Errorf("%s: %q, %q", sysctl, stdout.String(), stderr.String())
		}
		b.nothing()
	}
}
