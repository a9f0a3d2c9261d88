// Package listener hands the listener of a seccomp filter to the agent that answers
// for it (config-linux.md, listenerPath and The Container Process State).
//
// The listener is a descriptor that seccomp(2) returns to the process that installs
// the filter. That process cannot hand it on itself: the filter already is in force,
// and whatever system call it made for that could be one that waits for the agent.
// So the runtime watches it by ptrace(2), as a debugger would, stops it where
// seccomp(2) returns, takes the descriptor (pidfd_getfd(2), which takes the same
// privilege), gives it to the agent, and lets the process go on. The profile may
// hand any call to the agent, execve included.
//
//	runtime                            process                      agent
//	            ◀──────────── Listening
//	connect ──────────────────────────────────────────────────────▶
//	seize
//	Go ──────────────────────────────▶ seccomp(NEW_LISTENER)
//	pidfd_getfd                        (stopped)
//	state and descriptor ─────────────────────────────────────────▶
//	detach                             execve …
package listener

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// patience is how long an agent may take to accept and read, in seconds: it only
// has to take a message.
const patience = 10

// Process is the one that installs a filter.
type Process struct {
	Pid   int
	Pidfd int
	// Go tells the process to install the filter. It waits for that in a system call
	// and makes no other use of seccomp(2).
	Go func() error
}

// Hand follows the process through the installation of its filter and gives the
// listener to the agent whose socket is at path, with the state beside it. Where the
// kernel refuses the filter, Hand returns nil and leaves it to the process to say
// so. When Hand fails, the process is dead, and reaped if it was a child of ours.
func Hand(p Process, path string, state *specs.ContainerProcessState) (err error) {
	defer func() {
		if err != nil {
			p.end()
		}
	}()
	agent, err := dial(path)
	if err != nil {
		return fmt.Errorf("linux.seccomp.listenerPath: %w", err)
	}
	defer unix.Close(agent)

	runtime.LockOSThread() // a tracer is a thread
	defer runtime.UnlockOSThread()
	fd, err := trace(p)
	if err != nil || fd < 0 {
		return err
	}
	defer unix.Close(fd)
	if err := send(agent, fd, state); err != nil {
		return fmt.Errorf("linux.seccomp.listenerPath: %s: %w", path, err)
	}
	return os.NewSyscallError("ptrace(PTRACE_DETACH)", unix.PtraceDetach(p.Pid))
}

// dial connects to the agent.
func dial(path string) (int, error) {
	if !filepath.IsAbs(path) {
		return -1, fmt.Errorf("%q: must be an absolute path", path)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	// It bounds connect too (unix(7)).
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: patience})
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("%s: no agent answers there: %w", path, timeout(err))
	}
	return fd, nil
}

// send writes the message: the descriptor goes with its first part.
func send(agent, fd int, state *specs.ContainerProcessState) error {
	body, err := json.Marshal(state)
	if err != nil {
		return err
	}
	rights := unix.UnixRights(fd)
	for len(body) > 0 {
		n, err := unix.SendmsgN(agent, body, rights, nil, unix.MSG_NOSIGNAL)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("sendmsg", timeout(err))
		}
		body, rights = body[n:], nil
	}
	return nil
}

// timeout gives the error of SO_SNDTIMEO its name.
func timeout(err error) error {
	if errors.Is(err, unix.EAGAIN) {
		return unix.ETIMEDOUT
	}
	return err
}
