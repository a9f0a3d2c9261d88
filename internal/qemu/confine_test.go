package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// captive makes this test program the one that is confined, and says what it tries.
var captive = flag.String("captive", "", "for TestClass15TakenOver's own use: a directory of the host")

// launchCaptive makes this test program the launcher.
const launchCaptive = "BERTH_TEST_LAUNCH"

// captured is what a program in QEMU's place found.
type captured struct {
	UID, PID int
	Groups   []int
	Given    string            // from the descriptor that it was given
	Shown    string            // from the file that it was shown
	Hostname string            // uname -n
	Refused  map[string]string // why what it tried failed; "" where it did not
}

// TestClass15TakenOver puts a hostile program into QEMU's place: what it has in hand
// is all that it reaches.
func TestClass15TakenOver(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if plan := os.Getenv(launchCaptive); plan != "" {
		p, err := DecodePlan([]byte(plan))
		if err == nil {
			err = Launch(p, nil)
		}
		fmt.Println(err)
		os.Exit(1)
	}
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("opened by root"), 0o600); err != nil {
		t.Fatal(err)
	}
	shown := filepath.Join(dir, "shown")
	if err := os.WriteFile(shown, []byte("for everybody"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{filepath.Join(dir, "daemon"), "@berth-test" + dir} {
		listener, err := net.Listen("unix", address)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
	}
	got := capture(t, &Plan{
		Args:    []string{testProgram(t), "-test.run=^TestCaptive$", "-captive=" + dir},
		Files:   []File{{FD: 20, Path: secret, Mode: "r"}},
		Sockets: []Socket{{FD: 21, Path: filepath.Join(dir, "s")}},
		Shown:   []Shown{{Path: shown, Name: "/kernel"}},
		UID:     64100,
	})
	want := captured{
		UID: 64100, PID: 1, Groups: []int{64100}, Given: "opened by root", Shown: "for everybody", Hostname: "berth",
		Refused: map[string]string{},
	}
	for what, why := range attempts(dir) {
		want.Refused[what] = why.want
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if info, err := os.Stat(filepath.Join(dir, "s")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info, err)
	}
}

// testProgram returns this program, where everybody may read it.
func testProgram(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "captive")
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// capture confines the plan's program, in a pid namespace as a keeper does.
func capture(t *testing.T, plan *Plan) (got captured) {
	t.Helper()
	var err error
	if plan.Program, err = Libraries(t.Context(), plan.Args[0]); err != nil {
		t.Fatal(err)
	}
	text, err := plan.Encode()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestClass15TakenOver$")
	cmd.Env = append(os.Environ(), launchCaptive+"="+string(text))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	out, err := cmd.CombinedOutput()
	if jsonErr := json.Unmarshal([]byte(strings.TrimSuffix(string(out), "PASS\n")), &got); jsonErr != nil {
		t.Fatalf("%v, %v:\n%s", err, jsonErr, out)
	}
	return got
}

// attempt is something that must fail.
type attempt struct {
	do   func() error
	want string
}

// attempts are what a program that took QEMU over would try. dir is of the host.
func attempts(dir string) map[string]attempt {
	socket := func(family, kind, protocol int) func() error {
		return func() error {
			fd, err := unix.Socket(family, kind, protocol)
			if err == nil {
				unix.Close(fd)
			}
			return err
		}
	}
	open := func(path string) func() error {
		return func() error {
			_, err := os.ReadFile(path)
			return errors.Unwrap(err)
		}
	}
	dial := func(address string) func() error {
		return func() error {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Connect(fd, &unix.SockaddrUnix{Name: address})
		}
	}
	list := func() error {
		_, err := os.ReadDir("/")
		return errors.Unwrap(err)
	}
	// What Landlock refuses where the kernel has it, and else nobody.
	version, _ := landlockVersion()
	denied := func(err error) string {
		if version == 0 {
			return ""
		}
		return err.Error()
	}
	return map[string]attempt{
		"read the host's users":       {open("/etc/passwd"), unix.ENOENT.Error()},
		"read a secret by name":       {open(filepath.Join(dir, "secret")), unix.ENOENT.Error()},
		"list processes":              {open("/proc/1/cmdline"), unix.ENOENT.Error()},
		"look at devices":             {open("/dev/mem"), unix.ENOENT.Error()},
		"connect to a daemon":         {dial(filepath.Join(dir, "daemon")), unix.ENOENT.Error()},
		"connect to an abstract name": {dial("@berth-test" + dir), unix.ECONNREFUSED.Error()},
		"list its root":               {list, denied(unix.EACCES)},
		"make a file":                 {func() error { return unix.Mkdir("/x", 0o755) }, unix.EROFS.Error()},
		"open an internet socket":     {socket(unix.AF_INET, unix.SOCK_STREAM, 0), unix.EPERM.Error()},
		"open a socket of vsock":      {socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0), unix.EPERM.Error()},
		"open a netlink socket":       {socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE), unix.EPERM.Error()},
		"open a packet socket":        {socket(unix.AF_PACKET, unix.SOCK_RAW, 0), unix.EPERM.Error()},
		"fork":                        {func() error { return fork() }, unix.EPERM.Error()},
		"fork by clone3":              {func() error { return call(unix.SYS_CLONE3, 0) }, unix.ENOSYS.Error()},
		"make a user namespace":       {func() error { return unix.Unshare(unix.CLONE_NEWUSER) }, unix.EPERM.Error()},
		"mount":                       {func() error { return unix.Mount("none", "/", "tmpfs", 0, "") }, unix.EPERM.Error()},
		"trace":                       {func() error { return unix.PtraceAttach(1) }, unix.EPERM.Error()},
		"load a program for BPF":      {func() error { return call(unix.SYS_BPF, 0) }, unix.EPERM.Error()},
		"set up io_uring":             {func() error { return call(unix.SYS_IO_URING_SETUP, 1) }, unix.EPERM.Error()},
		"allow itself larger files":   {func() error { return unix.Prlimit(0, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1 << 40, Max: 1 << 40}, nil) }, unix.EPERM.Error()},
		"become root":                 {func() error { return unix.Setresuid(0, 0, 0) }, unix.EPERM.Error()},
		"signal a process of others":  {func() error { return unix.Kill(os.Getppid()+2, 0) }, unix.ESRCH.Error()},
		"change the time":             {func() error { return unix.Settimeofday(&unix.Timeval{}) }, unix.EPERM.Error()},
	}
}

