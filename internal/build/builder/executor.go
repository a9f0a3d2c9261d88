package builder

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/moby/buildkit/executor"
	resources "github.com/moby/buildkit/executor/resources/types"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/build"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/instance/container"
	"github.com/berthcloud/berth/internal/instance/vm"
	"github.com/berthcloud/berth/internal/keeper"
	"github.com/berthcloud/berth/internal/undo"
)

// runner runs steps as the containers that they are: by the driver of containers, with
// its plan and so its confinement; or, where builds are untrusted, as VMs by theirs. It
// implements executor.Executor.
type runner struct {
	config    build.Config
	daemon    build.Daemon
	driver    instance.Driver
	snapshots *snapshotter

	// Of builds in VMs.
	trees    trees
	learn    func() // makes the templates that steps could have begun from
	learning sync.WaitGroup

	mu      sync.Mutex
	running map[string]*running // by BuildKit's id of the container
}

// running is a container that other commands may be run in.
type running struct {
	handle  instance.Handle // set before started is closed
	started chan struct{}   // closed when it runs, or when it never will
	ended   chan struct{}
}

// newExecutor returns an executor. Its keeper belongs to this builder, because what
// steps mount is in this builder's mount namespace.
func newExecutor(ctx context.Context, c build.Config, daemon build.Daemon, snapshots *snapshotter, u *undo.Stack) (*runner, error) {
	lock, err := build.LockSteps(c)
	if err != nil {
		return nil, err
	}
	u.Add(func(context.Context) error { return lock.Close() })
	keep := keeper.New(keeper.Config{Run: c.Run, Binary: filepath.Join(c.Bin, "berth-keeper")})
	u.Add(func(ctx context.Context) error {
		if err := keep.Shutdown(ctx); err != nil && !api.IsKind(err, api.Unavailable) {
			return err
		}
		return nil
	})
	x := &runner{config: c, daemon: daemon, snapshots: snapshots, running: map[string]*running{}}
	if !c.VM {
		x.driver = container.New(container.Config{Keeper: keep, Runtime: filepath.Join(c.Bin, "berth-oci"), State: c.Runtime(), Host: c.Host})
		return x, nil
	}
	machines := vm.New(c.Machines(keep, slog.Default()))
	u.Add(func(context.Context) error { machines.Close(); return nil })
	x.driver, x.learn = machines, func() {
		x.learning.Go(func() {
			if err := machines.Learn(ctx); err != nil && ctx.Err() == nil {
				slog.Warn("steps of builds begin with a boot", "error", err)
			}
		})
	}
	u.Add(func(context.Context) error { x.learning.Wait(); return nil })
	return x, machines.Recover(ctx)
}

// Run runs a step to its end.
func (x *runner) Run(ctx context.Context, id string, root executor.Mount, mounts []executor.Mount, process executor.ProcessInfo, started chan<- struct{}) (_ resources.Recorder, err error) {
	now := x.enter(id)
	defer x.leave(id, now)
	going := sync.OnceFunc(func() {
		close(now.started)
		if started != nil {
			close(started)
		}
	})
	defer going()
	if x.config.VM {
		return nil, x.runMachine(ctx, now, root, mounts, process, going)
	}
	var u undo.Stack
	defer u.Run(ctx, &err)
	p, err := x.prepare(ctx, newID(), root, mounts, process, &u)
	if err != nil {
		return nil, err
	}
	h, err := x.driver.Create(ctx, p)
	if err != nil {
		return nil, failed(ctx, err)
	}
	u.Add(h.Delete)
	now.handle = h
	return nil, x.follow(ctx, h, process, going)
}

