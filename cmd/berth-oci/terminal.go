package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// terminal carries bytes between the caller's terminal and that of a container in
// the foreground.
type terminal struct {
	receive int // our end of the pair that the master arrives on
	master  *os.File
	saved   *unix.Termios // of standard input, or nil
	done    chan struct{} // closed when all output has been copied
}

// newTerminal returns a terminal yet to be received, and the socket to send its
// master to.
func newTerminal() (t *terminal, socket int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, -1, os.NewSyscallError("socketpair", err)
	}
	return &terminal{receive: pair[0], done: make(chan struct{})}, pair[1], nil
}

// begin receives the master and starts copying.
func (t *terminal) begin() error {
	oob := make([]byte, unix.CmsgSpace(4))
	var name [64]byte
	_, n, _, _, err := unix.Recvmsg(t.receive, name[:], oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) == 0 {
		return errors.New("terminal: the container sent none")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	t.master = os.NewFile(uintptr(fds[0]), "terminal")
	t.resize()
	t.raw()
	go func() { _, _ = io.Copy(t.master, os.Stdin) }()
	go func() {
		_, _ = io.Copy(os.Stdout, t.master) // ends with EIO when the last process has closed it
		close(t.done)
	}()
	return nil
}

// resize gives the container's terminal the size of ours.
func (t *terminal) resize() {
	if size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); err == nil && t.master != nil {
		_ = unix.IoctlSetWinsize(int(t.master.Fd()), unix.TIOCSWINSZ, size)
	}
}

// raw lets the container's terminal do the line editing and the signals.
func (t *terminal) raw() {
	tio, err := unix.IoctlGetTermios(0, unix.TCGETS)
	if err != nil {
		return // not a terminal
	}
	saved := *tio
	t.saved = &saved
	tio.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	tio.Oflag &^= unix.OPOST
	tio.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	tio.Cflag = tio.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	tio.Cc[unix.VMIN], tio.Cc[unix.VTIME] = 1, 0
	_ = unix.IoctlSetTermios(0, unix.TCSETS, tio)
}

// end waits for the rest of the output.
func (t *terminal) end() { <-t.done }

// close puts our terminal back.
func (t *terminal) close() {
	if t.saved != nil {
		_ = unix.IoctlSetTermios(0, unix.TCSETS, t.saved)
	}
	unix.Close(t.receive)
}

// forwarder passes signals on to a container in the foreground.
type forwarder struct{ signals chan os.Signal }

// forwarded are the signals that terminals, shells, service managers and people
// send. Not all there are: catching one costs the Go runtime two switches between
// threads, which with all 64 were a third of those of a short run.
func forwarded() []os.Signal {
	const sigrtmin = syscall.Signal(34)
	return []os.Signal{
		syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2,
		syscall.SIGWINCH, syscall.SIGPWR,
		sigrtmin + 3, // how systemd is asked to halt
	}
}

// catchSignals begins to collect signals.
func catchSignals() *forwarder {
	f := &forwarder{make(chan os.Signal, 64)}
	signal.Notify(f.signals, forwarded()...)
	return f
}

// forward sends every signal on to pid from now on. SIGWINCH is the terminal's.
func (f *forwarder) forward(pid int, t *terminal) {
	go func() {
		for s := range f.signals {
			if s == syscall.SIGWINCH {
				if t != nil {
					t.resize()
				}
				continue
			}
			_ = unix.Kill(pid, s.(syscall.Signal)) // an unreaped child: the pid is its own
		}
	}()
}
