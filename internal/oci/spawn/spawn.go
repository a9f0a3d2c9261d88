// Package spawn starts a process inside other namespaces without cgo.
//
// A Go process has many threads, and the kernel lets only a single-threaded one
// enter a user namespace (setns(2): "A multithreaded process may not change user
// namespace"). Therefore Start forks: the child of a fork has one thread, and the
// Go runtime in it is dead, so all it may do is issue raw system calls. Those are
// prepared by the parent as a list of steps (see steps.go) that a small interpreter
// carries out one after another, ending in execveat:
//
//	parent                      child                          grandchild
//	clone ────────────────────▶ setns(path namespaces)
//	                            clone(new namespaces) ────────▶ wait for release
//	read pid ◀───────────────── report pid, exit
//	write uid_map, gid_map
//	Release ──────────────────────────────────────────────────▶ become root, dup files,
//	Wait ◀──────────────────── end of file, or step and errno ─ execveat
//
// When no namespace is to be joined the first clone makes the new ones itself and
// there is no grandchild. CLONE_PARENT makes the caller the parent of both.
package spawn

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Join names a namespace that the process enters instead of getting a new one.
type Join struct {
	FD   int     // namespace file, or pidfd when Type has several bits
	Type uintptr // CLONE_NEW* bits; setns(2) refuses a file of another type
}

// Cmd describes the process to start.
type Cmd struct {
	Exe   int      // descriptor of the program, executed with execveat(AT_EMPTY_PATH)
	Args  []string // argv, argv[0] included
	Env   []string // environment, nothing is inherited
	Files []int    // Files[i] becomes descriptor i; everything else is closed on exec

	Join   []Join  // entered in this order
	New    uintptr // CLONE_NEW* bits of the namespaces to create
	Cgroup int     // directory of a v2 cgroup to be born in, or -1

	// Sibling makes the process a child of the caller's parent (CLONE_PARENT), which
	// reaps it, instead of the caller's own.
	Sibling bool

	Time        bool   // create a time namespace
	TimeOffsets string // its offsets, as time_namespaces(7) has them, or ""

	// Root makes the process uid and gid 0 of its user namespace, without
	// supplementary groups where it may give them up, before execveat: an unmapped identity would lose
	// every capability there (capabilities(7)).
	Root bool
}

// Child is a started process that waits for Release.
type Child struct {
	Pid   int // as seen by the caller
	Pidfd int

	sibling bool   // another process reaps it
	release int    // pipe: a byte lets the child go on, closing it ends the child
	status  int    // pipe: reports of the child, see report
	steps   []step // kept for the names in errors
}

// report is what the child writes to the status pipe: a failed step and its errno,
// or step -1 and the pid of the grandchild.
type report struct{ Step, Value int32 }

const reportSize = 8

