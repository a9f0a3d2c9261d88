package listener

import (
	"bufio"
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/testenv"
)

// TestHandFails lets the runtime fail while the process is stopped. Its parent must
// learn of its end while the runtime lives on.
func TestHandFails(t *testing.T) {
	testenv.Check(t)
	path := filepath.Join(t.TempDir(), "agent")
	agent, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	parent := exec.Command("sh", "-c", "sleep 100 & echo $!; wait $!; echo $?")
	out, err := parent.StdoutPipe()
	if err == nil {
		err = parent.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Scan()
	pid, err := strconv.Atoi(lines.Text())
	if err != nil {
		t.Fatal(err)
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	broken := errors.New("broken")
	err = Hand(Process{Pid: pid, Pidfd: pidfd, Go: func() error { return broken }}, path, &specs.ContainerProcessState{})
	if errors.Is(err, unix.EPERM) {
		t.Skip("needs the right to trace")
	}
	if !errors.Is(err, broken) {
		t.Errorf("Hand: %v", err)
	}
	if lines.Scan(); lines.Text() != "137" {
		t.Errorf("the process ended with %q; want 137, killed", lines.Text())
	}
	if err := parent.Wait(); err != nil {
		t.Error(err)
	}
}

// TestHandDial wants errors that name the socket.
func TestHandDial(t *testing.T) {
	dir := t.TempDir()
	datagrams, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "datagrams"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer datagrams.Close()
	for path, want := range map[string]string{
		"agent":                          "must be an absolute path",
		filepath.Join(dir, "none"):       "no such file",
		filepath.Join(dir, "datagrams"):  "wrong type",
		"/" + strings.Repeat("long", 50): "invalid argument",
	} {
		if fd, err := dial(path); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %d, %v; want %q", path, fd, err, want)
		}
	}
}