func call(number uintptr, argument uintptr) error {
	if _, _, errno := unix.Syscall(number, argument, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// fork calls clone as fork does. A child ends at once.
func fork() error {
	pid, _, errno := unix.RawSyscall(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0)
	if errno != 0 {
		return errno
	}
	if pid == 0 {
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	return nil
}

// TestCaptive is the hostile program.
func TestCaptive(t *testing.T) {
	if *captive == "" {
		t.Skip("TestClass15TakenOver runs it confined")
	}
	runtime.LockOSThread()
	got := captured{UID: os.Getuid(), PID: os.Getpid(), Refused: map[string]string{}}
	got.Groups = []int{os.Getgid()}
	given, err := io.ReadAll(os.NewFile(20, "given"))
	if err != nil {
		t.Fatal(err)
	}
	shown, err := os.ReadFile("/kernel")
	if err != nil {
		t.Fatal(err)
	}
	got.Given, got.Shown = string(given), string(shown)
	if got.Hostname, err = uname(); err != nil {
		t.Fatal(err)
	}
	for what, a := range attempts(*captive) {
		got.Refused[what] = ""
		if err := a.do(); err != nil {
			got.Refused[what] = err.Error()
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(got); err != nil {
		t.Fatal(err)
	}
}

func uname() (string, error) {
	var name unix.Utsname
	err := unix.Uname(&name)
	return unix.ByteSliceToString(name.Nodename[:]), err
}

// TestNeeds finds out what this host's QEMU opens by name.
func TestNeeds(t *testing.T) {
	path := program(t)
	needs, err := Needs(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	has := func(part, mode string) {
		t.Helper()
		if !slices.ContainsFunc(needs, func(s Shown) bool { return strings.Contains(s.Path, part) && s.Mode == mode }) {
			t.Errorf("no %s with mode %q in %v", part, mode, needs)
		}
	}
	has(path, "x")
	has("libc.so", "x")
	has("ld-linux", "x")
	has("share/qemu", "")
	for i, s := range needs[1:] {
		if s.Path <= needs[i].Path {
			t.Errorf("%s stands after %s", s.Path, needs[i].Path)
		}
	}
	if _, err := Needs(t.Context(), "/bin/false"); err == nil {
		t.Error("/bin/false lists firmware")
	}
}

func TestParseLibraries(t *testing.T) {
	got, err := parseLibraries("\tlinux-vdso.so.1 (0x00007ffc)\n\tliba.so.1 => /lib/liba.so.1 (0x1)\n\t/lib64/ld.so (0x2)\n")
	if err != nil || !slices.Equal(got, []string{"/lib/liba.so.1", "/lib64/ld.so"}) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := parseLibraries("\tliba.so.1 => not found\n"); err == nil || err.Error() != "the library liba.so.1 is missing" {
		t.Errorf("a missing library: %v", err)
	}
}

// TestLandlockRules asks for no right that a version does not know: the kernel would
// refuse all.
func TestLandlockRules(t *testing.T) {
	for version, want := range map[int]landlockRules{
		1: {Files: 1<<13 - 1}, 2: {Files: 1<<14 - 1}, 3: {Files: 1<<15 - 1}, 4: {Files: 1<<15 - 1, TCP: 3},
		5: {Files: 1<<16 - 1, TCP: 3}, 6: {Files: 1<<16 - 1, TCP: 3, Scope: 3}, 7: {Files: 1<<16 - 1, TCP: 3, Scope: 3},
	} {
		if got := newLandlockRules(version); got != want {
			t.Errorf("version %d: %+v, want %+v", version, got, want)
		}
	}
}
