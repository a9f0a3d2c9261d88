package oci_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthcloud/berth/internal/oci/capability"
)

// The tests below carry out the attacks by which container runtimes have fallen,
// one function for each class.

// allCapabilities makes the container as strong as a careless user can.
func (b *box) allCapabilities() {
	all := capability.Names()
	b.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
	b.spec.Process.NoNewPrivileges = false
	b.spec.Linux.MaskedPaths, b.spec.Linux.ReadonlyPaths = nil, nil
}

// TestAttackBinaryOverwrite writes to the runtime's binary through /proc/PID/exe
// (CVE-2019-5736): as the entrypoint, as an interpreter, and from beside an exec.
func TestAttackBinaryOverwrite(t *testing.T) {
	if testing.Short() {
		t.Skip("repeats an attack for seconds")
	}
	before := hash(t, binary)
	overwrite := `i=0; while [ $i -lt 400 ]; do for f in /proc/[0-9]*/exe; do
		case "$(readlink $f)" in *busybox*) ;; *) echo OWNED 2>/dev/null >$f && echo "wrote to $f";; esac; done; i=$((i+1)); done`
	for _, c := range []struct {
		name string
		args []string
	}{
		{"entrypoint", []string{"/proc/self/exe", "--version"}},
		{"interpreter", []string{"/evil"}},
		{"library loop", []string{"sh", "-c", overwrite}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBox(t, "")
			b.allCapabilities()
			must(t, os.WriteFile(filepath.Join(b.rootfs(), "evil"), []byte("#!/proc/self/exe --version\n"), 0o755))
			b.spec.Process.Args = c.args
			if out := b.run(); strings.Contains(out.stdout, "wrote to") {
				t.Errorf("%+v", out)
			}
			b.nothing()
		})
	}
	t.Run("exec", func(t *testing.T) {
		b := newBox(t, "while :; do "+overwrite+"; done")
		b.allCapabilities()
		b.start()
		for range 10 {
			b.oci("exec", b.id, "/proc/self/exe", "--version")
			b.oci("exec", b.id, "true")
		}
		if log, _ := os.ReadFile(b.log()); strings.Contains(string(log), "wrote to") {
			t.Errorf("%s", log)
		}
	})
	if after := hash(t, binary); after != before {
		t.Error("the runtime's binary has changed")
	}
}

func hash(t *testing.T, path string) [32]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return sha256.Sum256(b)
}

// TestAttackWorkingDirectory names descriptors of the runtime as working directory
// (CVE-2024-21626).
func TestAttackWorkingDirectory(t *testing.T) {
	if testing.Short() {
		t.Skip("repeats an attack for seconds")
	}
	b := newBox(t, "ls -l ..; pwd")
	for fd := range 40 {
		b.spec.Process.Cwd = fmt.Sprintf("/proc/self/fd/%d", fd)
		if out := b.run(); out.code == 0 {
			t.Errorf("run in %s: %+v", b.spec.Process.Cwd, out)
		}
	}
	b.nothing()
	b.spec.Process.Cwd = "/"
	b.spec.Process.Args = []string{"sleep", "100"}
	b.start()
	for fd := range 40 {
		cwd := fmt.Sprintf("/proc/self/fd/%d", fd)
		if out := b.oci("exec", "--cwd", cwd, b.id, "ls"); out.code == 0 {
			t.Errorf("exec in %s: %+v", cwd, out)
		}
	}
}

// TestAttackLeakedDescriptors lists the descriptors of the first process and of a
// command (CVE-2016-9962, CVE-2024-21626).
func TestAttackLeakedDescriptors(t *testing.T) {
	leak, err := os.Open("/etc")
	must(t, err)
	defer leak.Close()
	list := "for f in /proc/self/fd/*; do echo ${f##*/} $(readlink $f); done; echo end; sleep 100"
	b := newBox(t, list)
	b.start()
	eventually(t, "the list", func() bool { log, _ := os.ReadFile(b.log()); return strings.Contains(string(log), "end") })
	log, _ := os.ReadFile(b.log())
	check := func(who, text string) {
		for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
			fd, target, _ := strings.Cut(line, " ")
			if line == "end" || slices.Contains([]string{"0", "1", "2"}, fd) || target == "" || strings.HasPrefix(target, "/proc/") {
				continue // the last two: the shell reading the directory
			}
			t.Errorf("%s has descriptor %s: %s", who, fd, target)
		}
	}
	check("the first process", string(log))
	check("a command", b.oci("exec", b.id, "sh", "-c", strings.TrimSuffix(list, "; sleep 100")).stdout)
}

