package server

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/keeper"
)

// The files of a process's directory.
const (
	stateFile = "state.json"
	exitFile  = "exit.json"
	stdinFile = "stdin"
	tailFile  = "tail" // a FIFO: the own output of a process of kind Sockets

	consoleFile = "console" // a FIFO: the input of its serial console
)

// state is what the next keeper needs to adopt a process.
type state struct {
	Process     keeper.Process `json:"process"` // without Args and Env
	PID         int            `json:"pid"`
	Birth       uint64         `json:"birth"` // see proc.birth: tells the process from a later one with its pid
	Started     time.Time      `json:"started"`
	StdinClosed bool           `json:"stdin_closed,omitempty"`
}

// save writes state.json.
func (p *proc) save(base string) error {
	if p.spec.Ephemeral {
		return nil
	}
	return writeJSON(filepath.Join(p.dir(base), stateFile), state{
		Process: p.spec, PID: p.pid, Birth: p.birth, Started: p.started, StdinClosed: p.stdinClosed,
	})
}

// writeJSON replaces the file in one step. RUN is a tmpfs, which a crash of
// the host empties anyway: there is nothing to sync.
func writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		os.Remove(tmp)
		return err
	}
	return os.Rename(tmp, path)
}

func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// adoptAll takes over what a killed keeper has left. A directory without a
// valid state is of a start that never finished, and goes.
func (s *Server) adoptAll() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		dir := filepath.Join(s.dir, e.Name())
		var st state
		if err := readJSON(filepath.Join(dir, stateFile), &st); err != nil || st.Process.ID != e.Name() || st.PID <= 0 {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
			continue
		}
		s.procs[e.Name()] = s.adopt(&st)
	}
	return nil
}

// adopt makes the proc of a stored state. It never fails: what cannot be
// restored is said in the exit or the log's state.
func (s *Server) adopt(st *state) *proc {
	p := newProc(&st.Process)
	p.pid, p.birth, p.started, p.adopted, p.stdinClosed = st.PID, st.Birth, st.Started, true, st.StdinClosed
	var exit keeper.Exit
	if readJSON(filepath.Join(p.dir(s.dir), exitFile), &exit) == nil {
		p.exit = &exit
		close(p.gone)
		close(p.done)
		return p
	}
	// The pidfd comes first: only then does the start time speak of the very
	// process that the pidfd holds.
	err := p.openPidfd()
	if err == nil {
		var stat procStat
		stat, err = readStat(p.pid)
		if err == nil && stat.birth != p.birth {
			err = fmt.Errorf("its pid belongs to another process now")
		}
	}
	if err != nil {
		if p.pidfd != nil {
			p.pidfd.Close() // it holds a stranger
			p.pidfd = nil
		}
		exit = unknown("the process ended while no keeper ran: the one that started it was killed")
		p.exit = &exit
		p.record(s.dir, exit)
		close(p.gone)
		close(p.done)
		return p
	}
	_ = p.openLog() // without a log the clients still get the output
	p.reopen(s.dir)
	p.run(s.dir)
	return p
}

// reopen opens the streams that outlived the former keeper.
func (p *proc) reopen(base string) {
	open := func(name string, in bool) *os.File {
		f, err := openFIFO(filepath.Join(p.dir(base), name), in)
		if err != nil {
			return nil // the process has closed its end, or never had one
		}
		return f
	}
	switch p.spec.Stdio.Kind {
	case keeper.Pipes:
		if f := open("stdout", false); f != nil {
			p.addStream(f, "stdout", keeper.FrameStdout)
		}
		if f := open("stderr", false); f != nil {
			p.addStream(f, "stderr", keeper.FrameStderr)
		}
		if p.spec.Stdio.OpenStdin && !p.stdinClosed {
			if f := open(stdinFile, true); f != nil {
				p.stdin = newStdin(f, p.spec.Stdio.StdinOnce)
			}
		}
	case keeper.Sockets:
		p.addSockets()
		if p.spec.Stdio.Console {
			p.line = newLine(open(consoleFile, true))
		}
	}
	if f := open(tailFile, false); f != nil {
		p.addTail(f)
	}
}

func newProc(spec *keeper.Process) *proc {
	p := &proc{id: spec.ID, spec: *spec, gone: make(chan struct{}), done: make(chan struct{})}
	p.spec.Args, p.spec.Env = nil, nil
	return p
}

// openPidfd opens the pidfd of p.pid, non-blocking so that the runtime's poller
// can wait for it (Linux 5.10).
func (p *proc) openPidfd() error {
	fd, err := unix.PidfdOpen(p.pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	p.pidfd = os.NewFile(uintptr(fd), "pidfd")
	return nil
}

// run starts the goroutines of a process that has everything.
func (p *proc) run(base string) {
	if p.stdin != nil {
		p.stdin.onEnd = func() {
			if !p.hasEnded() {
				p.stdinClosed = true
				_ = p.save(base) // at worst the next keeper opens it again
			}
		}
	}
	for _, s := range p.streams {
		go s.run()
	}
	go p.await(base)
}
