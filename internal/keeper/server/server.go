// Package server is berth-keeper's inside: it keeps processes and serves the
// calls of package keeper. The words, the promises and the protocol are in
// keeper's package comment.
//
// # Goroutines
//
// The budget is a few kilobytes per kept process (SPECIFICATION.md), so each
// costs one goroutine that waits for its end and one per output stream; all of
// them are parked in the runtime's poller without a buffer. Read buffers are
// shared and held only while there is something to read.
//
// # Files
//
//	RUN/keeper.sock     the socket
//	RUN/keeper.lock     held by flock while a keeper runs
//	RUN/keeper/ID/      one kept process
//	  state.json        what the next keeper needs to adopt it
//	  exit.json         keeper.Exit, once it has ended
//	  stdin stdout …    its FIFOs
//
// # Lock order
//
// Server.mu, then proc.mu, then client.mu or stdin.mu. No lock is held while
// writing to a log, a client or a process.
package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/keeper"
	"github.com/berthcloud/berth/internal/keeper/standby"
)

// ioTimeout bounds reading a request and writing a reply.
const ioTimeout = 10 * time.Second

// Server keeps processes.
type Server struct {
	dir     string // RUN/keeper
	version string
	ln      *keeper.Conn
	lock    *os.File
	chld    chan os.Signal
	trim    *time.Timer // gives memory back when a burst of calls is over

	mu       sync.Mutex
	procs    map[string]*proc
	reserved map[string]bool             // IDs being started
	programs map[string]*standby.Program // of Runtime commands, by path
	starting int                         // starts in flight: unknown children are not reaped meanwhile
	closed   bool
}

// lockPatience is how long a keeper waits for the lock of one that is dying: a
// killed process holds its files until the last of its threads has gone.
const lockPatience = time.Second

