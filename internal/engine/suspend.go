package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// An instance is suspended where its directory holds a saved run (Prepared.SavedDir):
// that, and no record, decides, so that there is no moment at which it is half so.
//
//	Suspend   the driver saves the run and ends it; its supervisor finds it saved
//	Start     the driver goes on from there, and it is not saved any more
//	adopt     what is saved is suspended, whatever the record says; a run that is
//	          still there has stood still since, or was to be replaced
//
// Its place on the network stays its own meanwhile: its guest knows its address.

// Suspend saves a running instance to disk and takes its memory back.
func (e *Engine) Suspend(ctx context.Context, ref string) error {
	en, err := e.find(ref)
	if err != nil {
		return err
	}
	unlock, err := en.lock(ctx)
	if err != nil {
		return api.E("suspend", "", ref, err)
	}
	defer unlock()
	saver, r, err := en.saver("suspend", api.Running)
	if err != nil {
		return err
	}
	if en.instance().Spec.AutoRemove {
		return api.E("suspend", api.Conflict, en.name(), errors.New("it is removed when it ends (--rm), and its disk need not survive the host; run it without --rm"))
	}
	if err := saver.Save(ctx, r.prepared.SavedDir(), instance.SaveOptions{End: true}); err != nil && !e.saved(en.id) {
		return api.E("suspend", "", en.name(), err)
	} else if err != nil {
		// It is saved, and must not go on: end it by the way that needs no word of its.
		e.log.Warn("end a run that is saved", "instance", en.name(), "error", err)
		if err := r.handle.Delete(context.WithoutCancel(ctx)); err != nil {
			return api.E("suspend", "", en.name(), err)
		}
	}
	return e.awaitEnd(context.WithoutCancel(ctx), en, r)
}

// saver returns the ability to save the present run, which has to be in one of the states.
func (en *entry) saver(op string, states ...api.State) (instance.Saver, *run, error) {
	h, err := en.handle(op)
	if err != nil {
		return nil, nil, err
	}
	inst := en.instance()
	s, ok := h.(instance.Saver)
	switch {
	case !ok:
		return nil, nil, api.E(op, api.Unsupported, inst.Name, errors.New("the memory of a container is not saved: 'berth pause' holds it still, and 'berth run --vm' makes a VM of the same image, which can be"))
	case !slices.Contains(states, inst.Status.State):
		return nil, nil, api.E(op, api.Conflict, inst.Name, errors.New("it is "+string(inst.Status.State)+", not running"))
	}
	return s, en.currentRun(), nil
}

// Resume lets a suspended instance go on from where it was saved.
func (e *Engine) Resume(ctx context.Context, ref string) (api.Instance, error) {
	en, err := e.find(ref)
	if err != nil {
		return api.Instance{}, err
	}
	unlock, err := en.lock(ctx)
	if err != nil {
		return api.Instance{}, api.E("resume", "", ref, err)
	}
	defer unlock()
	if state := en.snapshot().State; state != api.Suspended {
		return en.instance(), api.E("resume", api.Conflict, en.name(), errors.New("it is "+string(state)+", not suspended"))
	}
	err = e.start(ctx, en, wanted)
	return en.instance(), err
}

// saved reports whether an instance is suspended.
func (e *Engine) saved(id string) bool {
	_, err := os.Stat(e.savedDir(id))
	return err == nil
}

func (e *Engine) savedDir(id string) string { return filepath.Join(e.dir(id), instance.SavedName) }

// discard gives up what a suspended instance had in memory, as a power failure does.
// The caller holds entry.op.
func (e *Engine) discard(ctx context.Context, en *entry) error {
	en.failPending(api.E("kill", api.Conflict, en.name(), errors.New("it was suspended, and what it had in memory was given up")))
	return api.E("kill", "", en.name(), e.unsave(ctx, en))
}

// unsave makes an instance at rest of one that is suspended.
func (e *Engine) unsave(ctx context.Context, en *entry) error {
	dir := e.savedDir(en.id)
	old := dir + ".old" // half of it is nothing to go on from
	if err := errors.Join(os.RemoveAll(old), os.Rename(dir, old), os.RemoveAll(old)); err != nil {
		return err
	}
	err := e.change(ctx, en, func(r *record) {
		r.Status.State, r.Status.Stopped, r.Status.Error = api.Exited, true, ""
		r.Status.Interfaces, r.Status.Ports = nil, nil
	})
	return errors.Join(err, e.releaseNetwork(ctx, en.id))
}

// errSuspended is the way out for what a suspended instance cannot do.
func errSuspended(op, name string) error {
	return api.E(op, api.Conflict, name, errors.New("it is suspended: 'berth resume "+name+"' lets it go on, 'berth kill "+name+"' gives up what it had in memory"))
}

// adoptSuspended records that an instance is suspended, and ends the run that is left.
func (e *Engine) adoptSuspended(ctx context.Context, en *entry) error {
	if en.snapshot().State.Alive() {
		if handle, p, err := e.findRun(ctx, en); err == nil {
			e.release(ctx, en, &run{handle: handle, prepared: p, ended: make(chan struct{})}, false)
		}
	}
	err := os.RemoveAll(e.runDir(en.id)) // of another boot, for one
	if _, serr := os.Stat(filepath.Join(e.savedDir(en.id), instance.SavedState)); errors.Is(serr, os.ErrNotExist) {
		return errors.Join(err, e.settleDisks(ctx, en))
	}
	if err != nil || en.snapshot().State == api.Suspended {
		return err
	}
	return e.change(ctx, en, suspended)
}

// suspended records that a run is saved.
func suspended(r *record) {
	st := &r.Status
	st.State, st.PID, st.Error, st.Health, st.Notice = api.Suspended, 0, "", api.HealthNone, ""
}
