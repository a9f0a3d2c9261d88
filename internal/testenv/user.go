package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// User is an ordinary user, made up for a test: he has a name, a home, a run
// directory and subordinate ids, which stand in copies of /etc/passwd and its
// kin that only his processes see.
type User struct {
	ID   int    // of the user and of his group
	Home string // as in HOME
	Run  string // as in XDG_RUNTIME_DIR

	// Cgroup is one that Delegate has given him, counted from the root of the
	// hierarchies, or "".
	Cgroup string

	entrances []string // files that his commands write their number to
	script    string
}

// The made-up user, and the first of his subordinate ids and their number.
const (
	userID           = 61234
	SubordinateID    = 0x60000000
	SubordinateCount = 65536
)

// NewUser makes a user, whose directories go with the test. It skips the test
// where it is not root.
func NewUser(t testing.TB) *User {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := Dir(t)
	u := &User{ID: userID, Home: filepath.Join(dir, "home"), Run: filepath.Join(dir, "run")}
	script := []string{"set -e", "mount --make-rprivate /"}
	for name, line := range map[string]string{
		"passwd": fmt.Sprintf("tester:x:%d:%d::%s:/bin/sh", u.ID, u.ID, u.Home),
		"group":  fmt.Sprintf("tester:x:%d:", u.ID),
		"subuid": fmt.Sprintf("tester:%d:%d", SubordinateID, SubordinateCount),
		"subgid": fmt.Sprintf("tester:%d:%d", SubordinateID, SubordinateCount),
	} {
		old, err := os.ReadFile("/etc/" + name)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, append(old, line+"\n"...), 0o644); err != nil {
			t.Fatal(err)
		}
		script = append(script, fmt.Sprintf("mount --bind %s /etc/%s", path, name))
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	script = append(script, openTun(t, dir)...)
	for _, d := range []string{u.Home, u.Run} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
		u.Own(t, d)
	}
	u.script = strings.Join(append(script, fmt.Sprintf(`exec setpriv --reuid %d --regid %d --clear-groups --inh-caps -all "$@"`, u.ID, u.ID)), "\n")
	return u
}

// openTun gives everybody /dev/net/tun, as udev does, where this machine does not.
func openTun(t testing.TB, dir string) (script []string) {
	t.Helper()
	const tun = "/dev/net/tun"
	info, err := os.Stat(tun)
	if err != nil || info.Mode().Perm()&0o006 == 0o006 {
		return nil
	}
	path := filepath.Join(dir, "tun")
	if err := unix.Mknod(path, unix.S_IFCHR, int(unix.Mkdev(10, 200))); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	return []string{"mount --bind " + path + " " + tun}
}

// NeedIDs skips the test where the user cannot have his subordinate ids.
func (u *User) NeedIDs(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("newuidmap"); err != nil {
		t.Skip("needs the package uidmap")
	}
}

// v1Controllers are those of cgroup v1 that Delegate gives.
var v1Controllers = []string{"memory", "cpu", "cpuacct", "cpuset", "pids", "freezer", "blkio"}

// Delegate gives the user a cgroup that goes with the test, with these controllers, or
// all. His commands are in it from now on: of v2 in one below it, beside which others
// can be made.
func (u *User) Delegate(t testing.TB, controllers ...string) {
	t.Helper()
	const root = "/sys/fs/cgroup"
	u.Cgroup, u.entrances = "/"+Name(t)+"u", nil
	var dirs []string
	if unified() {
		if controllers == nil {
			controllers = []string{"memory", "cpu", "cpuset", "pids"}
		}
		top := root + u.Cgroup // root's, who hands these controllers on and no others
		makeCgroup(t, top, 0)
		for _, dir := range []string{root, top} {
			write(t, dir+"/cgroup.subtree_control", "+"+strings.Join(controllers, " +"))
		}
		u.Cgroup += "/given"
		dirs = []string{top + "/given", top + "/given/own"}
		u.entrances = []string{top + "/given/own/cgroup.procs"}
	} else {
		if controllers == nil {
			controllers = v1Controllers
		}
		for _, name := range controllers {
			dir := filepath.Join(root, name, u.Cgroup)
			dirs = append(dirs, dir)
			u.entrances = append(u.entrances, dir+"/tasks")
		}
	}
	for _, dir := range dirs {
		makeCgroup(t, dir, u.ID)
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} { // of v1 it has none
			if above, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file)); err == nil && !unified() {
				write(t, filepath.Join(dir, file), string(above))
			}
		}
	}
}

// makeCgroup makes a user's cgroup, which goes with the test.
func makeCgroup(t testing.TB, dir string, id int) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Eventually(t, 10*time.Second, func() error { return os.Remove(dir) }) })
	for _, name := range []string{"", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads", "tasks"} {
		if err := os.Chown(filepath.Join(dir, name), id, id); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

// unified reports whether this machine has cgroup v2 alone.
func unified() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.procs")
	return err == nil
}

func write(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0); err != nil {
		t.Fatal(err)
	}
}

// Own gives the user a directory and all that is in it.
func (u *User) Own(t testing.TB, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, u.ID, u.ID)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Command is exec.CommandContext with the user's ids, and nothing of the
// environment but PATH.
func (u *User) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	argv := u.argv(append([]string{name}, args...))
	return exec.CommandContext(ctx, argv[0], argv[1:]...)
}

// argv is a command line of root that becomes the user's.
func (u *User) argv(argv []string) []string {
	script := u.script
	for _, file := range u.entrances {
		script = "echo $$ >" + file + "\n" + script
	}
	own := []string{"env", "-i", "-C", u.Home, "PATH=" + os.Getenv("PATH"), "HOME=" + u.Home, "XDG_RUNTIME_DIR=" + u.Run, "USER=tester", marker + "=" + os.Getenv(marker)}
	own = append(own, "unshare", "--mount", "--propagation", "unchanged", "sh", "-c", script, "sh")
	return append(own, argv...)
}

// UserLocal is Local as an ordinary user has it.
type UserLocal struct {
	*Local
	User *User
}

// NewUserLocal makes the user and the network namespaces, and builds the programs.
func NewUserLocal(t testing.TB) *UserLocal {
	t.Helper()
	u := NewUser(t)
	u.NeedIDs(t)
	l := &UserLocal{NewLocal(t), u}
	bin := filepath.Join(u.Home, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	// They are built below the home of whoever tests.
	u.script = "mount --bind " + l.programs + " " + bin + "\n" + u.script
	return l
}

// Delegated is the same machine, where the user has a cgroup with these controllers
// alone, or none. It is there for the length of a subtest. Of v1 his commands are not in
// it.
func (l *UserLocal) Delegated(t testing.TB, controllers ...string) *UserLocal {
	t.Helper()
	u := *l.User
	u.Cgroup, u.entrances = "", nil
	if len(controllers) > 0 {
		u.Delegate(t, controllers...)
	}
	if !unified() {
		u.entrances = nil
	}
	return &UserLocal{l.Local, &u}
}

// Do implements Machine.
func (l *UserLocal) Do(ctx context.Context, c Command) Result {
	c.Argv = l.User.argv(c.Argv)
	return l.Local.Do(ctx, c)
}

// Programs implements Machine.
func (l *UserLocal) Programs() string { return filepath.Join(l.User.Home, "bin") }

// Temp implements Machine.
func (l *UserLocal) Temp() string { return l.User.Home }

// Runtime implements Machine.
func (l *UserLocal) Runtime() string { return l.User.Run }