// acquire takes the lock, unless a living keeper has it.
func acquire(lock *os.File) bool {
	for deadline := time.Now().Add(lockPatience); ; time.Sleep(10 * time.Millisecond) { //nolint:forbidigo // flock(2) knows no deadline
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}

// New becomes the keeper of the directory run: it locks it, makes this process
// a subreaper, adopts what a killed keeper has left, and listens. It fails with
// kind InUse where a keeper runs already.
func New(run, version string) (*Server, error) {
	if err := os.MkdirAll(filepath.Join(run, "keeper"), 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(run, "keeper.lock"), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if !acquire(lock) {
		lock.Close()
		return nil, api.E("keep", api.InUse, run, fmt.Errorf("another keeper runs in this directory"))
	}
	// Orphans of Runtime commands become children of this process (prctl(2)).
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		lock.Close()
		return nil, os.NewSyscallError("prctl PR_SET_CHILD_SUBREAPER", err)
	}
	s := &Server{
		dir:      filepath.Join(run, "keeper"),
		version:  version,
		lock:     lock,
		chld:     make(chan os.Signal, 1),
		procs:    make(map[string]*proc),
		reserved: make(map[string]bool),
		programs: make(map[string]*standby.Program),
	}
	s.trim = time.AfterFunc(time.Hour, debug.FreeOSMemory)
	if err := s.adoptAll(); err != nil {
		lock.Close()
		return nil, err
	}
	// Listening comes last: a client that gets through sees everything adopted.
	s.ln, err = keeper.Listen(filepath.Join(run, "keeper.sock"))
	if err != nil {
		lock.Close()
		return nil, err
	}
	signal.Notify(s.chld, unix.SIGCHLD)
	return s, nil
}

// Serve answers calls until a Shutdown.
func (s *Server) Serve() error {
	go s.reapStrays()
	go s.endWhenOrphaned()
	for {
		c, err := s.ln.Accept()
		switch {
		case err == nil:
			go s.serve(c)
		case s.isClosed():
			return nil
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOMEM):
			<-time.After(100 * time.Millisecond) // callers wait in the backlog
		case errors.Is(err, os.ErrClosed):
			return err
		}
	}
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// serve answers one call.
func (s *Server) serve(c *keeper.Conn) {
	keep := false
	defer func() {
		if !keep {
			c.Close()
		}
	}()
	uid, err := c.PeerUID()
	if err != nil || (uid != uint32(os.Getuid()) && uid != 0) {
		reply(c, keeper.Reply{Error: wireError(api.E("keep", api.Denied, "", fmt.Errorf("user %d may not speak to this keeper", uid)))})
		return
	}
	var req keeper.Request
	c.SetReadDeadline(time.Now().Add(ioTimeout))
	t, payload, err := keeper.ReadFrame(c, nil)
	if err != nil {
		return
	}
	if t != keeper.FrameRequest || json.Unmarshal(payload, &req) != nil {
		reply(c, keeper.Reply{Error: wireError(api.E("keep", api.Invalid, "", fmt.Errorf("malformed request")))})
		return
	}
	c.SetReadDeadline(time.Time{})
	switch req.Op {
	case keeper.OpStart:
		keep = s.start(c, &req)
	case keeper.OpAttach:
		keep = s.attach(c, &req)
	case keeper.OpWait:
		keep = s.wait(c, &req)
	default:
		reply(c, s.answer(&req))
		if s.isClosed() {
			s.ln.Close()
		}
	}
	s.trim.Reset(time.Second)
}

// answer carries out a call that has one reply.
func (s *Server) answer(req *keeper.Request) keeper.Reply {
	switch req.Op {
	case keeper.OpPing:
		s.mu.Lock()
		defer s.mu.Unlock()
		return keeper.Reply{Info: &keeper.Info{Version: s.version, PID: os.Getpid(), Kept: len(s.procs), Goroutines: runtime.NumGoroutine()}}
	case keeper.OpList:
		return keeper.Reply{List: s.list()}
	case keeper.OpWarm:
		return keeper.Reply{Error: wireError(s.runtime(req.Program).Warm())}
	case keeper.OpShutdown:
		return keeper.Reply{Error: wireError(s.shutdown())}
	}
	p, err := s.find(req.ID)
	if err != nil {
		return keeper.Reply{Error: wireError(err)}
	}
	switch req.Op {
	case keeper.OpStatus:
		st := p.status()
		return keeper.Reply{Status: &st}
	case keeper.OpSignal:
		err = p.signal(unix.Signal(req.Signal))
	case keeper.OpResize:
		err = p.resize(req.Size)
	case keeper.OpForget:
		err = s.forget(p)
	default:
		err = api.E("keep", api.Unsupported, "", fmt.Errorf("this keeper does not know the call %q", req.Op))
	}
	return keeper.Reply{Error: wireError(err)}
}

func (s *Server) find(id string) (*proc, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.procs[id]; p != nil {
		return p, nil
	}
	return nil, api.E("", api.NotFound, id, fmt.Errorf("the keeper has no process of this name"))
}

func (s *Server) list() []keeper.Status {
	s.mu.Lock()
	procs := make([]*proc, 0, len(s.procs))
	for _, p := range s.procs {
		procs = append(procs, p)
	}
	s.mu.Unlock()
	list := make([]keeper.Status, len(procs))
	for i, p := range procs {
		list[i] = p.status()
	}
	slices.SortFunc(list, func(a, b keeper.Status) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// shutdown decides to end, if nothing is kept. The caller ends Serve once it has
// said so to the client.
func (s *Server) shutdown() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.procs) + s.starting; n > 0 {
		return api.E("shut down", api.InUse, "keeper", fmt.Errorf("%d processes are kept", n))
	}
	s.closed = true
	// The socket goes first: a new keeper may make its own as soon as the lock
	// is free, which is when this process has ended.
	os.Remove(s.ln.Name())
	return nil
}

// forget drops an ended process and everything about it.
func (s *Server) forget(p *proc) error {
	select {
	case <-p.done:
	default:
		return api.E("forget", api.Conflict, p.id, fmt.Errorf("the process still runs"))
	}
	s.drop(p)
	p.release()
	if err := os.RemoveAll(p.dir(s.dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// drop takes a process out of the list.
func (s *Server) drop(p *proc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.procs[p.id] == p {
		delete(s.procs, p.id)
	}
}

// reserve makes id the caller's until unreserve.
func (s *Server) reserve(id string) error {
	if !keeper.ValidID(id) {
		return api.E("start", api.Invalid, id, fmt.Errorf("not a valid id for a kept process"))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return api.E("start", api.Unavailable, id, fmt.Errorf("the keeper is shutting down"))
	}
	if s.procs[id] != nil || s.reserved[id] {
		return api.E("start", api.Exists, id, fmt.Errorf("the keeper already has a process of this name"))
	}
	s.reserved[id] = true
	s.starting++
	return nil
}

// runtime returns the program that carries out Runtime commands.
func (s *Server) runtime(path string) *standby.Program {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.programs[path]
	if p == nil {
		p = &standby.Program{Path: path}
		s.programs[path] = p
	}
	return p
}

// unreserve ends a start; p is nil where it failed.
func (s *Server) unreserve(id string, p *proc) {
	s.mu.Lock()
	delete(s.reserved, id)
	s.starting--
	if p != nil {
		s.procs[id] = p
	}
	s.mu.Unlock()
	select {
	case s.chld <- unix.SIGCHLD: // look again at what was left alone meanwhile
	default:
	}
}

// wait answers once the process has ended. It reports whether the connection
// lives on.
func (s *Server) wait(c *keeper.Conn, req *keeper.Request) bool {
	p, err := s.find(req.ID)
	if err != nil {
		reply(c, keeper.Reply{Error: wireError(err)})
		return false
	}
	p.serveWaiter(c)
	return true
}

// serveWaiter replies once the process has ended, or the client has gone.
func (p *proc) serveWaiter(c *keeper.Conn) {
	// A fresh goroutine has a small stack; the caller's has grown while decoding.
	go func() {
		defer c.Close()
		defer p.removeWaiter(c)
		if p.addWaiter(c) && c.WaitClosed() {
			return
		}
		select {
		case <-p.done:
			c.SetReadDeadline(time.Time{})
			st := p.status()
			reply(c, keeper.Reply{Status: &st})
		default: // the client said something it should not
		}
	}()
}

func reply(c *keeper.Conn, r keeper.Reply) {
	c.SetWriteDeadline(time.Now().Add(ioTimeout))
	_ = keeper.WriteJSON(c, keeper.FrameReply, r) // a client that has gone needs no answer
	c.SetWriteDeadline(time.Time{})
}

// wireError turns err into what a client can rebuild.
func wireError(err error) *keeper.WireError {
	if err == nil {
		return nil
	}
	we := &keeper.WireError{Kind: api.KindOf(err), Text: err.Error()}
	if e, ok := errors.AsType[*api.Error](err); ok {
		we.Text = e.Err.Error() // the client's call says what and whom again
	}
	if ce, ok := errors.AsType[*keeper.CommandError](err); ok {
		we.Command, we.Code, we.Text = true, ce.Code, ce.Stderr
	}
	return we
}
