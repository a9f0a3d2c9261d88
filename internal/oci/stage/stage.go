// Package stage is the part of the runtime that runs inside a container's
// namespaces, between the raw clone of package spawn and the execve of the
// workload. It is the same program as the runtime, executed anew, because only a
// fresh process has a Go runtime after a fork.
//
// The order of steps is the heart of a container runtime; each list below (runInit,
// runExec, finish) reads from top to bottom as it happens.
//
// Everything runs on the process's first thread, to which package main locks the
// goroutine: credentials, namespaces and seccomp belong to a thread, and a v1
// cgroup is joined by the thread that writes "0" to its tasks file. execve ends the
// other threads of the Go runtime.
package stage

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/wire"
)

// Arguments of the runtime's own program that lead here. They are no commands of
// the user's: the second argument is the descriptor of the conversation.
const (
	InitArg = "stage-init"
	ExecArg = "stage-exec"
)

// Env is the environment of a stage, which its Go runtime reads: it does one thing
// after another and soon is no more, so it needs neither a second processor nor a
// collector. Fewer threads start, and execve has fewer to end.
func Env() []string { return []string{"GOMAXPROCS=1", "GOGC=off"} }

// Is reports whether the arguments of the process (os.Args) ask for a stage.
func Is(args []string) bool {
	return len(args) == 3 && (args[1] == InitArg || args[1] == ExecArg)
}

// Main runs a stage and does not return on success. It returns the exit status.
// The caller has locked the goroutine to the process's first thread.
func Main(args []string) int {
	fd, err := strconv.Atoi(args[2])
	if err != nil {
		return 1
	}
	// Unreadable through /proc and not to be traced by what already runs in the
	// namespaces (CVE-2016-9962); lasts until execve.
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	unix.CloseOnExec(fd)
	s := &stage{conn: wire.Conn{FD: fd}, listener: -1, reaper: -1}
	if args[1] == InitArg {
		err = s.runInit()
	} else {
		err = s.runExec()
	}
	if errors.Is(err, io.EOF) { // the runtime has gone
		return 1
	}
	f := wire.Fail(err)
	_ = s.conn.Send(wire.Report{Phase: wire.Failed, Failure: f, Warnings: s.warnings})
	return f.Code
}

// stage is what both kinds have in common.
type stage struct {
	conn     wire.Conn
	listener int // start socket of an init, or -1
	reaper   int // this program, to be executed as reaping init, or -1
	files    []int
	proc     process
	warnings []string
	lsm      lsmFile // prepared label, see lsm.go
}

// file returns the descriptor with an index of the plan, or -1.
func (s *stage) file(index int) int {
	if index < 0 || index >= len(s.files) {
		return -1
	}
	return s.files[index]
}

// take is file, and makes the caller the one who closes it.
func (s *stage) take(index int) int {
	fd := s.file(index)
	if fd >= 0 {
		s.files[index] = -1
	}
	return fd
}

func (s *stage) warn(format string, args ...any) {
	s.warnings = append(s.warnings, fmt.Sprintf(format, args...))
}

// joinCgroups moves this thread into the v1 cgroups: execve leaves it alone in the
// process. Moving only itself spares the kernel a global lock that costs
// milliseconds per hierarchy (cgroup_threadgroup_rwsem, Linux commit 9a3284fad42f).
func (s *stage) joinCgroups(indices []int) error {
	for _, i := range indices {
		fd := s.take(i)
		if _, err := unix.Write(fd, []byte("0")); err != nil {
			return fmt.Errorf("joining cgroup %s: %w", fdName(fd), err)
		}
		unix.Close(fd)
	}
	return nil
}

// fdName returns what /proc says about a descriptor, for errors.
func fdName(fd int) string {
	name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return strconv.Itoa(fd)
	}
	return name
}

// runExec makes this process a command of a running container.
func (s *stage) runExec() error {
	var plan wire.Exec
	files, err := s.conn.Receive(&plan)
	if err != nil {
		return err
	}
	s.files, s.proc = files, process{Process: plan.Process}
	for _, step := range []func() error{
		func() error { return s.joinCgroups(plan.Process.CgroupFiles) },
		s.newSession,
		s.execTerminal,
		s.keyring,
		s.resolveUser,
		s.lookPath,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	if err := s.conn.Send(wire.Report{Phase: wire.Ready, Warnings: s.warnings}); err != nil {
		return err
	}
	return s.finish()
}
