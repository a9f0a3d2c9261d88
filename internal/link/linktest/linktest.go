// Package linktest gives tests network namespaces of their own, so that
// nothing they do touches the host's.
package linktest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inNamespace marks the copy of the test binary that has its own namespace.
const inNamespace = "BERTH_TEST_IN_NETNS"

// Main runs the package's tests in a new network namespace, by starting the
// test binary again, and returns the exit status. It is called from TestMain. Without root the tests run
// where they are, and skip themselves.
func Main(m *testing.M) int {
	if os.Getuid() != 0 || os.Getenv(inNamespace) != "" {
		return m.Run()
	}
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	// The death signal follows the thread that forked, not the process.
	runtime.LockOSThread()
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	if err != nil {
		panic(err)
	}
	return 0
}

// Root skips the test without root.
func Root(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if os.Getenv(inNamespace) == "" {
		t.Fatal("the package's TestMain does not call linktest.Main")
	}
}

// NS is a network namespace that lives as long as its test.
type NS struct{ file *os.File }

// New makes a namespace. It ends with the test.
func New(t testing.TB) *NS {
	t.Helper()
	Root(t)
	var ns *NS
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		ns = &NS{f}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// NewInUserNS makes a namespace that belongs to a new user namespace, as a
// container's does.
func NewInUserNS(t testing.TB) *NS {
	t.Helper()
	Root(t)
	cmd := exec.CommandContext(t.Context(), "/bin/sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}},
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/ns/net")
	cmd.Process.Kill()
	cmd.Wait()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &NS{f}
}

// FD returns the descriptor of the namespace.
func (ns *NS) FD() int { return int(ns.file.Fd()) }

// Close gives the namespace up before the test ends.
func (ns *NS) Close() error { return ns.file.Close() }

// Do runs fn on a thread in the namespace and returns its error. Sockets that
// fn opens stay in the namespace; goroutines that it starts do not.
func (ns *NS) Do(fn func() error) error {
	return onThread(func() error {
		if err := unix.Setns(ns.FD(), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return fn()
	})
}

// onThread runs fn on a thread that nobody uses afterwards.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		done <- fn()
	}()
	return <-done
}
