package attack

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci"
	"github.com/berthcloud/berth/internal/oci/capability"
	"github.com/berthcloud/berth/internal/testenv"
)

// patience bounds every command of a runtime.
const patience = 30 * time.Second

// secret is what the victim's file holds. Who prints it has left its container.
const secret = "of the host"

// testbed is where one attack happens: a bundle with busybox, a copy of the
// runtime, and a directory of the host that no container has.
type testbed struct {
	t      testing.TB
	rt     subject
	id     string
	dir    string
	binary string
	victim string
	stdin  *os.File // of everything: a null device that is not the host's
	spec   *specs.Spec
	rounds int // of a race
}

func newTestbed(t testing.TB, rt subject) *testbed {
	t.Helper()
	a := &testbed{t: t, rt: rt, id: testenv.Name(t), dir: testenv.Dir(t), rounds: 30}
	if *table != "" {
		a.rounds = 100 // a race that is not won proves little
	}
	a.must(os.Chmod(a.dir, 0o711)) // runtimes with a user namespace pass through
	a.binary = filepath.Join(a.dir, rt.name)
	a.victim = filepath.Join(a.dir, "victim")
	program, err := os.ReadFile(rt.binary)
	a.must(err)
	a.must(os.WriteFile(a.binary, program, 0o755))
	a.must(os.Mkdir(a.victim, 0o777))
	a.must(os.Chmod(a.victim, 0o777))
	a.must(os.WriteFile(filepath.Join(a.victim, "secret"), []byte(secret), 0o666))
	a.stdin = a.device(filepath.Join(a.dir, "null"), 3)
	a.must(os.Mkdir(filepath.Join(a.dir, "bundle"), 0o755))
	a.fillRootfs()
	a.reset()
	t.Cleanup(a.end)
	return a
}

func (a *testbed) must(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

// device makes a node of one of the memory devices (major number 1) and opens it.
func (a *testbed) device(path string, minor uint32) *os.File {
	a.must(unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))))
	f, err := os.Open(path)
	a.must(err)
	a.t.Cleanup(func() { f.Close() })
	return f
}

// rootfs returns a path of the image.
func (a *testbed) rootfs(path ...string) string {
	return filepath.Join(append([]string{a.dir, "bundle/rootfs"}, path...)...)
}

// fillRootfs makes the image anew.
func (a *testbed) fillRootfs() {
	a.t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		a.t.Skip("needs busybox-static")
	}
	a.must(os.RemoveAll(a.rootfs()))
	for _, dir := range []string{"bin", "etc", "dev", "tmp", "proc", "sys", "lib64"} {
		a.must(os.MkdirAll(a.rootfs(dir), 0o755))
	}
	a.must(os.WriteFile(a.rootfs("bin/busybox"), busybox, 0o755))
	for name := range strings.FieldsSeq("sh cat sleep true echo grep head mkdir mount readlink stat") {
		a.must(os.Symlink("busybox", a.rootfs("bin", name)))
	}
	a.must(os.WriteFile(a.rootfs("etc/passwd"), []byte("root:x:0:0::/:/bin/sh\n"), 0o644))
}

// reset asks for a container that is as strong as a careless user can make it.
func (a *testbed) reset() {
	all := capability.Names()
	a.spec = oci.ExampleSpec()
	a.spec.Version = "1.0.2" // crun 1.8 knows no newer one
	a.spec.Process.Terminal, a.spec.Root.Readonly = false, false
	a.spec.Process.NoNewPrivileges = false
	a.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: a.possible(all), Effective: a.possible(all), Permitted: a.possible(all)}
	a.spec.Linux.CgroupsPath = "/" + a.id
	a.spec.Linux.MaskedPaths, a.spec.Linux.ReadonlyPaths = nil, nil
	a.spec.Hostname = a.id // see sensitive
}

// possible leaves out the capabilities that this test lacks itself: not every
// runtime does.
func (a *testbed) possible(names []string) []string {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	a.must(unix.Capget(&header, &data[0]))
	mask := uint64(data[1].Permitted)<<32 | uint64(data[0].Permitted)
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return mask>>capability.Number(name)&1 == 0 })
}

// shell makes a line of shell the entrypoint.
func (a *testbed) shell(script string) { a.spec.Process.Args = []string{"sh", "-c", script} }

// userNamespace gives the container one of its own, and it the image.
func (a *testbed) userNamespace() {
	a.must(filepath.WalkDir(a.rootfs(), func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, 1<<20, 1<<20))
	}))
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1 << 20, Size: 1 << 16}}
	a.spec.Linux.Namespaces = append(a.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	a.spec.Linux.UIDMappings, a.spec.Linux.GIDMappings = ids, ids
}

// withoutDev shows the container the image's own /dev.
func (a *testbed) withoutDev() {
	a.spec.Mounts = slices.DeleteFunc(a.spec.Mounts, func(m specs.Mount) bool { return strings.HasPrefix(m.Destination, "/dev") })
}

// bind adds a bind mount of a directory of the host.
func (a *testbed) bind(source, dest string) {
	a.spec.Mounts = append(a.spec.Mounts, specs.Mount{Destination: dest, Type: "bind", Source: source, Options: []string{"rbind", "rw"}})
}

// result is what a command did.
type result struct {
	stdout, stderr string
	code           int
}

// started tells whether the entrypoint has run at all; the scripts say so first.
func (r result) started() bool { return strings.Contains(r.stdout, "started") }

func (a *testbed) root() string { return filepath.Join(a.dir, "state") }
func (a *testbed) log() string  { return filepath.Join(a.dir, "log") }

