package container

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/keeper"
	"github.com/berthcloud/berth/internal/oci"
	"github.com/berthcloud/berth/internal/oci/wire"
)

// handle is one run. What changes of it is the keeper's and the runtime's.
type handle struct {
	driver *Driver
	p      *instance.Prepared
	kept   keeper.Status // by Create or Adopt

	waiting atomic.Pointer[keeper.Waiting] // of Create, for the first Wait
}

func (h *handle) inRun(name string) string { return filepath.Join(h.p.RunDir, name) }

// fail gives an error of the layers below its kind and the instance's name.
func (h *handle) fail(op string, err error) error {
	if err == nil {
		return nil
	}
	kind := api.KindOf(err)
	var failure *wire.Failure
	switch {
	case errors.As(err, &failure) && failure.Code == 127:
		kind = api.NoCommand
	case errors.As(err, &failure) && failure.Code == 126:
		kind = api.NotRunnable
	case errors.Is(err, oci.ErrNotExist), errors.Is(err, oci.ErrNotRunning), errors.Is(err, oci.ErrNotCreated), errors.Is(err, oci.ErrPaused):
		kind = api.Conflict
	}
	return api.E(op, kind, h.p.Spec.Name, h.said(err))
}

// unsupported is an error about what this daemon cannot do.
func (h *handle) unsupported(op string, err error) error {
	return api.E(op, api.Unsupported, h.p.Spec.Name, err)
}

// said is what the runtime itself had to say, where err is a failed command or call
// of it, without the names of the program and of its container, which no user has
// chosen.
func (h *handle) said(err error) error {
	text := err.Error()
	if command, ok := errors.AsType[*keeper.CommandError](err); ok && command.Stderr != "" {
		text = strings.TrimPrefix(strings.TrimSpace(command.Stderr), "berth-oci: ")
	} else if !strings.HasPrefix(text, h.p.ID+": ") {
		return err
	}
	return errors.New(strings.TrimPrefix(text, h.p.ID+": "))
}

// Start lets the entrypoint go.
func (h *handle) Start(context.Context) (instance.Status, error) {
	err := h.driver.runtime.Start(h.p.ID)
	return instance.Status{State: api.Running, PID: h.kept.PID, Created: h.kept.Started}, h.fail("start", err)
}

// Signal sends a signal to the entrypoint.
func (h *handle) Signal(ctx context.Context, signal int) error {
	return h.fail("signal", h.driver.cfg.Keeper.Signal(ctx, h.p.ID, unix.Signal(signal)))
}

// Stop asks the entrypoint to end, and ends it by force after the grace.
func (h *handle) Stop(ctx context.Context, signal int, grace time.Duration) error {
	if err := h.Signal(ctx, signal); err != nil {
		if api.IsKind(err, api.Conflict) {
			return nil
		}
		return err
	}
	// A frozen process does not see its signal.
	if st, err := h.Status(ctx); err == nil && st.State == api.Paused {
		if err := h.Unpause(ctx); err != nil {
			return err
		}
	}
	patience, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	_, err := h.Wait(patience)
	if err == nil || ctx.Err() != nil {
		return err
	}
	if err := h.Signal(ctx, int(unix.SIGKILL)); err != nil && !api.IsKind(err, api.Conflict) {
		return err
	}
	_, err = h.Wait(ctx)
	return err
}

// Wait returns how the run ended.
func (h *handle) Wait(ctx context.Context) (api.Exit, error) {
	wait := func(ctx context.Context) (keeper.Exit, error) { return h.driver.cfg.Keeper.Wait(ctx, h.p.ID) }
	if w := h.waiting.Swap(nil); w != nil {
		wait = w.Wait
	}
	exit, err := wait(ctx)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return api.Exit{}, h.fail("wait", err)
	}
	end := exitOf(exit)
	if isSystem(h.p) {
		end = shutdownOf(end, unix.Signal(exit.Signal))
	}
	return end, nil
}