// follow starts a container, carries its streams and waits for its end.
func (x *runner) follow(ctx context.Context, h instance.Handle, process executor.ProcessInfo, going func()) error {
	attacher, ok := h.(instance.Attacher)
	if !ok {
		return errors.New("its output cannot be reached")
	}
	ready, attached := make(chan struct{}), make(chan error, 1)
	go func() {
		attached <- attacher.Attach(ctx, streams(ctx, process), sync.OnceFunc(func() { close(ready) }))
	}()
	select {
	case <-ready:
	case err := <-attached:
		return failed(ctx, errors.Join(err, errors.New("its output ended before it began")))
	}
	if _, err := h.Start(ctx); err != nil {
		return failed(ctx, err)
	}
	going()
	stop := forwardSignals(ctx, process.Signal, func(s syscall.Signal) { _ = h.Signal(ctx, int(s)) })
	defer stop()
	if err := <-attached; err != nil {
		return failed(ctx, err)
	}
	exit, err := h.Wait(ctx)
	if err != nil {
		return failed(ctx, err)
	}
	return exited(ctx, exit, process.Meta.ValidExitCodes)
}

// Exec runs a command in a container that Run runs.
func (x *runner) Exec(ctx context.Context, id string, process executor.ProcessInfo) error {
	x.mu.Lock()
	now := x.running[id]
	x.mu.Unlock()
	if now == nil {
		return fmt.Errorf("container %s does not run", id)
	}
	select {
	case <-now.started:
	case <-now.ended:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	execer, ok := now.handle.(instance.Execer)
	if !ok {
		return fmt.Errorf("container %s has stopped", id)
	}
	m := process.Meta
	exit, err := execer.Exec(ctx, api.Exec{Command: m.Args, Env: m.Env, User: m.User, WorkingDir: m.Cwd, TTY: m.Tty, Stdin: process.Stdin != nil}, streams(ctx, process))
	if err != nil {
		return failed(ctx, err)
	}
	return exited(ctx, exit, m.ValidExitCodes)
}

func (x *runner) enter(id string) *running {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := &running{started: make(chan struct{}), ended: make(chan struct{})}
	x.running[id] = now
	return now
}

func (x *runner) leave(id string, now *running) {
	x.mu.Lock()
	defer x.mu.Unlock()
	close(now.ended)
	if x.running[id] == now {
		delete(x.running, id)
	}
}

// newID returns an id of a step, like those of instances.
func newID() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails: crypto/rand aborts the program instead
	return hex.EncodeToString(b)
}

// streams connects a process to what BuildKit gives it.
func streams(ctx context.Context, process executor.ProcessInfo) instance.Streams {
	var s instance.Streams
	// An interface that holds a nil is none.
	if process.Stdin != nil {
		s.Stdin = process.Stdin
	}
	s.Stdout, s.Stderr = orDiscard(process.Stdout), orDiscard(process.Stderr)
	if process.Resize == nil {
		return s
	}
	sizes := make(chan api.Size)
	s.Resize = sizes
	go func() {
		defer close(sizes)
		for {
			select {
			case size, open := <-process.Resize:
				if !open {
					return
				}
				select {
				case sizes <- api.Size{Rows: uint16(size.Rows), Cols: uint16(size.Cols)}:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return s
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

// forwardSignals hands signals on until stop is called.
func forwardSignals(ctx context.Context, signals <-chan syscall.Signal, send func(syscall.Signal)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		for {
			select {
			case s := <-signals:
				send(s)
			case <-ctx.Done():
				return
			}
		}
	}()
	return cancel
}

// failed is how a step ended that did not come to an end of its own. BuildKit knows
// docker's exit codes for what cannot be started.
func failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	switch api.KindOf(err) {
	case api.NoCommand:
		return &gatewayapi.ExitError{ExitCode: 127, Err: err}
	case api.NotRunnable:
		if strings.Contains(err.Error(), "not a program for this machine") {
			err = fmt.Errorf("%w; a step of another platform runs where the qemu-user-static of that is registered with binfmt_misc", err)
		}
		return &gatewayapi.ExitError{ExitCode: 126, Err: err}
	}
	return err
}

// exited is how a step ended: nil for what it may end with.
func exited(ctx context.Context, exit api.Exit, valid []int) error {
	if len(valid) == 0 {
		valid = []int{0}
	}
	if slices.Contains(valid, exit.Code) {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	e := &gatewayapi.ExitError{ExitCode: uint32(exit.Code)}
	if exit.OOM {
		e.Err = errors.New("it used up its memory")
	}
	return e
}
