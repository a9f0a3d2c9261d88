// Package terminal puts the user's terminal between the user and a command in
// an instance: raw mode, window size, the keys that detach, and signals.
package terminal

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/berthcloud/berth/api"
)

// Is reports whether a file is a terminal.
func Is(f *os.File) bool { return f != nil && term.IsTerminal(int(f.Fd())) }

// Width returns the columns of a terminal, 80 where it does not say.
func Width(f *os.File) int {
	if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
		return w
	}
	return 80
}

// Size returns the size of a terminal; zero where it has none.
func Size(f *os.File) api.Size {
	if !Is(f) {
		return api.Size{}
	}
	cols, rows, err := term.GetSize(int(f.Fd()))
	if err != nil || cols < 0 || rows < 0 {
		return api.Size{}
	}
	return api.Size{Rows: uint16(min(rows, 65535)), Cols: uint16(min(cols, 65535))}
}

// Raw puts a terminal into raw mode and returns a function that puts it back,
// which may be called more than once.
func Raw(f *os.File) (restore func(), err error) {
	fd := int(f.Fd())
	state, err := term.MakeRaw(fd)
	if err != nil {
		return nil, err
	}
	var once sync.Once
	return func() { once.Do(func() { _ = term.Restore(fd, state) }) }, nil
}

// Sizes yields the size of a terminal whenever it changes, until ctx ends.
func Sizes(ctx context.Context, f *os.File) <-chan api.Size {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	sizes := make(chan api.Size)
	go func() {
		defer signal.Stop(changed)
		for {
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
			select {
			case <-ctx.Done():
				return
			case sizes <- Size(f):
			}
		}
	}()
	return sizes
}

// ErrDetached is what a Detacher reads once the user typed the keys.
var ErrDetached = errors.New("detached")

// Detacher passes what it reads on, until the keys appear in a row; then it
// fails with ErrDetached. Keys that begin the row are held back until the next
// key decides, so that a command never sees half of the row.
type Detacher struct {
	R    io.Reader
	Keys []byte // none: never detaches

	held int    // how many of Keys have been seen
	rest []byte // decided but not yet returned
	err  error  // to return after rest
}

// Read implements io.Reader.
func (d *Detacher) Read(p []byte) (int, error) {
	if len(d.Keys) == 0 {
		return d.R.Read(p)
	}
	for len(d.rest) == 0 {
		if d.err != nil {
			return 0, d.err
		}
		n, err := d.R.Read(p)
		d.decide(p[:n])
		if err != nil && d.err == nil {
			d.rest = append(d.rest, d.Keys[:d.held]...)
			d.held, d.err = 0, err
		}
	}
	n := copy(p, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

// decide sorts new input into what passes and what is held back.
func (d *Detacher) decide(in []byte) {
	out := make([]byte, 0, len(in)+d.held)
	for _, c := range in {
		// A key that breaks the row may itself begin one: fall back to the
		// longest beginning that still fits, as in string searching.
		for d.held > 0 && c != d.Keys[d.held] {
			shorter := d.held - 1
			for shorter > 0 && string(d.Keys[d.held-shorter:d.held]) != string(d.Keys[:shorter]) {
				shorter--
			}
			out = append(out, d.Keys[:d.held-shorter]...)
			d.held = shorter
		}
		if c != d.Keys[d.held] {
			out = append(out, c)
			continue
		}
		if d.held++; d.held == len(d.Keys) {
			d.held, d.err = 0, ErrDetached
			break
		}
	}
	d.rest = out
}

// caught are the signals that end a client or go on to its instance. Those of
// job control (SIGTSTP, SIGCONT, SIGTTIN, SIGTTOU), SIGWINCH and SIGPIPE are
// about the client's own terminal and pipes.
var caught = [...]os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM,
}

// Signals calls f for every signal that would end the client, one after
// another, until stop is called. A signal that the client was started to
// ignore (nohup) stays ignored.
func Signals(f func(unix.Signal)) (stop func()) {
	signals := make(chan os.Signal, 64)
	for _, s := range caught {
		if !signal.Ignored(s) {
			signal.Notify(signals, s)
		}
	}
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case s := <-signals:
				if n, ok := s.(unix.Signal); ok {
					f(n)
				}
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}
