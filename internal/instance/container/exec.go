package container

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/keeper"
)

// Exec runs a command beside the entrypoint: with its user, environment and
// confinement unless x says otherwise.
func (h *handle) Exec(ctx context.Context, x api.Exec, s instance.Streams) (api.Exit, error) {
	if len(x.Command) == 0 {
		return api.Exit{}, api.E("exec", api.Invalid, h.p.Spec.Name, errors.New("no command"))
	}
	name := "exec-" + rand.Text()
	process, err := h.execProcess(x)
	if err != nil {
		return api.Exit{}, h.fail("exec", err)
	}
	file := h.inRun(name)
	if err := os.WriteFile(file, process, 0o600); err != nil {
		return api.Exit{}, h.fail("exec", err)
	}
	defer os.Remove(file)

	kept := h.execKept(x, name, file)
	defer os.Remove(kept.PIDFile)
	k := h.driver.cfg.Keeper
	_, a, err := k.StartAttached(ctx, kept, keeper.AttachOptions{
		Stdin: s.Stdin != nil, Stdout: s.Stdout != nil, Stderr: s.Stderr != nil, Wait: true,
	})
	if err != nil {
		return api.Exit{}, h.fail("exec", err)
	}
	exit, err := stream(ctx, a, s)
	if ctx.Err() != nil {
		_ = k.Signal(context.WithoutCancel(ctx), kept.ID, unix.SIGKILL)
		_, _ = k.Wait(context.WithoutCancel(ctx), kept.ID)
		return api.Exit{}, h.fail("exec", ctx.Err())
	}
	if err != nil {
		return api.Exit{}, h.fail("exec", err)
	}
	return exitOf(exit), nil
}

// execProcess is the process.json of a command.
func (h *handle) execProcess(x api.Exec) ([]byte, error) {
	p, err := h.driver.runtime.ExecProcess(h.p.ID)
	if err != nil {
		return nil, err
	}
	p.Args, p.Terminal = x.Command, x.TTY
	p.Env = append(slices.Clone(p.Env), x.Env...)
	if x.TTY {
		p.Env = environment(&instance.Process{TTY: true, Env: p.Env})
		if x.Size.Rows > 0 {
			p.ConsoleSize = &specs.Box{Height: uint(x.Size.Rows), Width: uint(x.Size.Cols)}
		}
	}
	if x.User != "" {
		p.User = specs.User{Username: x.User}
	}
	if x.WorkingDir != "" {
		p.Cwd = x.WorkingDir
	}
	return json.Marshal(p)
}

// execKept says how the keeper is to start and keep a command.
func (h *handle) execKept(x api.Exec, name, file string) keeper.Process {
	cfg := h.driver.cfg
	kept := keeper.Process{
		ID: name, Mode: keeper.Runtime, Ephemeral: true, Dir: h.p.RunDir, PIDFile: file + ".pid",
		Args: []string{cfg.Runtime, "--root", cfg.State, "exec", "--detach", "--process", file, "--pid-file", file + ".pid"},
		Stdio: keeper.Stdio{
			Kind: keeper.Pipes, OpenStdin: x.Stdin, StdinOnce: true, UID: h.p.Users.First, GID: h.p.Users.First,
		},
	}
	if x.TTY {
		kept.Stdio.Kind = keeper.PTY
		kept.Stdio.Size = keeper.Size(x.Size)
		kept.Stdio.ConsoleSocket = file + ".sock"
		kept.Args = append(kept.Args, "--console-socket", kept.Stdio.ConsoleSocket)
	}
	kept.Args = append(kept.Args, h.p.ID)
	return kept
}

// Attach connects to the entrypoint's streams until it has ended or ctx is
// canceled.
func (h *handle) Attach(ctx context.Context, s instance.Streams, ready func()) error {
	a, err := h.driver.cfg.Keeper.Attach(ctx, h.p.ID, keeper.AttachOptions{
		Stdin: s.Stdin != nil, Stdout: s.Stdout != nil, Stderr: s.Stderr != nil, Wait: true,
	})
	if err != nil {
		return h.fail("attach", err)
	}
	if ready != nil {
		ready()
	}
	_, err = stream(ctx, a, s)
	if ctx.Err() != nil {
		return nil // the client has detached
	}
	return h.fail("attach", err)
}

// stream moves the streams until the process has ended, and closes a.
func stream(ctx context.Context, a *keeper.Attachment, s instance.Streams) (keeper.Exit, error) {
	defer a.Close()
	if s.Stdin != nil {
		// A reader that blocks is left behind: its next write finds a closed.
		go func() {
			if _, err := io.Copy(a, s.Stdin); err == nil {
				_ = a.CloseStdin()
			}
		}()
	}
	done := make(chan struct{})
	defer close(done)
	if s.Resize != nil {
		go resize(a, s.Resize, done)
	}
	return a.Copy(ctx, s.Stdout, s.Stderr)
}

func resize(a *keeper.Attachment, sizes <-chan api.Size, done <-chan struct{}) {
	for {
		select {
		case size, open := <-sizes:
			if !open {
				return
			}
			if a.Resize(keeper.Size(size)) != nil {
				return
			}
		case <-done:
			return
		}
	}
}
