package testenv

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// User is an ordinary user, made up for a test: he has a name, a home, a run
// directory and subordinate ids, which stand in copies of /etc/passwd and its
// kin that only his processes see.
type User struct {
	ID   int    // of the user and of his group
	Home string // as in HOME
	Run  string // as in XDG_RUNTIME_DIR

	// Cgroup is the directory of a v2 cgroup that his commands run in, or "".
	Cgroup string

	script string
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
	if u.Cgroup != "" {
		script = "echo $$ >" + u.Cgroup + "/cgroup.procs\n" + script
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
