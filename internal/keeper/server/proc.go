package server

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/keeper"
	"github.com/berthcloud/berth/internal/keeper/crilog"
)

// proc is one kept process.
type proc struct {
	id      string
	spec    keeper.Process // without Args and Env
	pid     int
	birth   uint64 // start time in clock ticks since boot, from /proc/PID/stat
	pidfd   *os.File
	started time.Time
	adopted bool

	log     *crilog.Writer // nil where nothing is logged
	streams []*stream
	stdin   *stdin   // nil where there is none
	tail    *tail    // of kind Sockets, also a stream's; else nil
	line    *line    // the input of its serial console; nil where it has none
	console *os.File // the master of a PTY, also a stream's file; or nil
	peer    *os.File // its slave, so that the output goes on after a moment in which nobody has it open, as an init leaves its console; or nil

	stdinClosed bool // for good, so that the next keeper does not open it again

	// leave, where not nil, takes it out of the server's list before its end is told:
	// nobody has to forget it.
	leave func()

	gone chan struct{} // closed when the process has ended: no client is waited for any more
	done chan struct{} // closed once exit is set and all output was dealt with

	mu      sync.Mutex
	exit    *keeper.Exit
	reaped  bool
	wstatus unix.WaitStatus // valid where reaped
	waiters []*keeper.Conn
	clients []*client
}

// dir returns the process's directory below base.
func (p *proc) dir(base string) string { return filepath.Join(base, p.id) }

// hasEnded reports whether gone is closed.
func (p *proc) hasEnded() bool {
	select {
	case <-p.gone:
		return true
	default:
		return false
	}
}

func (p *proc) status() keeper.Status {
	st := keeper.Status{ID: p.id, PID: p.pid, Started: p.started, Adopted: p.adopted}
	if p.log != nil {
		dropped, err := p.log.Dropped()
		st.LogDropped = dropped
		if err != nil {
			st.LogError = err.Error()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	st.Clients = len(p.clients)
	select {
	case <-p.done:
		st.PID, st.Exit = 0, p.exit
	default:
	}
	return st
}

// signal sends sig through the pidfd: another process that got the same pid
// later is never hit.
func (p *proc) signal(sig unix.Signal) error {
	if p.hasEnded() {
		return p.ended("signal")
	}
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return p.ended("signal")
	}
	var serr error
	err = raw.Control(func(fd uintptr) { serr = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
	switch {
	case err != nil || serr == unix.ESRCH:
		return p.ended("signal")
	case serr == unix.EINVAL:
		return api.E("signal", api.Invalid, p.id, fmt.Errorf("%d is not a signal", int(sig)))
	}
	return api.E("signal", api.Internal, p.id, serr)
}

func (p *proc) ended(op string) error {
	return api.E(op, api.Conflict, p.id, fmt.Errorf("the process has ended"))
}

func (p *proc) resize(size keeper.Size) error {
	if p.console == nil {
		return api.E("resize", api.Unsupported, p.id, fmt.Errorf("the process has no terminal"))
	}
	return api.E("resize", api.Internal, p.id, setSize(p.console, size))
}

// addWaiter has c's read deadline expire when the process ends. It reports
// false where it has ended already.
func (p *proc) addWaiter(c *keeper.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.done:
		return false
	default:
	}
	p.waiters = append(p.waiters, c)
	return true
}

func (p *proc) removeWaiter(c *keeper.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, w := range p.waiters {
		if w == c {
			p.waiters = append(p.waiters[:i], p.waiters[i+1:]...)
			return
		}
	}
}

// finish tells everybody that the process has ended. All output has been dealt
// with.
func (p *proc) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.done)
	for _, c := range p.waiters {
		c.SetReadDeadline(time.Unix(1, 0))
	}
	for _, c := range p.clients {
		c.end(keeper.Control{Exit: p.exit})
	}
}

// closeConsole closes the terminal. It may be called more than once.
func (p *proc) closeConsole() {
	if p.peer != nil {
		p.peer.Close()
	}
	if p.console != nil {
		p.console.Close()
	}
}

// release closes everything the process has open here.
func (p *proc) release() {
	if p.stdin != nil {
		p.stdin.close()
	}
	if p.line != nil {
		p.line.close()
	}
	for _, s := range p.streams {
		s.close()
	}
	p.closeConsole()
	if p.pidfd != nil {
		p.pidfd.Close()
	}
	if p.log != nil {
		p.log.Close()
	}
}
