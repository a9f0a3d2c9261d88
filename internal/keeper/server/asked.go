package server

import (
	"encoding/binary"
	"os"
	"sync"
)

// maxAskedFrame is how much of the input goes in one frame, in bytes: more than
// that never waits in a serial line.
const maxAskedFrame = 4096

// asked is input that its reader asks for frame by frame (Stdio.StdinAsked). The
// reader's bytes let one writer at a time go on, one frame each.
type asked struct {
	mu      sync.Mutex
	changed *sync.Cond
	wanted  bool // a frame was asked for
	over    bool // nobody will ask any more

	turn sync.Mutex // one writer at a time, so that frames of two do not mix
}

func newAsked() *asked {
	a := &asked{}
	a.changed = sync.NewCond(&a.mu)
	return a
}

// serve takes what the reader asks for until the connection ends.
func (a *asked) serve(f *os.File) {
	buf := make([]byte, 64)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			a.set(&a.wanted)
		}
		if err != nil {
			return
		}
	}
}

// give gives up: the process has ended.
func (a *asked) give() { a.set(&a.over) }

func (a *asked) set(what *bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	*what = true
	a.changed.Broadcast()
}

// wait returns once a frame is asked for; false when none will be.
func (a *asked) wait() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for !a.wanted && !a.over {
		a.changed.Wait()
	}
	a.wanted = false
	return !a.over
}

// write sends data in frames; no data is the end. It waits for as long as the
// reader does not ask.
func (a *asked) write(f *os.File, data []byte) error {
	a.turn.Lock()
	defer a.turn.Unlock()
	for {
		n := min(len(data), maxAskedFrame)
		if !a.wait() {
			return os.ErrClosed
		}
		frame := binary.BigEndian.AppendUint16(make([]byte, 0, 2+n), uint16(n))
		if _, err := f.Write(append(frame, data[:n]...)); err != nil {
			return err
		}
		if data = data[n:]; len(data) == 0 {
			return nil
		}
	}
}