// shutdownOf tells what the init of a system container asked for: reboot(2) in a
// pid namespace ends its process 1 as if by SIGINT for halt and power off, by
// SIGHUP for a restart, which no signal of anybody's can do to an init.
func shutdownOf(e api.Exit, signal unix.Signal) api.Exit {
	if signal == unix.SIGINT || signal == unix.SIGHUP {
		e.Code, e.Reboot = 0, signal == unix.SIGHUP
	}
	return e
}

func exitOf(e keeper.Exit) api.Exit {
	exit := api.Exit{Code: e.Code, OOM: e.OOM, Time: e.Time}
	if e.Unknown != "" {
		exit.Error = "the exit code is not known: " + e.Unknown
	}
	return exit
}

// Status observes the run now.
func (h *handle) Status(ctx context.Context) (instance.Status, error) {
	kept, err := h.driver.cfg.Keeper.Status(ctx, h.p.ID)
	if err != nil {
		return instance.Status{}, h.fail("status", err)
	}
	if kept.Exit != nil {
		if kept.Exit.Unknown != "" {
			return instance.Status{State: api.Failed, Created: kept.Started, Notice: kept.Exit.Unknown}, nil
		}
		return instance.Status{State: api.Exited, Created: kept.Started}, nil
	}
	c, err := h.driver.runtime.Load(h.p.ID)
	if err != nil {
		return instance.Status{}, h.fail("status", err)
	}
	status, err := c.Status()
	if err != nil {
		return instance.Status{}, h.fail("status", err)
	}
	states := map[oci.Status]api.State{
		"creating": api.Created, "created": api.Created, "running": api.Running, oci.StatusPaused: api.Paused,
		"stopped": api.Exited, // a moment before the keeper notices
	}
	return instance.Status{State: states[status], PID: kept.PID, Created: kept.Started}, nil
}

// Update changes the limits of the run.
func (h *handle) Update(_ context.Context, l api.Limits) error {
	host := h.driver.cfg.Host
	if err := undelegated(l, host); err != nil {
		return h.unsupported("update", err)
	}
	if err := liftable(h.p.Spec, l, host); err != nil {
		return h.unsupported("update", err)
	}
	if err := throttleable(l, host); err != nil {
		return h.unsupported("update", err)
	}
	r := resources(l, host)
	if r == nil {
		return nil // nothing is asked for
	}
	return h.fail("update", h.driver.runtime.Update(h.p.ID, r))
}

// Pause freezes all processes.
func (h *handle) Pause(context.Context) error {
	if err := h.driver.cfg.Host.Needs("pause", "freezer"); err != nil {
		return h.unsupported("pause", err)
	}
	return h.fail("pause", h.driver.runtime.Pause(h.p.ID))
}

// Unpause thaws them.
func (h *handle) Unpause(context.Context) error {
	return h.fail("unpause", h.driver.runtime.Resume(h.p.ID))
}

// Delete ends the run and takes back all that Create made. Each part may be gone
// already.
func (h *handle) Delete(ctx context.Context) error {
	var errs []error
	if w := h.waiting.Swap(nil); w != nil {
		errs = append(errs, w.Close())
	}
	if err := h.driver.runtime.Delete(ctx, h.p.ID, true); err != nil {
		errs = append(errs, err)
	} else if err := h.forget(ctx); err != nil {
		errs = append(errs, err)
	}
	for _, name := range []string{"config.json", "hosts", "hostname", "resolv.conf", machineIDFile, "pid", "console.sock"} {
		if err := os.Remove(h.inRun(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return h.fail("delete", errors.Join(errs...))
}

// forget has the keeper drop the run once it has seen its end, as it mostly has.
func (h *handle) forget(ctx context.Context) error {
	k := h.driver.cfg.Keeper
	err := k.Forget(ctx, h.p.ID)
	if !api.IsKind(err, api.Conflict) {
		return err
	}
	if _, err := k.Wait(ctx, h.p.ID); err != nil && !api.IsKind(err, api.NotFound) {
		return err
	}
	return k.Forget(ctx, h.p.ID)
}