// oci runs the runtime to its end. Its standard input, output and error are
// files: whoever keeps them open does not hold us up.
func (a *testbed) oci(args ...string) result {
	a.t.Helper()
	return a.ociWith(nil, args...)
}

// ociWith hands the runtime further descriptors, from 3 on.
func (a *testbed) ociWith(files []*os.File, args ...string) result {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	argv := a.rt.command(a.binary, append([]string{"--root", a.root()}, args...)...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	stdout, stderr := a.scratch(), a.scratch()
	defer stdout.Close()
	defer stderr.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = a.stdin, stdout, stderr, files
	err := cmd.Run()
	read := func(f *os.File) string {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
		return string(b)
	}
	r := result{stdout: read(stdout), stderr: read(stderr), code: cmd.ProcessState.ExitCode()}
	if ctx.Err() != nil {
		a.t.Logf("%s %v: not within %v: %s", a.rt.name, args, patience, r.stderr)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		a.t.Fatal(err)
	}
	return r
}

// scratch is a file without a name.
func (a *testbed) scratch() *os.File {
	fd, err := unix.Open(a.dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o666)
	a.must(err)
	return os.NewFile(uintptr(fd), "scratch")
}

func (a *testbed) write() {
	a.t.Helper()
	raw, err := json.Marshal(a.spec)
	a.must(err)
	a.must(os.WriteFile(filepath.Join(a.dir, "bundle/config.json"), raw, 0o600))
}

// run runs the container to its end.
func (a *testbed) run() result {
	a.t.Helper()
	a.write()
	r := a.oci("run", "--bundle", filepath.Join(a.dir, "bundle"), a.id)
	a.oci("delete", "--force", a.id)
	return r
}

// start runs the container in the background, its output going to a.log().
func (a *testbed) start(files ...*os.File) result {
	a.t.Helper()
	a.write()
	log, err := os.OpenFile(a.log(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o666)
	a.must(err)
	defer log.Close()
	argv := a.rt.command(a.binary, "--root", a.root(), "run", "--detach", "--pid-file", a.dir+"/pid", "--bundle", a.dir+"/bundle", a.id)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = a.stdin, log, log, files
	err = cmd.Run()
	text, _ := os.ReadFile(a.log())
	if err != nil {
		return result{stderr: string(text), code: 1}
	}
	return result{stdout: string(text)}
}

// said waits until the container's output has a text, and returns the output.
func (a *testbed) said(text string) string {
	a.t.Helper()
	var log []byte
	testenv.Eventually(a.t, patience, func() (err error) {
		if log, err = os.ReadFile(a.log()); err == nil && !strings.Contains(string(log), text) {
			err = fmt.Errorf("it says %q", log)
		}
		return err
	})
	return string(log)
}

// pid is the container's first process.
func (a *testbed) pid() int {
	text, err := os.ReadFile(filepath.Join(a.dir, "pid"))
	a.must(err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	a.must(err)
	return pid
}

// end deletes the container and all that a peer may have left of it. Berth
// leaves nothing.
func (a *testbed) end() {
	a.oci("delete", "--force", a.id)
	if left, _ := os.ReadDir(a.root()); len(left) > 0 && a.rt.name == "berth-oci" {
		a.t.Errorf("left behind in --root: %v", left)
	}
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*/" + a.id)
	for _, dir := range append(dirs, filepath.Join("/sys/fs/cgroup", a.id)) {
		if a.rt.name != "berth-oci" {
			_ = unix.Rmdir(dir)
		}
	}
}

// watched are settings of the host's kernel that attacks of the past were after.
func watched() []string {
	return []string{
		"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/kernel/domainname",
		"/proc/sys/net/ipv4/ip_default_ttl", "/sys/kernel/uevent_helper",
	}
}

// host is what an attack must leave as it was: names and what they are.
func (a *testbed) host() map[string]string {
	a.t.Helper()
	state := map[string]string{}
	program, err := os.ReadFile(a.binary)
	a.must(err)
	state["the runtime's binary"] = fmt.Sprintf("%x", sha256.Sum256(program))
	for _, path := range watched() {
		if text, err := os.ReadFile(path); err == nil {
			state[path] = string(text)
		}
	}
	a.must(filepath.WalkDir(a.victim, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := "victim" + strings.TrimPrefix(path, a.victim)
		state[name] = a.inode(path)
		if d.Type().IsRegular() {
			text, err := os.ReadFile(path)
			state[name] += " " + string(text)
			return err
		}
		return nil
	}))
	return state
}

// inode tells kind, rights, owner and device number of a file.
func (a *testbed) inode(path string) string {
	var st unix.Stat_t
	a.must(unix.Lstat(path, &st))
	return fmt.Sprintf("%o %d:%d %x", st.Mode, st.Uid, st.Gid, st.Rdev)
}

// restore gives the host back what an attack has changed all the same.
func (a *testbed) restore(before map[string]string) {
	for _, path := range watched() {
		if text, err := os.ReadFile(path); err == nil && string(text) != before[path] {
			a.must(os.WriteFile(path, []byte(before[path]), 0o644))
		}
	}
}

// exchange swaps two names until the returned function is called.
func exchange(x, y string) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, x, unix.AT_FDCWD, y, unix.RENAME_EXCHANGE)
			}
		}
	}()
	return func() { close(quit); <-done }
}

// field returns the value of a line "Name: value" of /proc/PID/status and its like.
func field(text, name string) string {
	for line := range strings.SplitSeq(text, "\n") {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
