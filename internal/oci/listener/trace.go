package listener

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// errDied is what a process that ends under the tracer comes to.
var errDied = errors.New("the process died while its seccomp filter was installed")

// trace lets the process go on up to the end of its seccomp(2) and leaves it stopped
// there. It returns a copy of the listener, or -1 where the call failed; then it has
// let the process go.
func trace(p Process) (int, error) {
	if err := seize(p); err != nil {
		return -1, err
	}
	if err := p.Go(); err != nil {
		return -1, err
	}
	inside := false // of seccomp(2)
	for {
		if err := resume(p.Pid); err != nil {
			return -1, err
		}
		var call syscallInfo
		if err := syscallInfoOf(p.Pid, &call); err != nil {
			return -1, os.NewSyscallError("ptrace(PTRACE_GET_SYSCALL_INFO)", err)
		}
		switch {
		case call.op == syscallEntry:
			inside = call.number() == unix.SYS_SECCOMP
		case call.op != syscallExit || !inside:
		case call.failed():
			return -1, os.NewSyscallError("ptrace(PTRACE_DETACH)", unix.PtraceDetach(p.Pid))
		default:
			fd, err := unix.PidfdGetfd(p.Pidfd, int(call.result()), 0)
			return fd, os.NewSyscallError("pidfd_getfd", err)
		}
	}
}

// end kills the process, stopped or not, and waits: a tracer that does not keeps the
// parent from learning of the end.
func (p Process) end() {
	_ = unix.PidfdSendSignal(p.Pidfd, unix.SIGKILL, nil, 0)
	for {
		if _, err := wait(p.Pid); err != nil {
			return // dead, or neither a child nor traced
		}
	}
}

// seize makes this thread the tracer of the process and stops it. The process dies
// with the tracer.
func seize(p Process) error {
	if err := unix.PtraceSeize(p.Pid); err != nil {
		return fmt.Errorf("linux.seccomp: SCMP_ACT_NOTIFY takes the right to trace the container's process: %w", os.NewSyscallError("ptrace(PTRACE_SEIZE)", err))
	}
	// Alive still, so the pid has been its own all the time.
	if err := unix.PidfdSendSignal(p.Pidfd, 0, nil, 0); err != nil {
		return errDied
	}
	if err := unix.PtraceInterrupt(p.Pid); err != nil {
		return errDied
	}
	if _, err := wait(p.Pid); err != nil {
		return err
	}
	return os.NewSyscallError("ptrace(PTRACE_SETOPTIONS)",
		unix.PtraceSetOptions(p.Pid, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_EXITKILL))
}

// resume lets the stopped process run to the next beginning or end of a system call.
func resume(pid int) error {
	signal := 0
	for {
		if err := unix.PtraceSyscall(pid, signal); err != nil {
			return errDied
		}
		status, err := wait(pid)
		if err != nil {
			return err
		}
		signal = 0
		switch stop := status.StopSignal(); {
		case stop == unix.SIGTRAP|0x80: // PTRACE_O_TRACESYSGOOD
			return nil
		case int(status)>>16 == 0: // not a stop of ptrace's own: the signal is the process's
			signal = int(stop)
		}
	}
}

// wait waits for the next stop.
func wait(pid int) (unix.WaitStatus, error) {
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(pid, &status, unix.WALL, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, os.NewSyscallError("wait4", err)
		case status.Stopped():
			return status, nil
		default:
			return 0, errDied
		}
	}
}
