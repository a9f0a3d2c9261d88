package server

import (
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"
)

// Main is the command berth-keeper. It returns the exit status: 0 after a
// shutdown, 1 after an error, 2 for wrong arguments. Tests call it in a copy of
// the test binary.
func Main(args []string, version string) int {
	if len(args) > 0 && args[0] == StageCommand {
		return Stage(args[1:])
	}
	var dir string
	detach, ready := false, false
	for len(args) > 0 {
		switch {
		case args[0] == "--run" && len(args) > 1:
			dir = args[1]
			args = args[1:]
		case args[0] == "--detach":
			detach = true
		case args[0] == "--ready": // berth-keeper's own: detach has started it
			ready = true
		case args[0] == "--version":
			fmt.Fprintln(os.Stdout, version)
			return 0
		default:
			return usage()
		}
		args = args[1:]
	}
	switch {
	case dir == "":
		return usage()
	case detach:
		return startDetached(dir)
	}
	return keep(dir, version, ready)
}

func usage() int {
	fmt.Fprintln(os.Stderr, "usage: berth-keeper --run DIR [--detach]")
	return 2
}

// readyFD is where a detached keeper says that it listens, or why it cannot.
const readyFD = 3

// startDetached starts the keeper in a session of its own and waits until it
// is ready. The pipe ends without a word when the keeper dies.
func startDetached(dir string) int {
	ours, theirs, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fail(err)
	}
	p, err := os.StartProcess("/proc/self/exe", []string{"berth-keeper", "--run", dir, "--ready"}, &os.ProcAttr{
		Dir:   "/",
		Env:   []string{},
		Files: []*os.File{null, null, null, theirs},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fail(err)
	}
	defer p.Release()
	theirs.Close()
	word, err := io.ReadAll(ours)
	switch {
	case err != nil:
		return fail(err)
	case string(word) == "ready\n":
		return 0
	case len(word) == 0:
		return fail(fmt.Errorf("the keeper died while starting"))
	}
	return fail(fmt.Errorf("%s", word))
}

// keep runs the keeper until a shutdown.
func keep(dir, version string, ready bool) int {
	// All of this program's data are a few kilobytes per process kept: collect
	// early rather than let the heap grow to the default 4 MiB. One thread of Go
	// code moves more output than any log disk takes, and does not have to wake
	// another for every call.
	debug.SetGCPercent(25)
	runtime.GOMAXPROCS(1)
	// A keeper ends by a shutdown only: what a terminal or a service manager
	// sends to berthd's group is not meant for it. (Caught and dropped, not
	// ignored: kept processes would inherit that.)
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGHUP, syscall.SIGTERM)
	unignoreSignals()

	// Whatever the starter forgot to close must not reach a kept process
	// (CVE-2024-21626 was such a descriptor).
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fail(os.NewSyscallError("close_range", err))
	}
	say := os.Stderr
	if ready {
		say = os.NewFile(readyFD, "ready")
	}
	s, err := New(dir, version)
	if err != nil {
		fmt.Fprintf(say, "berth-keeper: %v\n", err)
		return 1
	}
	if ready {
		fmt.Fprintln(say, "ready")
		say.Close()
	}
	if err := s.Serve(); err != nil {
		return fail(err)
	}
	return 0
}

func fail(err error) int {
	fmt.Fprintf(os.Stderr, "berth-keeper: %v\n", err)
	return 1
}