// TestAttackMaskedPaths puts symbolic links where the runtime looks for /dev/null
// and for devices (CVE-2025-31133, CVE-2025-52565).
func TestAttackMaskedPaths(t *testing.T) {
	for _, user := range []bool{false, true} {
		b := newBox(t, "cat /proc/keys | wc -c; echo x > /proc/sys/kernel/core_pattern; stat -c %F /dev/null; cat /victim; mount | grep core_pattern")
		b.allCapabilities()
		b.spec.Linux.MaskedPaths = []string{"/proc/keys", "/proc/kcore", "/sys/firmware"}
		b.spec.Linux.ReadonlyPaths = []string{"/proc/sys"}
		must(t, os.WriteFile(filepath.Join(b.rootfs(), "victim"), []byte("untouched\n"), 0o666))
		must(t, os.Mkdir(filepath.Join(b.rootfs(), "dev"), 0o755))
		for _, name := range []string{"null", "console", "ptmx", "tty"} {
			must(t, os.Symlink("/proc/sys/kernel/core_pattern", filepath.Join(b.rootfs(), "dev", name)))
		}
		// The image's own /dev stays: no tmpfs hides it.
		b.spec.Mounts = slices.DeleteFunc(b.spec.Mounts, func(m specs.Mount) bool { return strings.HasPrefix(m.Destination, "/dev") })
		if user {
			b.userNamespace()
		}
		out := b.run()
		if out.code == 0 && out.stdout != "0\ncharacter special file\nuntouched\n" && out.stdout != "0\nsymbolic link\nuntouched\n" {
			t.Errorf("user namespace %v: %+v", user, out)
		}
		if strings.Contains(out.stdout, "core_pattern") {
			t.Errorf("user namespace %v: a mount on core_pattern: %s", user, out.stdout)
		}
		b.nothing()
	}
}

// TestAttackProcIsALink leads /proc and /sys elsewhere, so that writes of the
// runtime would go there (CVE-2019-19921, CVE-2023-27561, CVE-2025-52881).
func TestAttackProcIsALink(t *testing.T) {
	for _, dir := range []string{"proc", "sys"} {
		b := newBox(t, "true")
		must(t, os.MkdirAll(filepath.Join(b.rootfs(), "evil"), 0o755))
		must(t, os.Symlink("/evil", filepath.Join(b.rootfs(), dir)))
		if out := b.run(); out.code == 0 || !strings.Contains(out.stderr, "symbolic link") {
			t.Errorf("/%s a symbolic link: %+v", dir, out)
		}
		b.nothing()
	}
	for _, dest := range []string{"/proc/self/attr", "/proc/1/attr/apparmor/exec", "/proc/sys/kernel", "/proc/self/exe"} {
		b := newBox(t, "true")
		b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: dest, Type: "tmpfs", Source: "tmpfs"})
		if out := b.run(); out.code == 0 || !strings.Contains(out.stderr, "mounts[7].destination") {
			t.Errorf("a mount on %s: %+v", dest, out)
		}
		// The same by way of a link of the image.
		must(t, os.Symlink(dest, filepath.Join(b.rootfs(), "data")))
		b.spec.Mounts[len(b.spec.Mounts)-1].Destination = "/data"
		if out := b.run(); out.code == 0 {
			t.Errorf("a mount on a link to %s: %+v", dest, out)
		}
		b.nothing()
	}
}

