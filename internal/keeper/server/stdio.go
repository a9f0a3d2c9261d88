package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/keeper"
	"github.com/berthcloud/berth/internal/keeper/crilog"
)

// childStdio are the descriptors 0, 1 and 2 of a process about to be started.
// They are closed here once it has its own.
type childStdio struct {
	in, out, err *os.File
	tty          bool // in is its controlling terminal
}

func (c *childStdio) close() {
	for _, f := range []*os.File{c.in, c.out, c.err} {
		if f != nil {
			f.Close()
		}
	}
}

// openStdio makes the streams of p, as its specification says, and what the
// process gets of them. On failure p.release closes what p has got.
func (p *proc) openStdio(base string) (c childStdio, err error) {
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if err := p.openLog(); err != nil {
		return c, err
	}
	st := &p.spec.Stdio
	switch {
	case st.Kind == keeper.PTY && p.spec.Mode == keeper.Direct:
		return p.openPTY()
	case st.Kind == keeper.Pipes:
		if c.in, err = p.openStdin(base); err != nil {
			return c, err
		}
		if c.out, err = p.openOutput(base, crilog.Stdout, keeper.FrameStdout); err != nil {
			return c, err
		}
		c.err, err = p.openOutput(base, crilog.Stderr, keeper.FrameStderr)
		return c, err
	}
	if st.Console {
		var ours *os.File
		ours, c.in, err = p.fifo(base, consoleFile, true)
		p.line = newLine(ours)
	} else {
		c.in, err = os.OpenFile(os.DevNull, os.O_RDWR, 0)
	}
	if err != nil {
		return c, err
	}
	c.out, c.err = c.in, c.in
	if st.Kind == keeper.Sockets {
		p.addSockets()
		c.err, err = p.openTail(base)
		c.out = c.err
	}
	return c, err
}

func (p *proc) openLog() error {
	l := p.spec.Log
	if l == nil {
		return nil
	}
	w, err := crilog.Open(crilog.Config{Path: l.Path, MaxSize: l.MaxSize, Files: l.Files})
	if err != nil {
		return api.E("open log", api.Invalid, p.id, err)
	}
	p.log = w
	return nil
}

// addStream adds an output stream that clients get as frame.
func (p *proc) addStream(f *os.File, name string, frame keeper.FrameType) *stream {
	s := &stream{p: p, file: f, frame: frame, drained: make(chan struct{})}
	if p.log != nil {
		s.log = p.log.Stream(name)
	}
	p.streams = append(p.streams, s)
	return s
}

// openOutput makes the pipe of an output stream and returns the process's end.
func (p *proc) openOutput(base, name string, frame keeper.FrameType) (*os.File, error) {
	ours, theirs, err := p.pipe(base, name, false)
	if err != nil {
		return nil, err
	}
	p.addStream(ours, name, frame)
	return theirs, nil
}

// openTail makes a pipe whose last bytes are kept for Exit.Stderr and the clients of
// a serial console.
func (p *proc) openTail(base string) (*os.File, error) {
	ours, theirs, err := p.pipe(base, tailFile, false)
	if err != nil {
		return nil, err
	}
	p.addTail(ours)
	return theirs, nil
}

func (p *proc) addTail(f *os.File) {
	s := p.addStream(f, crilog.Stderr, keeper.FrameStdout)
	s.log, s.tail = nil, &tail{p: p}
	p.tail = s.tail
}

func (p *proc) openStdin(base string) (*os.File, error) {
	if !p.spec.Stdio.OpenStdin {
		return os.OpenFile(os.DevNull, os.O_RDWR, 0)
	}
	ours, theirs, err := p.pipe(base, stdinFile, true)
	if err != nil {
		return nil, err
	}
	p.stdin = newStdin(ours, p.spec.Stdio.StdinOnce)
	return theirs, nil
}

// pipe makes a pipe between the keeper and the process. The keeper's end does
// not block. Unless the process is ephemeral it is a FIFO in the process's
// directory, which the next keeper can open again.
//
// The process's end of an output FIFO is open for reading as well: then there
// always is a reader, and writing without a keeper does not raise SIGPIPE but
// waits (fifo(7)). The keeper still sees the end of the stream, as the process
// is the only writer. Standard input cannot be kept open in that way: a reader
// that is its own writer never sees the end.
func (p *proc) pipe(base, name string, in bool) (ours, theirs *os.File, err error) {
	if p.spec.Ephemeral {
		return p.anonymousPipe(name, in)
	}
	ours, theirs, err = p.fifo(base, name, in)
	if err != nil || !in {
		return ours, theirs, err
	}
	// Now that there is a writer, a plain reader can be opened.
	theirs.Close()
	path := filepath.Join(p.dir(base), name)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		ours.Close()
		return nil, nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return ours, os.NewFile(uintptr(fd), path), nil
}

