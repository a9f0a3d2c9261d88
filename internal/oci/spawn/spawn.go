// Package spawn starts a process inside other namespaces without cgo.
//
// A Go process has many threads, and the kernel lets only a single-threaded one
// enter a user namespace (setns(2): "A multithreaded process may not change user
// namespace"). So Start executes a machine (package program), which has one thread and
// a page of memory: it enters what there is to join, and forks there.
//
//	parent                      machine                        child, a machine too
//	vfork, execve ────────────▶
//	what to enter ────────────▶ setns(path namespaces)
//	                            clone(new namespaces) ────────▶ wait for the second segment
//	read pid ◀───────────────── say Born, exit
//	write uid_map, gid_map
//	second segment ───────────────────────────────────────────▶ whatever it is to do
//
// The fork is of a small memory, not of the runtime's: to copy that, and to copy every
// page of it that the runtime then writes to, cost more than a machine's execve.
// CLONE_PARENT makes the caller the parent of both.
package spawn

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/program"
	"github.com/berthcloud/berth/internal/oci/wire"
)

// Join names a namespace that the process enters instead of getting a new one.
type Join struct {
	FD   int     // namespace file, or pidfd when Type has several bits
	Type uintptr // CLONE_NEW* bits; setns(2) refuses a file of another type
}

// Cmd describes the process to start.
type Cmd struct {
	Files []int // Files[i] becomes descriptor i; everything else is closed
	Conn  int   // the descriptor that the process has the conversation on; Start fills in Files[Conn]

	Join   []Join  // entered in this order
	New    uintptr // CLONE_NEW* bits of the namespaces to create
	Cgroup int     // directory of a v2 cgroup to be born in, or -1

	// Sibling makes the process a child of the caller's parent (CLONE_PARENT), which
	// reaps it, instead of the caller's own.
	Sibling bool

	// Meanwhile, where not nil, is called while the kernel makes the namespaces. Its
	// failure ends the process.
	Meanwhile func() error

	Time        bool   // create a time namespace
	TimeOffsets string // its offsets, as time_namespaces(7) has them, or ""
}

// Child is a started process that waits for its second segment.
type Child struct {
	Pid   int // as seen by the caller
	Pidfd int
	Conn  wire.Conn

	sibling bool // another process reaps it
}

// Start starts the process in its namespaces, where it waits to be told what to do, so
// that the caller can write id maps and prepare what it will find.
func Start(cmd *Cmd) (*Child, error) {
	ours, theirs, err := wire.Pair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	c := &Child{Pidfd: -1, Conn: ours, sibling: cmd.Sibling}
	if err := c.start(cmd, theirs.FD); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Child) start(cmd *Cmd, end int) error {
	p := compile(cmd)
	files := slices.Concat(cmd.Files, p.files)
	files[cmd.Conn] = end
	machine, err := execute(cmd, files)
	if err != nil {
		return err
	}
	begun := []int{machine} // what is to be reaped besides the child
	err = c.Conn.SendSegment(p.Builder)
	var beside error
	if err == nil && cmd.Meanwhile != nil {
		beside = cmd.Meanwhile()
	}
	for passed := 0; err == nil && (c.Pid == 0 || passed < p.passing); {
		var m wire.Message
		switch m, err = c.Conn.Receive(); {
		case errors.Is(err, io.EOF):
			err = errors.New("the process died before it entered its namespaces")
		case err != nil:
		case m.Kind == program.Passed:
			passed++
			begun = append(begun, int(m.Code))
		case m.Kind == program.Born:
			c.Pid = int(m.Code)
		default:
			err = failure(m)
		}
	}
	if !c.sibling {
		for _, pid := range begun {
			if _, werr := wait4(pid); err == nil {
				err = werr
			}
		}
	}
	if err != nil {
		return err
	}
	if c.Pidfd, err = unix.PidfdOpen(c.Pid, 0); err != nil {
		err = os.NewSyscallError("pidfd_open", err)
	}
	if err = cmp.Or(beside, err); err != nil {
		c.Kill()
	}
	return err
}

// execute starts a machine. The calling thread shares its memory with it until execve,
// and waits meanwhile.
func execute(cmd *Cmd, files []int) (pid int, err error) {
	exe, err := program.Executable(cmd.Conn)
	if err != nil {
		return 0, fmt.Errorf("the first program of the process: %w", err)
	}
	defer unix.Close(exe)
	attr := &syscall.ProcAttr{Env: []string{}, Sys: &syscall.SysProcAttr{}}
	// The machine's file is one of the files: the others are moved to their numbers
	// before execve, and could take the place of one that is not.
	for _, fd := range append(files, exe) {
		attr.Files = append(attr.Files, uintptr(fd))
	}
	if cmd.Sibling {
		attr.Sys.Cloneflags = unix.CLONE_PARENT
	}
	pid, err = syscall.ForkExec("/proc/self/fd/"+strconv.Itoa(len(files)), []string{"berth-oci"}, attr)
	if err != nil {
		return 0, fmt.Errorf("the first program of the process: %w", err)
	}
	return pid, nil
}

// Exec sends the process a segment that ends in execve, and returns what prevented it.
func (c *Child) Exec(b *program.Builder) error {
	if err := c.Conn.SendSegment(b); err != nil {
		return err
	}
	m, err := c.Conn.Receive()
	if errors.Is(err, io.EOF) {
		return nil // closed by execve
	}
	if err != nil {
		return err
	}
	return failure(m)
}

// failure returns what a message that is none of the expected ones means.
func failure(m wire.Message) error {
	if m.Kind == program.Failed {
		return m.Failure
	}
	return fmt.Errorf("the new process says %d", m.Kind)
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

// Close ends the conversation and gives up the descriptors of the child. One that still
// waits for a segment ends.
func (c *Child) Close() {
	closeFD(&c.Conn.FD)
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
