package engine

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/berthcloud/berth/api"
)

// StopOptions say how to stop. The zero value takes the instance's own signal
// and grace.
type StopOptions struct {
	Signal  string         // name or number
	Timeout *time.Duration // between the signal and SIGKILL
}

// Stop ends an instance: its stop signal, a grace, then force. It returns once
// the instance has ended. An instance that does not run is a success; a
// restart that its policy has planned is called off.
func (e *Engine) Stop(ctx context.Context, ref string, o StopOptions) error {
	en, err := e.find(ref)
	if err != nil {
		return err
	}
	unlock, err := en.lock(ctx)
	if err != nil {
		return api.E("stop", "", ref, err)
	}
	defer unlock()
	return e.stop(ctx, en, o)
}

// stop is called with entry.op held.
func (e *Engine) stop(ctx context.Context, en *entry, o StopOptions) error {
	r := en.currentRun()
	inst := en.instance()
	if r == nil {
		if inst.Status.State == api.Restarting {
			err := e.change(ctx, en, func(r *record) { r.Status.State, r.Status.Stopped = api.Exited, true })
			if err == nil && inst.Spec.AutoRemove { // it was rebooting
				e.background(func(ctx context.Context) { e.autoRemove(ctx, en) })
			}
			return err
		}
		if inst.Status.State == api.Suspended {
			return errSuspended("stop", inst.Name)
		}
		return nil
	}
	signal, grace := r.prepared.Process.StopSignal, inst.Spec.StopTimeout.Or(defaultStopTimeout)
	if o.Signal != "" {
		var err error
		if signal, err = parseSignal(o.Signal); err != nil {
			return err
		}
	}
	if o.Timeout != nil {
		grace = *o.Timeout
	}
	err := e.change(ctx, en, func(r *record) {
		r.Status.Stopped = true
		if r.Status.State.Alive() {
			r.Status.State = api.Stopping
		}
	})
	if err != nil {
		return err
	}
	if inst.Status.State == api.Paused {
		// A frozen process takes no signal but SIGKILL; thaw it so that it can
		// end in its own way.
		if err := e.unpause(ctx, r.handle); err != nil {
			e.log.Warn("thaw before stop", "instance", inst.Name, "error", err)
		}
	}
	// A run that is not found has ended meanwhile, and its supervisor is
	// deleting it.
	if err := r.handle.Stop(ctx, signal, grace); err != nil && !api.IsKind(err, api.NotFound) {
		e.abandonStop(ctx, en)
		return api.E("stop", "", inst.Name, err)
	}
	return e.awaitEnd(ctx, en, r)
}

// abandonStop corrects the state after a stop that did not come through.
func (e *Engine) abandonStop(ctx context.Context, en *entry) {
	_ = e.change(ctx, en, func(r *record) {
		if r.Status.State == api.Stopping {
			r.Status.State = api.Running
		}
	})
}

// awaitEnd waits until the supervisor has recorded the run's end.
func (e *Engine) awaitEnd(ctx context.Context, en *entry, r *run) error {
	select {
	case <-r.ended:
		return nil
	case <-ctx.Done():
		return api.E("stop", "", en.name(), ctx.Err())
	case <-e.ctx.Done():
		return api.E("stop", api.Unavailable, en.name(), fmt.Errorf("berthd is shutting down; try again when it is back"))
	}
}

// Restart stops an instance that runs, and starts it.
func (e *Engine) Restart(ctx context.Context, ref string, o StopOptions) error {
	en, err := e.find(ref)
	if err != nil {
		return err
	}
	unlock, err := en.lock(ctx)
	if err != nil {
		return api.E("restart", "", ref, err)
	}
	defer unlock()
	if en.instance().Spec.AutoRemove && en.currentRun() != nil {
		return api.E("restart", api.Conflict, en.name(), fmt.Errorf("it is removed when it ends (--rm) and cannot be restarted; run a new one"))
	}
	if err := e.stop(ctx, en, o); err != nil {
		return err
	}
	return e.start(ctx, en, wanted)
}

// Kill sends a signal to the entrypoint. An empty signal is SIGKILL. It does
// not wait for an effect. SIGKILL and the stop signal count as a user's wish
// to end the instance; of one that is suspended SIGKILL gives up what it had in memory.
func (e *Engine) Kill(ctx context.Context, ref, signal string) error {
	en, err := e.find(ref)
	if err != nil {
		return err
	}
	n, err := parseSignal(first(signal, "KILL"))
	if err != nil {
		return err
	}
	if n == int(syscall.SIGKILL) && en.snapshot().State == api.Suspended {
		unlock, err := en.lock(ctx)
		if err != nil {
			return api.E("kill", "", ref, err)
		}
		defer unlock()
		if e.saved(en.id) && en.currentRun() == nil {
			return e.discard(ctx, en)
		}
	}
	h, err := en.handle("kill")
	if err != nil {
		return err
	}
	if r := en.currentRun(); r != nil && (n == int(syscall.SIGKILL) || n == r.prepared.Process.StopSignal) {
		if err := e.change(ctx, en, func(r *record) { r.Status.Stopped = true }); err != nil {
			return err
		}
	}
	if err := h.Signal(ctx, n); err != nil {
		return api.E("kill", "", en.name(), err)
	}
	e.publish(en, "kill", map[string]string{"signal": fmt.Sprint(n)})
	return nil
}