// fifo makes a FIFO in the process's directory. The process's end is open for
// reading and writing.
func (p *proc) fifo(base, name string, in bool) (ours, theirs *os.File, err error) {
	path := filepath.Join(p.dir(base), name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0) // O_RDWR never waits for a peer
	if err != nil {
		return nil, nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	theirs = os.NewFile(uintptr(fd), path)
	if err := unix.Fchown(fd, int(p.spec.Stdio.UID), int(p.spec.Stdio.GID)); err != nil {
		theirs.Close()
		return nil, nil, &os.PathError{Op: "chown", Path: path, Err: err}
	}
	if ours, err = openFIFO(path, in); err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// openFIFO opens the keeper's end.
func openFIFO(path string, in bool) (*os.File, error) {
	flags := unix.O_RDONLY
	if in {
		flags = unix.O_WRONLY
	}
	fd, err := unix.Open(path, flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func (p *proc) anonymousPipe(name string, in bool) (ours, theirs *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	if in {
		fds[0], fds[1] = fds[1], fds[0]
	}
	theirs = os.NewFile(uintptr(fds[1]), name)
	err = errors.Join(unix.SetNonblock(fds[0], true),
		unix.Fchown(fds[1], int(p.spec.Stdio.UID), int(p.spec.Stdio.GID)))
	ours = os.NewFile(uintptr(fds[0]), name)
	if err != nil {
		ours.Close()
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// openPTY makes a terminal and returns its slave for all three streams.
func (p *proc) openPTY() (childStdio, error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return childStdio{}, &os.PathError{Op: "open", Path: "/dev/ptmx", Err: err}
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		unix.Close(fd)
		return childStdio{}, os.NewSyscallError("unlock terminal", err)
	}
	// TIOCGPTPEER opens the slave without a path that someone could have
	// mounted over (Linux 4.13).
	slave, err := openPeer(fd)
	if err != nil {
		unix.Close(fd)
		return childStdio{}, os.NewSyscallError("open terminal", err)
	}
	tty := os.NewFile(uintptr(slave), "tty")
	if uid := p.spec.Stdio.UID; uid != 0 {
		if err := tty.Chown(int(uid), -1); err != nil {
			tty.Close()
			unix.Close(fd)
			return childStdio{}, err
		}
	}
	p.useConsole(os.NewFile(uintptr(fd), "ptmx"))
	return childStdio{in: tty, out: tty, err: tty, tty: true}, nil
}

// useConsole makes master the terminal of p.
func (p *proc) useConsole(master *os.File) {
	p.console = master
	if p.spec.Stdio.Size != (keeper.Size{}) {
		_ = setSize(master, p.spec.Stdio.Size) // a wrong size is no reason not to start
	}
	p.addStream(master, crilog.Stdout, keeper.FrameStdout)
	p.stdin = newStdin(master, false)
}

func setSize(tty *os.File, size keeper.Size) error {
	raw, err := tty.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = raw.Control(func(fd uintptr) {
		serr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Cols})
	})
	return errors.Join(err, serr)
}

// listenConsole makes the socket that a Runtime command sends its terminal to,
// or returns nil where it has none.
func (p *proc) listenConsole() (*keeper.Conn, error) {
	if p.spec.Mode != keeper.Runtime || p.spec.Stdio.Kind != keeper.PTY {
		return nil, nil
	}
	if p.spec.Stdio.ConsoleSocket == "" {
		return nil, api.E("start", api.Invalid, p.id, fmt.Errorf("a terminal in mode runtime needs a console socket"))
	}
	return keeper.Listen(p.spec.Stdio.ConsoleSocket)
}

// receiveConsole takes the terminal's master that the command has sent before
// it ended.
func (p *proc) receiveConsole(ln *keeper.Conn) error {
	ln.SetReadDeadline(time.Now().Add(time.Second))
	c, err := ln.Accept()
	if err != nil {
		return api.E("start", api.Internal, p.id, fmt.Errorf("the runtime did not send its terminal: %w", err))
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(time.Second))
	fd, err := receiveFD(c)
	if err != nil {
		return api.E("start", api.Internal, p.id, fmt.Errorf("the runtime did not send its terminal: %w", err))
	}
	if _, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err != nil {
		unix.Close(fd)
		return api.E("start", api.Internal, p.id, fmt.Errorf("the runtime sent something that is no terminal"))
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return err
	}
	peer, err := openPeer(fd)
	if err != nil {
		unix.Close(fd)
		return os.NewSyscallError("open terminal", err)
	}
	p.peer = os.NewFile(uintptr(peer), "tty")
	p.useConsole(os.NewFile(uintptr(fd), "ptmx"))
	return nil
}

// receiveFD reads one message with one descriptor (unix(7), SCM_RIGHTS).
func receiveFD(c *keeper.Conn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	var data [4096]byte // the runtime sends the terminal's name along
	oob := make([]byte, unix.CmsgSpace(4))
	var oobn int
	var rerr error
	err = raw.Read(func(fd uintptr) bool {
		_, oobn, _, _, rerr = unix.Recvmsg(int(fd), data[:], oob, unix.MSG_CMSG_CLOEXEC)
		return rerr != unix.EAGAIN
	})
	if err = errors.Join(err, rerr); err != nil {
		return -1, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		return -1, fmt.Errorf("no descriptor in the message")
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return -1, fmt.Errorf("no descriptor in the message")
	}
	return fds[0], nil
}
