package spawn

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// open opens a file for the length of the test.
func open(t *testing.T, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// start runs a command of busybox and returns what it wrote.
func start(t *testing.T, cmd *Cmd, prepare func(*Child)) (string, unix.WaitStatus) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd.Exe, cmd.Cgroup = open(t, "/bin/busybox"), -1
	cmd.Files = []int{open(t, "/dev/null"), int(w.Fd()), int(w.Fd())}
	c, err := Start(cmd)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if prepare != nil {
		prepare(c)
	}
	if err := c.Release(); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := out.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	status, err := wait4(c.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), status
}

func TestPlain(t *testing.T) {
	out, status := start(t, &Cmd{Args: []string{"sh", "-c", "echo $A; exit 3"}, Env: []string{"A=b"}}, nil)
	if out != "b\n" || status.ExitStatus() != 3 {
		t.Errorf("%q, %v", out, status)
	}
}

// TestUserNamespace makes one, becomes its root, and then enters it from outside.
func TestUserNamespace(t *testing.T) {
	cmd := &Cmd{Args: []string{"sh", "-c", "id -u; id -g"}, New: unix.CLONE_NEWUSER | unix.CLONE_NEWPID, Root: true}
	var join int
	out, _ := start(t, cmd, func(c *Child) {
		proc := "/proc/" + strconv.Itoa(c.Pid)
		for _, file := range []string{"/uid_map", "/gid_map"} {
			if err := os.WriteFile(proc+file, []byte("0 1000000 1000"), 0); err != nil {
				t.Fatal(err)
			}
		}
		join = open(t, proc+"/ns/user")
	})
	if out != "0\n0\n" {
		t.Errorf("in a new one: %q", out)
	}
	out, _ = start(t, &Cmd{
		Args: []string{"sh", "-c", "id -u; busybox cat /proc/self/uid_map 2>/dev/null || cat /proc/self/uid_map"},
		Join: []Join{{join, unix.CLONE_NEWUSER}}, New: unix.CLONE_NEWUTS, Root: true,
	}, nil)
	if !strings.HasPrefix(out, "0\n") || !strings.Contains(out, "1000000") {
		t.Errorf("in a joined one: %q", out)
	}
}

// TestNoDescriptorsButThose hands over three and finds three.
func TestNoDescriptorsButThose(t *testing.T) {
	leak, err := os.Open("/etc")
	if err != nil {
		t.Fatal(err)
	}
	defer leak.Close()
	if _, err := unix.FcntlInt(leak.Fd(), unix.F_SETFD, 0); err != nil { // not even closed on exec
		t.Fatal(err)
	}
	out, _ := start(t, &Cmd{Args: []string{"ls", "/proc/self/fd"}}, nil)
	if out != "0\n1\n2\n3\n" { // the last is the directory that ls reads
		t.Errorf("descriptors %q", out)
	}
}

// TestFailures names the step that failed.
func TestFailures(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	null := open(t, "/dev/null")
	_, err := Start(&Cmd{Exe: null, Args: []string{"x"}, Cgroup: -1, Join: []Join{{null, unix.CLONE_NEWNET}}})
	if err == nil || !strings.Contains(err.Error(), "setns to the network namespace") || !errors.Is(err, unix.EINVAL) {
		t.Errorf("a file that is no namespace: %v", err)
	}
	c, err := Start(&Cmd{Exe: null, Args: []string{"x"}, Cgroup: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Kill()
	if err := c.Release(); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err == nil || !strings.Contains(err.Error(), "execveat") {
		t.Errorf("a file that is no program: %v", err)
	}
}

// TestGivenUp ends a child whose caller goes away before Release.
func TestGivenUp(t *testing.T) {
	c, err := Start(&Cmd{Exe: open(t, "/bin/busybox"), Args: []string{"sleep", "100"}, Cgroup: -1})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if status, err := wait4(c.Pid); err != nil || status.ExitStatus() == 0 {
		t.Errorf("%v, %v", status, err)
	}
}
