package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/docker/go-units"

	"github.com/berthcloud/berth/api"
)

// Changes are what Update can change; nil fields stay as they are, and so do
// the zero fields of Limits.
type Changes struct {
	Limits  *api.Limits
	Restart *api.RestartPolicy
}

// Update changes the limits or the restart policy of an instance, live where
// it runs.
func (e *Engine) Update(ctx context.Context, ref string, c Changes) (api.Instance, error) {
	en, err := e.find(ref)
	if err != nil {
		return api.Instance{}, err
	}
	unlock, err := en.lock(ctx)
	if err != nil {
		return api.Instance{}, api.E("update", "", ref, err)
	}
	defer unlock()
	spec := en.instance().Spec
	if c.Limits != nil && en.snapshot().State == api.Suspended {
		return api.Instance{}, errSuspended("update", spec.Name)
	}
	disk := spec.Limits.Disk
	if c.Restart != nil {
		spec.Restart = *c.Restart
	}
	if c.Limits != nil {
		spec.Limits = overlayLimits(spec.Limits, *c.Limits)
	}
	if err := e.validate(spec); err != nil {
		return api.Instance{}, api.E("update", api.Invalid, spec.Name, err)
	}
	if spec.Limits.Disk < disk {
		return api.Instance{}, api.E("update", api.Invalid, spec.Name, fmt.Errorf("its disk of %s cannot shrink to %s: ask for more, or make another instance",
			units.BytesSize(float64(disk)), units.BytesSize(float64(spec.Limits.Disk))))
	}
	if r := en.currentRun(); r != nil && c.Limits != nil {
		if err := e.updateRun(ctx, en, r, spec); err != nil {
			return api.Instance{}, api.E("update", "", spec.Name, err)
		}
	}
	err = e.change(ctx, en, func(r *record) {
		r.Spec.Limits, r.Spec.Restart = spec.Limits, spec.Restart
		if r.Status.State == api.Restarting && !wantsRestart(spec.Restart, r.Status) {
			r.Status.State = api.Exited
		}
	})
	e.publish(en, "update", nil)
	return en.instance(), err
}

// updateRun changes the limits of what runs.
func (e *Engine) updateRun(ctx context.Context, en *entry, r *run, spec api.Spec) (err error) {
	if old := en.instance().Spec.Limits.Disk; spec.Limits.Disk > old {
		size := func(n int64) error {
			return e.change(ctx, en, func(rec *record) { rec.Spec.Limits.Disk = n })
		}
		// What a disk was given is never taken back, so it is recorded before: whatever
		// is cut off after that, the next run has a disk of that size.
		if err := size(spec.Limits.Disk); err != nil {
			return err
		}
		defer func() {
			if api.IsKind(err, api.Unsupported) { // it was not given
				err = errors.Join(err, size(old))
			}
		}()
	}
	if err := r.handle.Update(ctx, spec.Limits); err != nil {
		return err
	}
	return e.limitNetwork(ctx, en.id, spec)
}

// overlayLimits lays the non-zero fields of change over l.
func overlayLimits(l, change api.Limits) api.Limits {
	set := func(dst *int64, v int64) {
		if v != 0 {
			*dst = v
		}
	}
	if change.CPUs != 0 {
		l.CPUs = change.CPUs
	}
	if change.CPUWeight != 0 {
		l.CPUWeight = change.CPUWeight
	}
	if change.CPUSet != "" {
		l.CPUSet = change.CPUSet
	}
	// A limit of memory and swap together that the new memory limit passes
	// moves with it: without swap before, without swap after.
	if change.Memory != 0 && change.MemorySwap == 0 && l.MemorySwap > 0 && l.MemorySwap < change.Memory {
		l.MemorySwap = change.Memory
	}
	set(&l.Memory, change.Memory)
	set(&l.MemorySwap, change.MemorySwap)
	set(&l.PIDs, change.PIDs)
	set(&l.Disk, change.Disk)
	rate := func(dst *api.Rate, r api.Rate) {
		if r != (api.Rate{}) {
			*dst = r
		}
	}
	rate(&l.DiskIOPS, change.DiskIOPS)
	rate(&l.DiskBandwidth, change.DiskBandwidth)
	rate(&l.NetBandwidth, change.NetBandwidth)
	return l
}

// Get returns an instance.
func (e *Engine) Get(_ context.Context, ref string) (api.Instance, error) {
	en, err := e.find(ref)
	if err != nil {
		return api.Instance{}, err
	}
	return en.instance(), nil
}

// Wait conditions.
const (
	WaitNotRunning = ""          // returns at once where it does not run
	WaitNextExit   = "next-exit" // the end of the run that is, or of the next one
	WaitRemoved    = "removed"   // until the instance is gone
)

// Wait blocks until the condition holds and returns how the last run ended.
func (e *Engine) Wait(ctx context.Context, ref, condition string) (api.Exit, error) {
	en, err := e.find(ref)
	if err != nil {
		return api.Exit{}, err
	}
	var cond func() bool
	switch condition {
	case WaitNotRunning:
		cond = func() bool {
			st := en.rec.Status.State
			return en.removed || en.run == nil && !st.Alive() && st != api.Restarting && st != api.Suspended
		}
	case WaitNextExit:
		finished := en.snapshot().Finished
		cond = func() bool { return en.removed || en.rec.Status.Finished.After(finished) }
	case WaitRemoved:
		cond = func() bool { return en.removed }
	default:
		return api.Exit{}, api.E("wait", api.Invalid, condition, errors.New("no such condition; use next-exit, removed or none"))
	}
	if err := en.await(ctx, cond); err != nil {
		return api.Exit{}, api.E("wait", "", ref, err)
	}
	return exitOf(en.snapshot()), nil
}

// exitOf reads the last run's end back from the status.
func exitOf(st api.Status) api.Exit {
	x := api.Exit{OOM: st.OOM, Error: st.Error, Time: st.Finished}
	if st.ExitCode != nil {
		x.Code = *st.ExitCode
	}
	return x
}
