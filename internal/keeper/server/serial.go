package server

import (
	"bytes"
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/keeper"
)

// tail takes what a process of kind Sockets writes itself. It keeps the end for
// Exit.Stderr and, where that is a serial console, for clients that attach later.
type tail struct {
	p *proc

	// mu also holds a client's joining and what is sent apart: the client gets each
	// byte once, from what is kept or as it comes.
	mu   sync.Mutex
	data []byte // at most twice ConsoleKept, so that a byte moves once on average
	lost bool   // data is not all
}

// exitTail is how much of the end goes into Exit.Stderr.
const exitTail = 4 << 10

// take keeps data and gives it to the console's clients. What comes when the process
// has ended and they were told is only kept.
func (t *tail) take(data []byte, over bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.data)+len(data) > 2*keeper.ConsoleKept {
		keep := max(0, keeper.ConsoleKept-len(data))
		t.data = append(t.data[:0], t.data[len(t.data)-min(keep, len(t.data)):]...)
		t.lost = true
	}
	t.data = append(t.data, data...)
	if !over {
		t.p.send(keeper.FrameStdout, data, true)
	}
}

// end is the end of it.
func (t *tail) end() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.data[max(0, len(t.data)-exitTail):])
}

// kept is what a new client begins with: whole lines, where the beginning is lost.
func (t *tail) kept() []byte {
	if !t.lost {
		return t.data
	}
	_, whole, _ := bytes.Cut(t.data, []byte{'\n'})
	return whole
}

// joinConsole attaches a client to the serial console.
func (p *proc) joinConsole(c *client) error {
	if !p.spec.Stdio.Console || p.tail == nil {
		return api.E("attach", api.Unsupported, p.id, errors.New("the process has no serial console"))
	}
	// One that waits would hold up the machine, whose processor stands still as
	// long as its console does.
	c.opts.Wait = false
	p.tail.mu.Lock()
	defer p.tail.mu.Unlock()
	if kept := p.tail.kept(); c.opts.Stdout && len(kept) > 0 {
		c.queue(keeper.FrameStdout, kept, true)
	}
	p.join(c)
	return nil
}

// line is the input of a serial console. What the process does not take is lost, as
// on a wire: it may never read, and neither a client nor another one's input shall
// wait for that.
type line struct {
	mu   sync.Mutex
	file *os.File // a FIFO that does not block; nil where it could not be opened again, or once closed
}

func newLine(f *os.File) *line { return &line{file: f} }

func (l *line) write(data []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return
	}
	raw, err := l.file.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Write(func(fd uintptr) bool {
		_, _ = unix.Write(int(fd), data)
		return true
	})
}

func (l *line) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
}
