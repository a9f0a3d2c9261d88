package engine

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/berthcloud/berth/api"
)

// RemoveOptions say what Remove may do beyond removing an ended instance.
type RemoveOptions struct {
	Force   bool // end it first
	Volumes bool // remove its unnamed volumes too
}

// Remove deletes an instance with its writable layer, its log and its record.
func (e *Engine) Remove(ctx context.Context, ref string, o RemoveOptions) error {
	en, err := e.find(ref)
	if err != nil {
		return err
	}
	unlock, err := en.lock(ctx)
	if err != nil {
		return api.E("remove", "", ref, err)
	}
	defer unlock()
	if en.currentRun() != nil {
		if !o.Force {
			return api.E("remove", api.Conflict, en.name(), errors.New("it is running; stop it first, or use --force"))
		}
		none := time.Duration(0)
		if err := e.stop(ctx, en, StopOptions{Signal: "KILL", Timeout: &none}); err != nil {
			return err
		}
	} else if en.snapshot().State == api.Suspended && !o.Force {
		return errSuspended("remove", en.name())
	}
	return e.remove(ctx, en, o)
}

// remove is called with entry.op held, of an instance without a run. It may be
// repeated after a failure or a crash: the record goes last.
func (e *Engine) remove(ctx context.Context, en *entry, o RemoveOptions) error {
	if en.isRemoved() {
		return nil
	}
	if err := e.endLost(ctx, en); err != nil {
		return api.E("remove", "", en.name(), err)
	}
	if en.snapshot().State != api.Removing {
		if err := e.change(ctx, en, func(r *record) { r.Status.State = api.Removing }); err != nil {
			return err
		}
	}
	inst := en.instance()
	if err := e.removeUnnamedVolumes(ctx, inst, o.Volumes); err != nil {
		return err
	}
	err := errors.Join(os.RemoveAll(e.runDir(en.id)), os.RemoveAll(e.dir(en.id)), e.releaseNetwork(ctx, en.id)) // it may have been suspended
	if err != nil {
		return api.E("remove", "", inst.Name, err)
	}
	e.publish(en, "remove", nil)
	if err := e.forget(ctx, en); err != nil {
		return err
	}
	en.failPending(notFound(inst.Name))
	e.images.Release(en.id)
	return nil
}

// Rename gives an instance another name.
func (e *Engine) Rename(ctx context.Context, ref, name string) error {
	en, err := e.find(ref)
	if err != nil {
		return err
	}
	if !validName.MatchString(name) {
		return api.E("rename", api.Invalid, name, errors.New("a name has 1 to 63 letters, digits, '_', '.' and '-', and begins with a letter or digit"))
	}
	unlock, err := en.lock(ctx)
	if err != nil {
		return api.E("rename", "", ref, err)
	}
	defer unlock()
	old := en.name()
	if err := e.moveName(en, old, name); err != nil {
		return err
	}
	if err := e.change(ctx, en, func(r *record) { r.Name, r.Spec.Name = name, name }); err != nil {
		return errors.Join(err, e.moveName(en, name, old))
	}
	if err := e.renameNetwork(ctx, en, name); err != nil {
		e.log.Warn("rename on the network", "instance", name, "error", err)
	}
	e.publish(en, "rename", map[string]string{"old": old})
	return nil
}

func (e *Engine) moveName(en *entry, old, name string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if other, ok := e.byName[name]; ok && other != en {
		return nameTaken(name, other.id)
	}
	delete(e.byName, old)
	e.byName[name] = en
	return nil
}
