package stage

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/landlock"
	"github.com/berthcloud/berth/internal/oci/mount"
	"github.com/berthcloud/berth/internal/oci/program"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; if that is meant, run the test with -update and read the change:\n%s", path, got)
	}
}

// callName names what the programs use.
func callName(number int) string {
	for name, n := range map[string]int{
		"accept4": unix.SYS_ACCEPT4, "capset": unix.SYS_CAPSET, "chdir": unix.SYS_CHDIR, "chroot": unix.SYS_CHROOT, "clone": unix.SYS_CLONE,
		"close": unix.SYS_CLOSE, "close_range": unix.SYS_CLOSE_RANGE, "dup3": unix.SYS_DUP3, "execve": unix.SYS_EXECVE, "execveat": unix.SYS_EXECVEAT,
		"exit_group": unix.SYS_EXIT_GROUP, "fchdir": unix.SYS_FCHDIR, "fchmodat": unix.SYS_FCHMODAT, "fchown": unix.SYS_FCHOWN, "fchownat": unix.SYS_FCHOWNAT,
		"fsconfig": unix.SYS_FSCONFIG, "fsmount": unix.SYS_FSMOUNT, "fsopen": unix.SYS_FSOPEN, "fstat": unix.SYS_FSTAT, "fstatat": sysFstatat, "fstatfs": unix.SYS_FSTATFS,
		"getcwd": unix.SYS_GETCWD, "ioctl": unix.SYS_IOCTL, "keyctl": unix.SYS_KEYCTL,
		"landlock_add_rule": unix.SYS_LANDLOCK_ADD_RULE, "landlock_create_ruleset": unix.SYS_LANDLOCK_CREATE_RULESET, "landlock_restrict_self": unix.SYS_LANDLOCK_RESTRICT_SELF,
		"mkdirat": unix.SYS_MKDIRAT, "mknodat": unix.SYS_MKNODAT, "mmap": unix.SYS_MMAP,
		"mount": unix.SYS_MOUNT, "mount_setattr": unix.SYS_MOUNT_SETATTR, "move_mount": unix.SYS_MOVE_MOUNT, "open_tree": unix.SYS_OPEN_TREE, "openat": unix.SYS_OPENAT,
		"openat2": unix.SYS_OPENAT2, "pivot_root": unix.SYS_PIVOT_ROOT, "prctl": unix.SYS_PRCTL, "prlimit64": unix.SYS_PRLIMIT64, "read": unix.SYS_READ,
		"recvfrom": unix.SYS_RECVFROM, "recvmsg": unix.SYS_RECVMSG, "rt_sigaction": unix.SYS_RT_SIGACTION, "seccomp": unix.SYS_SECCOMP, "sendmsg": unix.SYS_SENDMSG,
		"sendto": unix.SYS_SENDTO, "setgroups": unix.SYS_SETGROUPS, "sethostname": unix.SYS_SETHOSTNAME, "setresgid": unix.SYS_SETRESGID, "setresuid": unix.SYS_SETRESUID,
		"setsid": unix.SYS_SETSID, "symlinkat": unix.SYS_SYMLINKAT, "umask": unix.SYS_UMASK, "umount2": unix.SYS_UMOUNT2, "unshare": unix.SYS_UNSHARE,
		"wait4": unix.SYS_WAIT4, "write": unix.SYS_WRITE,
	} {
		if n == number {
			return name
		}
	}
	return fmt.Sprint("call ", number)
}

// example has one of everything that is common.
func example() *Init {
	caps := []string{"CAP_KILL", "CAP_NET_BIND_SERVICE"}
	return &Init{
		Files: 4, HostProc: 3, Helper: true, RootFile: 0, RootRO: true, NewCgroup: true,
		Mounts: []Mount{
			{Dest: "/proc", Field: "mounts[0]", File: None, Dir: true, Type: "proc", Source: "proc"},
			{Dest: "/dev", Field: "mounts[1]", File: None, Dir: true, Type: "tmpfs", Source: "tmpfs", Attr: unix.MOUNT_ATTR_NOSUID, Data: []string{"mode=755"}},
			{Dest: "/dev/pts", Field: "mounts[2]", File: None, Dir: true, Type: "devpts", Source: "devpts", Data: []string{"newinstance"}},
			{Dest: "/run", Field: "mounts[3]", File: None, Dir: true, Type: "tmpfs", CopyUp: true, LateRO: true},
			{Dest: "/etc/hosts", Field: "mounts[4]", File: 1, Type: "bind"},
			{Dest: "/data", Field: "mounts[5]", File: None, Type: "bind", Source: "/srv", Bind: &mount.Options{Recursive: true, Set: unix.MOUNT_ATTR_RDONLY}},
		},
		Devices: []Device{
			{Path: "/dev/null", Field: "default device", File: 2, Type: "c", Major: 1, Minor: 3},
			{Path: "/dev/fuse", Field: "linux.devices[0]", File: None, Type: "c", Major: 10, Minor: 229, Mode: 0o666},
		},
		Links:  []Link{{Path: "/dev/fd", Target: "/proc/self/fd"}, {Path: "/dev/stdin", Target: "/proc/self/fd/0"}},
		Masked: []string{"/proc/kcore"}, ReadOnly: []string{"/proc/sys"},
		Hostname: "web", Sysctl: map[string]string{"net.ipv4.ip_forward": "0"},
		Process: Process{
			Args: []string{"sh", "-c", "true"}, Env: []string{"HOME=/"}, Cwd: "/srv/www", UID: 7, GID: 8, Groups: []uint32{9}, SetGroups: true, Umask: -1,
			Caps:       specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps, Inheritable: caps, Ambient: caps[:1]},
			NoNewPrivs: true, Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 4096}}, AppArmor: "berth", Keyring: true,
			Landlock: &landlock.Domain{Size: 16, FS: 3, Net: 1, Paths: []landlock.Path{{Path: "/srv", Dir: 2, File: 2}}, Ports: []landlock.Port{{Port: 80, Access: 1}}},
			Terminal: true, Rows: 25, Cols: 80, Seccomp: make([]byte, 16), path: "/bin/sh",
		},
	}
}

func TestCompile(t *testing.T) {
	t.Parallel()
	p := example()
	exec := Exec{Process: p.Process, Files: 1}
	exec.Process.CgroupFiles = []int{0}
	hooked := Init{Files: 1, Process: Process{Args: []string{"true"}, Cwd: "/", path: "/bin/true", Umask: -1, SetGroups: true}, Chroot: true, HookRound: true, Helper: true, CreateContainer: true, StartContainer: true}
	for name, b := range map[string]*program.Builder{
		"init": p.Compile(), "start": p.CompileStart(), "exec": exec.Compile(), "hooks": hooked.Compile(), "hooks-start": hooked.CompileStart(),
	} {
		golden(t, name, b.List(callName))
	}
}
