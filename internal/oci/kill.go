package oci

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/hook"
)

// Kill sends a signal to the first process, or with all to every process of the
// container.
func (r *Runtime) Kill(id string, signal unix.Signal, all bool) error {
	c, err := r.Load(id)
	if err != nil {
		return err
	}
	if !all {
		err := c.signal(signal)
		if errors.Is(err, ErrNotRunning) {
			err = fmt.Errorf(`%w (runtime.md: "Attempting to send a signal to a container that is neither created nor running MUST have no effect on the container and MUST generate an error")`, err)
		}
		return err
	}
	g, err := c.cgroups()
	if err != nil {
		return err
	}
	if g == nil {
		return c.signal(signal)
	}
	if signal == unix.SIGKILL {
		return g.Kill()
	}
	pids, err := g.Pids()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, signal); err != nil && err != unix.ESRCH {
			return fmt.Errorf("%s: %w", id, err)
		}
	}
	return nil
}

func (c *Container) signal(signal unix.Signal) error {
	fd, err := c.pidfd()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = unix.PidfdSendSignal(fd, signal, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("%s: %w", c.rec.ID, ErrNotRunning)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.rec.ID, err)
	}
	return nil
}

// killPatience is how long a killed process may take to disappear: it may have to
// finish a write to a slow disk.
const killPatience = 10 * time.Second

// Delete removes a container that has stopped, or with force ends it first. With
// force a container that does not exist is a success, as with runc.
func (r *Runtime) Delete(ctx context.Context, id string, force bool) error {
	d, err := r.lockDir(id)
	if errors.Is(err, ErrNotExist) && force {
		return nil
	}
	if err != nil {
		return err
	}
	removed := false
	defer func() {
		if !removed {
			d.unlock()
		}
	}()
	c, err := r.Load(id)
	if err != nil && !force {
		return err
	}
	if c != nil {
		if err := c.end(ctx, force); err != nil {
			return err
		}
		c.poststop()
	}
	removed = true
	if err := d.remove(); err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	return nil
}

// end makes sure that nothing of the container runs, and removes its cgroups.
func (c *Container) end(ctx context.Context, force bool) error {
	status, err := c.Status()
	if err != nil && !force {
		return err
	}
	switch status {
	case specs.StateStopped, specs.StateCreating: // creating: we hold the lock, so its creator is dead
	case specs.StateCreated: // nothing of the user's runs yet: runc deletes it without --force too
	default:
		if !force {
			return fmt.Errorf("%s: %w", c.rec.ID, ErrRunning)
		}
	}
	if err := c.killInit(ctx); err != nil {
		return err
	}
	if c.rec.Resctrl != nil {
		if err := c.rec.Resctrl.Delete(); err != nil {
			return fmt.Errorf("%s: resctrl: %w", c.rec.ID, err)
		}
	}
	g, err := c.cgroups()
	if err != nil || g == nil {
		return err
	}
	// Without a pid namespace, or in that of another container, children outlive the
	// first process.
	if !c.rec.OwnPids || status == specs.StateCreating {
		if frozen, err := g.Frozen(); err == nil && frozen {
			_ = g.Freeze(false)
		}
		if err := g.Kill(); err != nil {
			return fmt.Errorf("%s: %w", c.rec.ID, err)
		}
	}
	if err := g.Destroy(); err != nil {
		return fmt.Errorf("%s: %w", c.rec.ID, err)
	}
	return nil
}

// killInit ends the first process and waits until it is gone.
func (c *Container) killInit(ctx context.Context) error {
	fd, err := c.pidfd()
	if errors.Is(err, ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return fmt.Errorf("%s: %w", c.rec.ID, err)
	}
	if g, err := c.cgroups(); err == nil && g != nil {
		// A frozen process of v1 does not even die.
		if frozen, err := g.Frozen(); err == nil && frozen {
			_ = g.Freeze(false)
		}
	}
	deadline := time.Now().Add(killPatience)
	for ctx.Err() == nil && time.Now().Before(deadline) {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if ready > 0 {
			return nil
		}
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("%s: poll: %w", c.rec.ID, err)
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", c.rec.ID, err)
	}
	return fmt.Errorf("%s: killed, but the process %d does not end; it may hang in the kernel", c.rec.ID, c.rec.Pid)
}

// poststop runs the hooks after the container has gone. "…any error MUST be logged
// but otherwise ignored" (runtime.md, Lifecycle).
func (c *Container) poststop() {
	if !c.rec.LateHooks {
		return
	}
	spec, err := c.spec()
	if err != nil || spec.Hooks == nil {
		return
	}
	c.runPoststop(spec.Hooks.Poststop)
}

func (c *Container) runPoststop(hooks []specs.Hook) {
	if len(hooks) == 0 {
		return
	}
	c.rec.Pid = 0
	state, err := c.document(specs.StateStopped)
	if err != nil {
		return
	}
	for _, h := range hooks {
		if err := hook.Run("poststop", []specs.Hook{h}, state); err != nil {
			c.rt.warn("%v", err)
		}
	}
}
