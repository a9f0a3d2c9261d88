package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/client"
	"github.com/berthcloud/berth/cmd/berth/internal/parse"
	"github.com/berthcloud/berth/cmd/berth/internal/terminal"
)

// defaultDetachKeys are docker's.
const defaultDetachKeys = "ctrl-p,ctrl-q"

// foreground puts the user in front of a command: an instance's entrypoint
// (run, start -a, attach) or one more command in it (exec).
type foreground struct {
	start    bool // start the instance once attached
	sigProxy bool
	keys     []byte // that detach; only with tty and stdin
	tty      bool

	stdin, stdout, stderr bool
}

// choose narrows the streams to those of -a.
func (f *foreground) choose(streams []string) error {
	if len(streams) == 0 {
		return nil
	}
	f.stdin, f.stdout, f.stderr = false, false, false
	for _, s := range streams {
		switch s {
		case "stdin":
			f.stdin = true
		case "stdout":
			f.stdout = true
		case "stderr":
			f.stderr = true
		default:
			return fmt.Errorf("-a: %q is not a stream; write stdin, stdout or stderr", s)
		}
	}
	return nil
}

// check refuses what cannot work before anything is made.
func (f *foreground) check(g *global) error {
	if f.tty && f.stdin && !terminal.Is(g.In) {
		return errors.New("-t: standard input is not a terminal; leave out -t, or run it from one")
	}
	return nil
}

// streams connects the client's files. The restore function puts the terminal
// back; it may be called more than once.
func (f *foreground) streams(ctx context.Context, g *global) (s client.Streams, size api.Size, restore func(), err error) {
	restore = func() {}
	if f.stdout {
		s.Stdout = g.Out
	}
	if f.stderr {
		s.Stderr = g.Err
	}
	if f.stdin {
		s.Stdin = io.Reader(g.In)
	}
	if !f.tty {
		return s, size, restore, nil
	}
	for _, file := range []*os.File{g.Out, g.In} {
		if terminal.Is(file) {
			size, s.Resize = terminal.Size(file), terminal.Sizes(ctx, file)
			break
		}
	}
	if f.stdin && terminal.Is(g.In) {
		s.Stdin = &terminal.Detacher{R: g.In, Keys: f.keys}
		restore, err = terminal.Raw(g.In)
	}
	return s, size, restore, err
}

// attach attaches to an instance, and starts it first where start says so.
func (f *foreground) attach(ctx context.Context, g *global, c *client.Client, inst api.Instance) error {
	return f.follow(ctx, g, c, &inst, func(ctx context.Context, size api.Size, started func(api.Status), s client.Streams) (api.Exit, error) {
		return c.Attach(ctx, inst.ID, client.AttachOptions{Start: f.start, Size: size, Started: started}, s)
	})
}

// run makes an instance and starts it.
func (f *foreground) run(ctx context.Context, g *global, c *client.Client, spec api.Spec, idFile *idFile) error {
	inst := api.Instance{Spec: spec}
	created := func(made api.Identity) {
		inst.ID, inst.Name = made.ID, made.Name
		if err := idFile.write(made.ID); err != nil {
			g.warn(err.Error())
		}
	}
	return f.follow(ctx, g, c, &inst, func(ctx context.Context, size api.Size, started func(api.Status), s client.Streams) (api.Exit, error) {
		return c.RunAttached(ctx, spec, client.RunOptions{Size: size, Created: created, Started: started}, s)
	})
}

// follow stays with an instance, to whose streams connect connects, until it ends, the
// user detaches, or the connection is lost. inst is set before the instance runs.
func (f *foreground) follow(ctx context.Context, g *global, c *client.Client, inst *api.Instance,
	connect func(context.Context, api.Size, func(api.Status), client.Streams) (api.Exit, error),
) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s, size, restore, err := f.streams(ctx, g)
	if err != nil {
		return err
	}
	defer restore()
	var running atomic.Bool
	forward := func() {
		running.Store(true)
		if f.sigProxy {
			f.forward(ctx, g, c, *inst, cancel)
		}
	}
	if !f.start {
		forward()
	}
	exit, err := connect(ctx, size, func(st api.Status) {
		g.warn(st.Notice)
		forward()
	}, s)
	restore()
	switch {
	case errors.Is(err, terminal.ErrDetached):
		return nil
	case err != nil && running.Load() && api.IsKind(err, api.Unavailable):
		return fmt.Errorf("%w; %s goes on, and 'berth attach %s' follows it again", err, inst.Name, inst.Name)
	case err != nil:
		return err
	case exit.Reboot:
		g.warn(inst.Name + " reboots; 'berth attach " + inst.Name + "' follows it again")
	}
	return exitStatus(g, inst.Name, exit)
}

// patience is how many requests to end an instance a user makes in vain
// before the client gives up on it.
const patience = 3

// forward sends the signals the client gets to the instance. After as many
// requests to end as its patience, the client itself ends: the instance or its
// agent may be hung.
func (f *foreground) forward(ctx context.Context, g *global, c *client.Client, inst api.Instance, giveUp context.CancelCauseFunc) {
	asked := 0
	handle := func(s unix.Signal) {
		if s == unix.SIGINT || s == unix.SIGTERM {
			if asked++; asked > patience {
				giveUp(fmt.Errorf("gave up on %s, which does not end; 'berth kill %s' ends it by force", inst.Name, inst.Name))
				return
			}
		}
		go func() { // a hung agent must not hold up the next signal
			err := pass(ctx, c, inst, s)
			if err != nil && ctx.Err() == nil && !api.IsKind(err, api.Conflict) && !api.IsKind(err, api.NotFound) {
				g.warn(err.Error())
			}
		}()
	}
	g.signal.Store(&handle)
}

// pass passes a signal on to the instance. To the init of a machine the ones that
// ask a program to end mean something else, as a reboot: it is shut down instead.
func pass(ctx context.Context, c *client.Client, inst api.Instance, s unix.Signal) error {
	if inst.Spec.Init == api.InitSystem && (s == unix.SIGINT || s == unix.SIGTERM) {
		return c.Stop(ctx, inst.ID, client.StopOptions{})
	}
	return c.Kill(ctx, inst.ID, unix.SignalName(s))
}

// exitStatus returns a command's exit as the client's own.
func exitStatus(g *global, name string, exit api.Exit) error {
	if exit.Error != "" {
		g.warn(name + ": " + exit.Error)
		if exit.Code == 0 {
			return &exitError{code: exitBerth}
		}
	}
	if exit.Code == 0 {
		return nil
	}
	return &exitError{code: exit.Code}
}

// detachKeys reads the flag of that name.
func detachKeys(s string) ([]byte, error) {
	keys, err := parse.Keys(s)
	if err != nil {
		return nil, usage(fmt.Errorf("--detach-keys: %w", err))
	}
	return keys, nil
}
