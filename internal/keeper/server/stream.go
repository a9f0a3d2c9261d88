package server

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/keeper"
	"github.com/berthcloud/berth/internal/keeper/crilog"
)

// bufSize is what one read takes from a stream at most.
const bufSize = 32 << 10

// buffers are shared by all streams: a stream holds one only while there is
// something to read. (A pool is a cache without meaning, hence no state.)
var buffers = sync.Pool{New: func() any { return new([bufSize]byte) }}

// stream carries output of a process to its log and its clients.
type stream struct {
	p     *proc
	frame keeper.FrameType     // what clients get it as
	path  string               // of the socket, for kind Sockets
	log   *crilog.StreamWriter // or nil
	tail  *tail                // it is the process's own output, which goes here; or nil

	drained chan struct{} // closed when all output until the process's end was read
	over    bool          // drained is closed; only the reading goroutine uses it

	mu     sync.Mutex
	file   *os.File // nil while a socket is not connected
	ended  bool     // the process has ended
	closed bool
}

// run reads until the stream or the keeper's interest in it ends. It runs in
// its own goroutine.
func (s *stream) run() {
	defer s.drain(nil)
	if s.path != "" {
		s.runSocket()
		return
	}
	s.read(s.file)
}

// read takes output from f until its end.
func (s *stream) read(f *os.File) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	for {
		var got readResult
		err := raw.Read(func(fd uintptr) bool {
			got = s.readOnce(int(fd))
			return got != readNothing // which parks the goroutine until there is something
		})
		if errors.Is(err, os.ErrDeadlineExceeded) {
			// The process has ended. What its pipe still holds belongs to it;
			// what comes later is of processes it has left behind.
			f.SetReadDeadline(time.Time{})
			s.drain(f)
			continue
		}
		if err != nil || got == readEnd {
			return
		}
	}
}

// readResult says what came of one read.
type readResult int

const (
	readNothing readResult = iota // now
	readSome
	readEnd
)

// readOnce moves what one read gives.
func (s *stream) readOnce(fd int) readResult {
	buf := buffers.Get().(*[bufSize]byte)
	defer buffers.Put(buf)
	for {
		n, err := unix.Read(fd, buf[:])
		switch {
		case n > 0:
			s.take(buf[:n])
			return readSome
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return readNothing
		default:
			// 0 from a pipe or a socket; EIO from a terminal's master when
			// nobody has the terminal open any more.
			return readEnd
		}
	}
}

// drain reads all that is there now, flushes the last line, and reports it.
// With a nil file there is nothing left to read.
func (s *stream) drain(f *os.File) {
	if s.over {
		return
	}
	if f != nil {
		if raw, err := f.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) {
				for s.readOnce(int(fd)) == readSome {
				}
			})
		}
	}
	if s.log != nil {
		s.log.Flush(time.Now())
	}
	s.over = true
	close(s.drained)
}

// take gives output to whom it concerns. Output after the process's end goes
// to the log alone: its clients have been told that it is over.
func (s *stream) take(data []byte) {
	if s.log != nil {
		s.log.Add(data, time.Now())
	}
	switch {
	case s.tail != nil:
		s.tail.take(data, s.over)
	case !s.over:
		s.p.send(s.frame, data, false)
	}
}

// processEnded makes the reading goroutine drain the stream.
func (s *stream) processEnded() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if s.file != nil {
		s.file.SetReadDeadline(time.Unix(1, 0))
	}
}

// close ends the reading goroutine.
func (s *stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed, s.ended = true, true
	if s.file != nil {
		s.file.Close()
	}
}

// stdin carries input of clients to a process.
type stdin struct {
	once  bool   // keeper.Stdio.StdinOnce
	asked *asked // keeper.Stdio.StdinAsked; else nil

	mu     sync.Mutex
	file   *os.File      // nil until connected, and once closed
	ready  chan struct{} // closed when file is set or never will be
	closed bool
	onEnd  func() // called once when closed by a client, to record it; or nil
}

// newStdin makes a standard input; f is nil for a socket not yet connected.
func newStdin(f *os.File, once bool) *stdin {
	in := &stdin{file: f, once: once, ready: make(chan struct{})}
	if f != nil {
		close(in.ready)
	}
	return in
}

// connect sets the file of a socket, anew after a reconnect. It reports false
// where standard input is closed and no connection is wanted.
func (in *stdin) connect(f *os.File) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return false
	}
	if in.file == nil {
		close(in.ready)
	}
	in.file = f
	return true
}

// write passes data on; it waits as long as the process does not read. Input
// that nobody will read any more is dropped, as docker does: the client learns
// of the end of the process, not of its standard input.
func (in *stdin) write(data []byte) {
	<-in.ready
	in.mu.Lock()
	f := in.file
	in.mu.Unlock()
	if f == nil {
		return
	}
	if in.asked != nil {
		if len(data) > 0 {
			_ = in.asked.write(f, data) // as below: input of an ended process is dropped
		}
		return
	}
	if _, err := f.Write(data); errors.Is(err, unix.EPIPE) {
		in.close()
	}
}

// endOfClient is called when a client that was attached to standard input
// closes its end or goes away.
func (in *stdin) endOfClient() {
	if in.once {
		in.close()
	}
}

// close gives the process the end of its input.
func (in *stdin) close() {
	in.mu.Lock()
	if in.closed {
		in.mu.Unlock()
		return
	}
	in.closed = true
	if in.file != nil {
		if in.asked != nil {
			go in.sayEnd(in.file)
		} else {
			endInput(in.file)
		}
		in.file = nil
	} else {
		close(in.ready)
	}
	onEnd := in.onEnd
	in.mu.Unlock()
	if onEnd != nil {
		onEnd()
	}
}

// sayEnd gives a reader that asks its end, once it does.
func (in *stdin) sayEnd(f *os.File) { _ = in.asked.write(f, nil) }

// endInput gives the reader of f its end. QEMU throws away what it has not
// read yet when a chardev's socket hangs up, so a socket is only shut down for
// writing; its stream closes it when QEMU has read the end and hangs up itself.
func endInput(f *os.File) {
	raw, err := f.SyscallConn()
	if err == nil {
		var serr error
		err = raw.Control(func(fd uintptr) { serr = unix.Shutdown(int(fd), unix.SHUT_WR) })
		if err == nil && serr == nil {
			return
		}
	}
	f.Close()
}
