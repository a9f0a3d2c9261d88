package spawn

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/program"
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

// executes makes a child become root of its user namespace and execute busybox.
func executes(args ...string) *program.Builder {
	b := program.New(program.Second)
	BecomeRoot(b)
	b.Call("fcntl", unix.SYS_FCNTL, program.N(3), program.N(unix.F_SETFD), program.N(unix.FD_CLOEXEC))
	b.Call("execve "+args[0], unix.SYS_EXECVE, b.String("/bin/busybox").Arg(), b.Strings(args).Arg(), b.Strings([]string{"A=b"}).Arg())
	return b
}

// start runs a command of busybox and returns what it wrote.
func start(t *testing.T, cmd *Cmd, prepare func(*Child), args ...string) (string, unix.WaitStatus) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd.Cgroup = -1
	cmd.Files, cmd.Conn = []int{open(t, "/dev/null"), int(w.Fd()), int(w.Fd()), -1}, 3
	c, err := Start(cmd)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if prepare != nil {
		prepare(c)
	}
	if err := c.Exec(executes(args...)); err != nil {
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
	out, status := start(t, &Cmd{}, nil, "sh", "-c", "echo $A; exit 3")
	if out != "b\n" || status.ExitStatus() != 3 {
		t.Errorf("%q, %v", out, status)
	}
}

// TestUserNamespace makes one, becomes its root, and then enters it from outside.
func TestUserNamespace(t *testing.T) {
	var join int
	out, _ := start(t, &Cmd{New: unix.CLONE_NEWUSER | unix.CLONE_NEWPID}, func(c *Child) {
		proc := "/proc/" + strconv.Itoa(c.Pid)
		for _, file := range []string{"/uid_map", "/gid_map"} {
			if err := os.WriteFile(proc+file, []byte("0 1000000 1000"), 0); err != nil {
				t.Fatal(err)
			}
		}
		join = open(t, proc+"/ns/user")
	}, "sh", "-c", "id -u; id -g")
	if out != "0\n0\n" {
		t.Errorf("in a new one: %q", out)
	}
	out, _ = start(t, &Cmd{Join: []Join{{join, unix.CLONE_NEWUSER}}, New: unix.CLONE_NEWUTS}, nil,
		"sh", "-c", "id -u; busybox cat /proc/self/uid_map 2>/dev/null || cat /proc/self/uid_map")
	if !strings.HasPrefix(out, "0\n") || !strings.Contains(out, "1000000") {
		t.Errorf("in a joined one: %q", out)
	}
}

// TestTimeNamespace moves the clock since boot.
func TestTimeNamespace(t *testing.T) {
	if _, err := os.Stat("/proc/self/ns/time"); err != nil {
		t.Skip("no time namespaces in this kernel")
	}
	out, _ := start(t, &Cmd{Time: true, TimeOffsets: "boottime 1000000000 0\n"}, nil, "cat", "/proc/uptime")
	if up, err := strconv.ParseFloat(strings.Fields(out + " x")[0], 64); err != nil || up < 1e9 {
		t.Errorf("%q, %v", out, err)
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
	out, _ := start(t, &Cmd{}, nil, "ls", "/proc/self/fd")
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
	files := []int{null, null, null, -1}
	_, err := Start(&Cmd{Files: files, Conn: 3, Cgroup: -1, Join: []Join{{null, unix.CLONE_NEWNET}}})
	if err == nil || !strings.Contains(err.Error(), "setns to the network namespace") || !errors.Is(err, unix.EINVAL) {
		t.Errorf("a file that is no namespace: %v", err)
	}
	c, err := Start(&Cmd{Files: files, Conn: 3, Cgroup: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Kill()
	b := program.New(program.Second)
	b.Call("execve of nothing", unix.SYS_EXECVE, b.String("/nothing").Arg(), b.Strings(nil).Arg(), b.Strings(nil).Arg())
	if err := c.Exec(b); err == nil || !strings.Contains(err.Error(), "execve of nothing") || !errors.Is(err, unix.ENOENT) {
		t.Errorf("a program that is not there: %v", err)
	}
}

// TestGivenUp ends a child whose caller goes away before it has said what to do.
func TestGivenUp(t *testing.T) {
	null := open(t, "/dev/null")
	c, err := Start(&Cmd{Files: []int{null, null, null, -1}, Conn: 3, Cgroup: -1})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if status, err := wait4(c.Pid); err != nil || status.ExitStatus() == 0 {
		t.Errorf("%v, %v", status, err)
	}
}

// TestMeanwhileFails leaves no child where what is done beside its start fails.
func TestMeanwhileFails(t *testing.T) {
	null := open(t, "/dev/null")
	full := errors.New("full")
	c, err := Start(&Cmd{Files: []int{null, null, null, -1}, Conn: 3, Cgroup: -1, Meanwhile: func() error { return full }})
	if c != nil || !errors.Is(err, full) {
		t.Errorf("%v, %v", c, err)
	}
	if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); !errors.Is(err, unix.ECHILD) {
		t.Errorf("a child is left: %d, %v", pid, err)
	}
}
