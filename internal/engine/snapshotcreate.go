package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// SnapshotOptions say what a snapshot is to be.
type SnapshotOptions struct {
	Name    string // "" for the first that is free of snap0, snap1 and so on
	Volumes bool   // of one that runs, the further disks too that it writes to
}

// CreateSnapshot keeps an instance as it is now. What runs stands still meanwhile.
func (e *Engine) CreateSnapshot(ctx context.Context, ref string, o SnapshotOptions) (api.Snapshot, error) {
	const op = "snapshot"
	name := o.Name
	en, unlock, err := e.lockRef(ctx, op, ref)
	if err != nil {
		return api.Snapshot{}, err
	}
	defer unlock()
	fail := func(kind api.ErrorKind, err error) (api.Snapshot, error) {
		return api.Snapshot{}, api.E(op, kind, en.name(), err)
	}
	list, err := e.snapshots(en.id)
	if err != nil {
		return fail("", err)
	}
	has := func(name string) bool {
		return slices.ContainsFunc(list, func(s api.Snapshot) bool { return s.Name == name })
	}
	for i := 0; name == "" || i > 0 && has(name); i++ {
		name = fmt.Sprintf("snap%d", i)
	}
	switch {
	case !validSnapshot.MatchString(name):
		return fail(api.Invalid, fmt.Errorf("snapshot name %q: use 1 to 63 letters, digits, '_' and '-', a letter or digit first", name))
	case has(name):
		return fail(api.Exists, fmt.Errorf("it has a snapshot %s: choose another name, or 'berth snapshot rm %s %s'", name, en.name(), name))
	}
	dir := e.snapshotDir(en.id, name)
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return fail(api.Exhausted, err)
	}
	if err := e.saveTo(ctx, en, dir, o); err != nil {
		return fail("", err)
	}
	e.publish(en, "snapshot", map[string]string{"snapshot": name})
	return readSnapshot(dir)
}

// saveTo saves an instance with its disks. The caller holds entry.op.
func (e *Engine) saveTo(ctx context.Context, en *entry, dir string, o SnapshotOptions) error {
	inst := en.instance()
	if inst.Status.State == api.Suspended {
		return errSuspended("", "")
	}
	if inst.Spec.Kind == api.Container {
		return api.E("", api.Unsupported, "", errors.New("snapshots are of VMs: 'berth commit' makes an image of what a container has changed"))
	}
	if en.currentRun() != nil {
		saver, _, err := en.saver("", api.Running, api.Paused)
		if err != nil {
			return err
		}
		return saver.Save(ctx, dir, instance.SaveOptions{Disks: true, Volumes: o.Volumes})
	}
	if o.Volumes {
		return api.E("", api.Conflict, "", errors.New("it does not run, and volumes are saved with the memory that fits them: leave --volumes out, or start it first"))
	}
	saver, p, err := e.diskSaver(ctx, en)
	if err != nil {
		return err
	}
	return saver.SaveDisks(ctx, p, dir)
}