// TestAttackMountTargets leads mount targets out of the root filesystem
// (CVE-2021-30465, CVE-2024-45310).
func TestAttackMountTargets(t *testing.T) {
	victim := t.TempDir()
	b := newBox(t, "mount | grep /in")
	up := strings.Repeat("../", 20)
	for name, target := range map[string]string{"abs": victim, "rel": up + victim, "dir": up, "dangling": up + victim + "/made"} {
		must(t, os.Symlink(target, filepath.Join(b.rootfs(), name)))
	}
	for _, dest := range []string{"/abs/in", "/rel/in", "/dir" + victim + "/in", "/dangling/in", up + victim + "/in", "/dangling"} {
		b.spec.Mounts = append(b.spec.Mounts[:7:7],
			specs.Mount{Destination: dest, Type: "tmpfs", Source: "tmpfs"},
			specs.Mount{Destination: dest + "/sub/file", Type: "bind", Source: "/etc/passwd", Options: []string{"bind"}})
		b.run()
		if entries, err := os.ReadDir(victim); err != nil || len(entries) > 0 {
			t.Fatalf("a mount at %s made %v on the host, %v", dest, entries, err)
		}
	}
	b.nothing()
}

// TestAttackMountTargetRace exchanges a directory for a link to the host while
// containers with a mount below it start (CVE-2021-30465).
func TestAttackMountTargetRace(t *testing.T) {
	if testing.Short() {
		t.Skip("repeats an attack for seconds")
	}
	victim, shared := t.TempDir(), t.TempDir()
	b := newBox(t, "true")
	must(t, os.Mkdir(filepath.Join(shared, "a"), 0o755))
	must(t, os.Symlink(strings.Repeat("../", 20)+victim, filepath.Join(shared, "b")))
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_ = exchange(filepath.Join(shared, "a"), filepath.Join(shared, "b"))
			}
		}
	}()
	b.spec.Mounts = append(b.spec.Mounts,
		specs.Mount{Destination: "/vol", Type: "bind", Source: shared, Options: []string{"rbind"}},
		specs.Mount{Destination: "/vol/a/in", Type: "tmpfs", Source: "tmpfs"})
	for range 25 {
		b.run()
	}
	close(stop)
	<-done
	if entries, err := os.ReadDir(victim); err != nil || len(entries) > 0 {
		t.Errorf("the host has %v, %v", entries, err)
	}
	b.nothing()
}

// TestAttackCapabilities compares what processes have with what was asked for, in
// every set (CVE-2022-27649, CVE-2022-29162), together with the other promises of
// confinement.
func TestAttackCapabilities(t *testing.T) {
	for _, user := range []bool{false, true} {
		b := newBox(t, "cat /proc/self/status; sleep 100")
		b.spec.Process.Capabilities = &specs.LinuxCapabilities{
			Bounding:  []string{"CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"},
			Permitted: []string{"CAP_CHOWN", "CAP_KILL"}, Effective: []string{"CAP_CHOWN"},
		}
		b.spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
			{Names: []string{"mkdirat", "mkdir"}, Action: specs.ActErrno},
		}}
		if user {
			b.userNamespace()
		}
		b.start()
		var log string
		eventually(t, "the status", func() bool {
			raw, _ := os.ReadFile(b.log())
			log = string(raw)
			return strings.Contains(log, "nonvoluntary")
		})
		// execve by root makes all permitted ones effective; no_new_privs keeps it from
		// adding the rest of the bounding set.
		want := map[string]string{
			"CapInh": "0000000000000000", "CapBnd": "0000000000002021", "CapPrm": "0000000000000021",
			"CapEff": "0000000000000021", "CapAmb": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2",
		}
		exec := b.oci("exec", b.id, "cat", "/proc/self/status").stdout
		bob := b.oci("exec", "--user", "bob", b.id, "cat", "/proc/self/status").stdout
		for name, value := range want {
			if got := field(log, name); got != value {
				t.Errorf("first process: %s %s; want %s", name, got, value)
			}
			if got := field(exec, name); got != value {
				t.Errorf("command: %s %s; want %s", name, got, value)
			}
			if name == "CapPrm" || name == "CapEff" {
				value = "0000000000000000"
			}
			if got := field(bob, name); got != value {
				t.Errorf("command of a user: %s %s; want %s", name, got, value)
			}
		}
		if out := b.oci("exec", b.id, "mkdir", "/dev/shm/x"); !strings.Contains(out.stderr, "Operation not permitted") {
			t.Errorf("mkdir under the filter: %+v", out)
		}
		b.oci("delete", "--force", b.id)
		b.nothing()
	}
}