// Start forks the process up to the point where it waits for Release, so that the
// caller can write id maps and prepare what the process will find.
func Start(cmd *Cmd) (*Child, error) {
	// Plain descriptors: an os.File would start the runtime's poller for a pipe.
	var sync, status [2]int
	if err := unix.Pipe2(sync[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	defer unix.Close(sync[0])
	if err := unix.Pipe2(status[:], unix.O_CLOEXEC); err != nil {
		unix.Close(sync[1])
		return nil, os.NewSyscallError("pipe2", err)
	}
	defer unix.Close(status[1])

	c := &Child{Pidfd: -1, sibling: cmd.Sibling, release: sync[1], status: status[0]}
	if err := c.start(cmd, sync[0], status[1]); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Child) start(cmd *Cmd, sync, status int) error {
	p, err := compile(cmd, sync, c.release, status)
	if err != nil {
		return err
	}
	defer p.close()
	c.steps = p.steps

	first := &cloneArgs{flags: uint64(cmd.New), exitSignal: uint64(unix.SIGCHLD)}
	if cmd.joins() {
		first.flags = 0
	}
	if cmd.Sibling {
		first.flags |= unix.CLONE_PARENT
		first.exitSignal = 0 // clone3 wants that: it will be the caller's own
	}
	if cmd.Cgroup >= 0 {
		// The first child already: once it has entered a user namespace it may not.
		first.flags |= unix.CLONE_INTO_CGROUP
		first.cgroup = uint64(cmd.Cgroup)
	}
	pid, errno := fork(first, p.steps, p.status)
	runtime.KeepAlive(p)
	if errno != 0 {
		return fmt.Errorf("clone3 with namespaces %s: %w", flagNames(cmd.New), errno)
	}
	c.Pid = pid
	if cmd.joins() {
		if err := c.adoptGrandchild(pid); err != nil {
			return err
		}
	}
	c.Pidfd, err = unix.PidfdOpen(c.Pid, 0)
	if err != nil {
		err = os.NewSyscallError("pidfd_open", err)
		c.Kill()
	}
	return err
}

// joins reports whether an intermediate child is needed that enters namespaces
// before the process itself is cloned.
func (cmd *Cmd) joins() bool { return len(cmd.Join) > 0 || cmd.Time }

// adoptGrandchild reads the grandchild's pid and reaps the intermediate child.
func (c *Child) adoptGrandchild(intermediate int) error {
	r, err := c.read()
	if errors.Is(err, syscall.EPIPE) {
		err = errors.New("the child died before it entered its namespaces")
	}
	if err == nil && r.Step >= 0 {
		err = c.stepError(r)
	}
	if !c.sibling {
		if _, werr := wait4(intermediate); err == nil {
			err = werr
		}
	}
	if err != nil {
		return err
	}
	c.Pid = int(r.Value)
	return nil
}

// read returns the next report, or EPIPE at end of file.
func (c *Child) read() (report, error) {
	var b [reportSize]byte
	for {
		n, err := unix.Read(c.status, b[:])
		switch {
		case err == unix.EINTR:
		case n != reportSize || err != nil:
			return report{}, syscall.EPIPE
		default:
			return decodeReport(b), nil
		}
	}
}

func (c *Child) stepError(r report) error {
	name := "step " + strconv.Itoa(int(r.Step))
	if int(r.Step) < len(c.steps) {
		name = c.steps[r.Step].name
	}
	return fmt.Errorf("%s: %w", name, syscall.Errno(r.Value))
}

// Release lets the child go on to execveat. It does not wait.
func (c *Child) Release() error {
	_, err := unix.Write(c.release, []byte{1})
	closeFD(&c.release)
	return os.NewSyscallError("write to the new process", err)
}

// Wait blocks until the child has executed its program, and returns what
// prevented it otherwise. The child is not reaped.
func (c *Child) Wait() error {
	r, err := c.read()
	if errors.Is(err, syscall.EPIPE) {
		return nil // closed by exec: success
	}
	return c.stepError(r)
}

// Kill ends a child that is not wanted any more, and reaps it unless it is a sibling.
func (c *Child) Kill() {
	if c.Pidfd >= 0 {
		_ = unix.PidfdSendSignal(c.Pidfd, unix.SIGKILL, nil, 0)
	} else if c.Pid > 0 {
		_ = unix.Kill(c.Pid, unix.SIGKILL) // our own unreaped child: the pid cannot be another's
	}
	switch {
	case c.sibling && c.Pidfd >= 0:
		// It may go on as a zombie, which holds nothing any more.
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(c.Pidfd), Events: unix.POLLIN}}, -1)
	case c.Pid > 0:
		_, _ = wait4(c.Pid) // ECHILD where package listener has reaped it
	}
	c.Close()
}

// Close gives up the descriptors of the child. A released child lives on, one
// that still waits ends.
func (c *Child) Close() {
	closeFD(&c.release)
	closeFD(&c.status)
	closeFD(&c.Pidfd)
}

func closeFD(fd *int) {
	if *fd >= 0 {
		unix.Close(*fd)
		*fd = -1
	}
}

func wait4(pid int) (unix.WaitStatus, error) {
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &ws, unix.WALL, nil)
		if err != unix.EINTR {
			return ws, err
		}
	}
}

// flagNames spells clone flags for messages: "user,mnt,pid".
func flagNames(flags uintptr) string {
	names := ""
	for _, f := range []struct {
		bit  uintptr
		name string
	}{
		{unix.CLONE_NEWUSER, "user"}, {unix.CLONE_NEWNS, "mount"}, {unix.CLONE_NEWPID, "pid"},
		{unix.CLONE_NEWNET, "network"}, {unix.CLONE_NEWIPC, "ipc"}, {unix.CLONE_NEWUTS, "uts"},
		{unix.CLONE_NEWCGROUP, "cgroup"}, {unix.CLONE_NEWTIME, "time"},
	} {
		if flags&f.bit != 0 {
			if names != "" {
				names += ","
			}
			names += f.name
		}
	}
	return names
}
