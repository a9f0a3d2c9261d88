package build

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/undo"
)

const (
	startTime = 30 * time.Second // for a builder to be ready: it may make its indexes anew
	stopTime  = 20 * time.Second // for it to end its steps
)

// Ready is what a builder writes to its standard output once it listens.
const Ready = "ready\n"

// process is a builder that runs.
type process struct {
	cmd   *exec.Cmd
	life  io.Closer // its standard input
	store *grpc.Server
	done  chan struct{} // closed when it has ended and what it left is gone
	err   error         // how; read after done
}

// stop ends the builder and what it left.
func (p *process) stop() error {
	_ = p.life.Close()
	kill := time.AfterFunc(stopTime, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	<-p.done
	return p.err
}

// start starts a builder and returns once it listens.
func (s *Service) start(ctx context.Context) (_ *process, err error) {
	var u undo.Stack
	defer u.Run(ctx, &err)
	c := s.Config
	for _, dir := range []string{c.Root, c.Run, c.StepsDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, api.E("start the builder", api.Exhausted, dir, err)
		}
	}
	p := &process{done: make(chan struct{})}
	if p.store, err = s.serveStore(); err != nil {
		return nil, err
	}
	u.Add(func(context.Context) error { p.store.Stop(); return nil })
	config, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	// It outlives the request that it is started for.
	p.cmd = exec.CommandContext(context.WithoutCancel(ctx), filepath.Join(c.Bin, "berth-builder"), c.Run) // for ps to show whose it is
	p.cmd.Dir = "/"
	p.cmd.Env = append(os.Environ(), "TMPDIR="+c.Tmp())
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Setpgid: true}
	var stderr tail
	p.cmd.Stderr = io.MultiWriter(&stderr, os.Stderr)
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p.life = in
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, api.E("start the builder", api.Unavailable, p.cmd.Path, err)
	}
	u.Add(func(context.Context) error { return p.stop() })
	_, err = in.Write(append(config, '\n'))
	heard := make(chan error, 1)
	go func() {
		word := make([]byte, len(Ready))
		_, err := io.ReadFull(out, word)
		heard <- err
		s.look(ctx, p)
	}()
	select {
	case heardErr := <-heard:
		err = errors.Join(err, heardErr)
	case <-time.After(startTime):
		err = fmt.Errorf("it was not ready within %v", startTime)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		_ = p.stop()
		return nil, api.E("start the builder", api.Unavailable, "", fmt.Errorf("it did not start: %w %s", err, api.OneLine(stderr.String())))
	}
	u.Release()
	return p, nil
}

// look waits for the end of a builder and takes back what it left.
func (s *Service) look(ctx context.Context, p *process) {
	defer close(p.done)
	ctx = context.WithoutCancel(ctx)
	err := p.cmd.Wait()
	p.store.Stop()
	err = errors.Join(err, s.sweep(ctx))
	s.reserved.Lock()
	left := slices.Collect(maps.Keys(s.steps))
	s.reserved.Unlock()
	for _, id := range left {
		err = errors.Join(err, s.end(ctx, id))
	}
	p.err = err
}

// serveStore shows the store to a builder.
func (s *Service) serveStore() (*grpc.Server, error) {
	path := s.Config.StoreSocket()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, api.E("start the builder", api.Unavailable, path, err)
	}
	g := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage))
	registerStore(g, s.backing)
	registerHost(g, s)
	go func() { _ = g.Serve(l) }() // ends with Stop
	return g, nil
}

// maxMessage bounds a message of the store, in bytes: a piece of a blob.
const maxMessage = 16 << 20

// tail keeps the end of what a builder says.
type tail struct{ bytes.Buffer }

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	const most = 4 << 10
	t.Buffer.Write(b)
	if over := t.Len() - most; over > 0 {
		t.Next(over)
	}
	return len(b), nil
}
