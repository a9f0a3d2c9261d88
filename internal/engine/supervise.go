package engine

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/berthcloud/berth/api"
)

// Back-off of the restart policy: the first restart is quick, each further one
// of a run that does not last waits twice as long.
const (
	restartDelay    = 100 * time.Millisecond
	restartDelayMax = time.Minute
	restartSettled  = 10 * time.Second // a run this long starts the count anew
)

// supervise waits for the run's end and records it. When the engine closes
// first, the run is left to the next engine.
func (e *Engine) supervise(ctx context.Context, en *entry, r *run) {
	exit, err := r.handle.Wait(ctx)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		exit = api.Exit{Code: 255, Error: "its end could not be observed: " + api.OneLine(err.Error()), Time: time.Now()}
	}
	e.finish(ctx, en, r, exit)
}

// finish takes the run's resources back, records how it ended, and lets the
// restart policy decide what comes next.
func (e *Engine) finish(ctx context.Context, en *entry, r *run, exit api.Exit) {
	spec, saved := en.instance().Spec, e.saved(en.id)
	// A VM's files tell a Stop that waits too how it ended.
	e.release(ctx, en, r, spec.AutoRemove && !exit.Reboot && spec.Kind == api.Container)
	restart := false
	end := func(rec *record) {
		st := &rec.Status
		if saved {
			suspended(rec)
			return
		}
		if exit.Time.Sub(st.Started) > restartSettled {
			rec.FailedRuns = 0
		}
		rec.FailedRuns++
		st.State, st.PID, st.Finished, st.OOM = api.Exited, 0, exit.Time.UTC(), exit.OOM
		st.Error, st.Health, st.Interfaces, st.Ports = exit.Error, api.HealthNone, nil, nil
		code := exit.Code
		st.ExitCode = &code
		if exit.Error != "" {
			st.State = api.Failed
		}
		// A machine that was told to stop may end with a reboot: it stays down.
		exit.Reboot = exit.Reboot && !st.Stopped
		rec.Rebooting = exit.Reboot
		crashed := exit.Crashed && !st.Stopped && rec.Spec.VM.OnCrash == api.CrashRestart
		if restart = exit.Reboot || crashed || wantsRestart(rec.Spec.Restart, *st); restart {
			st.State = api.Restarting
		} else if rec.Spec.AutoRemove {
			st.State = api.Removing
		}
	}
	if en.instance().Spec.AutoRemove && !exit.Reboot {
		// Its removal is all that is recorded: an engine that finds neither the run
		// nor this goes on with it.
		en.amend(end)
	} else if err := e.change(ctx, en, end); err != nil {
		e.log.Error("record the end of a run", "instance", en.name(), "error", err)
	}
	r.exit, r.suspended = exit, saved
	en.endRun(r)
	if saved {
		e.publish(en, "suspend", nil)
		return
	}
	e.publish(en, "exit", exitDetail(exit))
	switch {
	case restart:
		e.background(func(ctx context.Context) { e.restartLater(ctx, en) })
	case en.instance().Spec.AutoRemove:
		e.background(func(ctx context.Context) { e.autoRemove(ctx, en) })
	}
}

// endRun makes the run's end visible.
func (en *entry) endRun(r *run) {
	en.mu.Lock()
	defer en.mu.Unlock()
	if en.run == r {
		en.run = nil
	}
	close(r.ended)
	en.notify()
}

// release takes back what a run held; after the last run, it removes the instance's
// files beside that. Each step is tried even when another fails: what is left is found
// again by the next start or removal.
func (e *Engine) release(ctx context.Context, en *entry, r *run, last bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	step := func(what string, do func() error) {
		if err := do(); err != nil {
			e.log.Error(what, "instance", en.name(), "error", err)
		}
	}
	var beside sync.WaitGroup
	beside.Go(func() { step("detach it from its network", func() error { return e.releaseNetwork(ctx, en.id) }) })
	if last {
		beside.Go(func() { _ = os.RemoveAll(e.dir(en.id)) }) // remove tries again, and tells
	}
	step("delete its run", func() error { return r.handle.Delete(ctx) })
	// The run's mounts and files are not in use any more.
	e.releaseRootfs(r.prepared)
	step("remove its run directory", func() error { return os.RemoveAll(r.prepared.RunDir) })
	beside.Wait()
}

// wantsRestart applies a restart policy to an ended run.
func wantsRestart(p api.RestartPolicy, st api.Status) bool {
	if st.Stopped {
		return false
	}
	switch p.Mode {
	case api.RestartAlways, api.RestartUnlessStopped:
		return true
	case api.RestartOnFailure:
		failed := st.ExitCode == nil || *st.ExitCode != 0 || st.Error != ""
		return failed && (p.MaxRetries == 0 || st.Restarts < p.MaxRetries)
	}
	return false
}

// restartLater starts the instance again after its back-off, unless a user
// decided otherwise meanwhile.
func (e *Engine) restartLater(ctx context.Context, en *entry) {
	en.mu.Lock()
	failed := en.rec.FailedRuns
	en.mu.Unlock()
	delay := min(restartDelay<<min(failed-1, 10), restartDelayMax)
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return
	}
	unlock, err := en.lock(ctx)
	if err != nil {
		return
	}
	defer unlock()
	if en.snapshot().State != api.Restarting {
		return
	}
	err = e.start(ctx, en, func(r *record) {
		if !r.Rebooting { // its own wish, not the policy's
			r.Status.Restarts++
		}
	})
	if err == nil || ctx.Err() != nil {
		return
	}
	e.log.Error("restart", "instance", en.name(), "error", err)
	e.retryRestart(ctx, en)
}

// retryRestart keeps the policy going after a start that failed.
func (e *Engine) retryRestart(ctx context.Context, en *entry) {
	again := false
	err := e.change(ctx, en, func(r *record) {
		r.FailedRuns++
		if again = wantsRestart(r.Spec.Restart, r.Status); again {
			r.Status.State = api.Restarting
		}
	})
	switch {
	case err != nil:
	case again:
		e.background(func(ctx context.Context) { e.restartLater(ctx, en) })
	case en.instance().Spec.AutoRemove: // it was rebooting
		e.background(func(ctx context.Context) { e.autoRemove(ctx, en) })
	}
}

func (e *Engine) autoRemove(ctx context.Context, en *entry) {
	unlock, err := en.lock(ctx)
	if err != nil {
		return
	}
	defer unlock()
	if err := e.remove(ctx, en, RemoveOptions{Volumes: true}); err != nil {
		e.log.Error("remove an ended instance", "instance", en.name(), "error", err)
	}
}
