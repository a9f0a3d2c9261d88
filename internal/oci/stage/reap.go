package stage

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// ReaperName is argv[0] of the reaping init; the workload's program and arguments
// follow it and "--".
const ReaperName = "berth-init"

// IsReaper reports whether the arguments of the process ask for the reaping init.
func IsReaper(args []string) bool {
	return len(args) > 3 && args[0] == ReaperName && args[1] == "--"
}

// Reap is the reaping init: process 1 of a container whose workload does not expect
// to be it. It starts the workload, passes signals on to it, waits for whatever
// ends, and ends with the workload's status. The kernel then ends the rest.
func Reap(args []string) int {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	path, argv := args[2], args[3:]
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2},
		Sys:   childSession(),
	})
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %s: %v\n", ReaperName, path, err)
		if errors.Is(err, syscall.ENOENT) {
			return 127
		}
		return 126
	}
	go forwardSignals(signals, pid)
	for {
		var ws syscall.WaitStatus
		done, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 255
		case done == pid && ws.Signaled():
			return 128 + int(ws.Signal())
		case done == pid && ws.Exited():
			return ws.ExitStatus()
		}
	}
}

// childSession puts the workload into a process group of its own, in the foreground
// of the terminal where there is one.
func childSession() *syscall.SysProcAttr {
	if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err != nil {
		return &syscall.SysProcAttr{Setpgid: true}
	}
	return &syscall.SysProcAttr{Foreground: true, Ctty: 0}
}

func forwardSignals(signals <-chan os.Signal, pid int) {
	for s := range signals {
		switch s {
		case syscall.SIGCHLD, syscall.SIGURG, syscall.SIGTTIN, syscall.SIGTTOU: // ours, or the Go scheduler's
		default:
			_ = syscall.Kill(pid, s.(syscall.Signal))
		}
	}
}
