package image

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/berthcloud/berth/api"
)

// stopTime is how long a program may take to clean up after it was told to stop.
const stopTime = 10 * time.Second

// command is a program of the host that does a part of an operation. What it
// says on standard error is shown as progress, and its last words explain a
// failure.
type command struct {
	*exec.Cmd
	said lastLines
}

// newCommand prepares a program to run in dir. It stops, with all its
// children, when ctx ends.
func newCommand(ctx context.Context, progress Progress, dir, name string, args ...string) *command {
	c := &command{Cmd: exec.CommandContext(ctx, name, args...)}
	c.said.progress, c.said.part = progress, name
	c.Dir = dir
	c.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	c.Stderr = &c.said
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGTERM) }
	c.WaitDelay = stopTime
	return c
}

// explain makes the error of a program that has failed.
func (c *command) explain(ctx context.Context, err error) error {
	name := c.said.part
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return api.E("", api.Canceled, "", ctx.Err())
	case errors.Is(err, exec.ErrNotFound):
		return api.E("", api.Unsupported, "", fmt.Errorf("the program %s is missing; install the package that has it (see packages.txt)", name))
	case c.said.text() != "":
		return api.E("", api.Unavailable, "", fmt.Errorf("%s failed: %s", name, c.said.text()))
	}
	return api.E("", api.Unavailable, "", fmt.Errorf("%s failed: %w", name, err))
}

// output runs the program and returns what it writes to standard output, at
// most limit bytes.
func (c *command) output(ctx context.Context, limit int) (string, error) {
	var out limitedBuffer
	out.limit = limit
	c.Stdout = &out
	if err := c.explain(ctx, c.Run()); err != nil {
		return "", err
	}
	return out.b.String(), nil
}

type limitedBuffer struct {
	b     bytes.Buffer
	limit int
}

func (l *limitedBuffer) Write(p []byte) (int, error) {
	if l.b.Len()+len(p) > l.limit {
		return 0, fmt.Errorf("output of more than %d bytes", l.limit)
	}
	return l.b.Write(p)
}

// stream runs the program while use reads its standard output. Its failure is
// the reader's error, so that use never takes half an output for a whole one.
func (c *command) stream(ctx context.Context, use func(io.Reader) error) error {
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return c.explain(ctx, err)
	}
	r := &outputReader{c: c, ctx: ctx, out: out}
	useErr := use(r)
	if useErr != nil {
		_ = c.Cancel() // it may have ended already
		_, _ = io.Copy(io.Discard, out)
	}
	waitErr := r.wait()
	if useErr != nil {
		return useErr
	}
	return waitErr
}

type outputReader struct {
	c    *command
	ctx  context.Context
	out  io.Reader
	end  error // of the output, once it was met
	once sync.Once
	err  error
}

func (r *outputReader) Read(p []byte) (int, error) {
	if r.end != nil {
		return 0, r.end
	}
	n, err := r.out.Read(p)
	if err != nil {
		r.end = err
		if failed := r.wait(); failed != nil {
			r.end = failed
		}
	}
	return n, r.end
}

func (r *outputReader) wait() error {
	r.once.Do(func() { r.err = r.c.explain(r.ctx, r.c.Wait()) })
	return r.err
}

// lastLines reports lines as they come and keeps the last that says something.
type lastLines struct {
	part     string
	progress Progress

	mu   sync.Mutex
	rest []byte
	last string
}

func (l *lastLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, p...)
	for {
		i := bytes.IndexAny(l.rest, "\n\r")
		if i < 0 {
			l.rest = l.rest[max(0, len(l.rest)-bufio.MaxScanTokenSize):]
			return len(p), nil
		}
		line := api.OneLine(string(l.rest[:i]))
		l.rest = l.rest[i+1:]
		if line == "" {
			continue
		}
		if l.progress != nil {
			l.progress(api.Progress{Part: l.part, Stage: StageOutput, Text: line})
		}
		// Programs often end with less than what went wrong: an "E:" wins.
		if !strings.HasPrefix(l.last, "E: ") || strings.HasPrefix(line, "E: ") {
			l.last = line
		}
	}
}

func (l *lastLines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if rest := api.OneLine(string(l.rest)); rest != "" && l.last == "" {
		return rest
	}
	return l.last
}
