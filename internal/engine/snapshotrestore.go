package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/instance"
)

// RestoreSnapshot puts an instance back to where it was when a snapshot was made. One
// with memory goes on from there.
func (e *Engine) RestoreSnapshot(ctx context.Context, ref, name string) (api.Instance, error) {
	const op = "restore"
	en, unlock, err := e.lockRef(ctx, op, ref)
	if err != nil {
		return api.Instance{}, err
	}
	defer unlock()
	fail := func(kind api.ErrorKind, err error) (api.Instance, error) {
		return en.instance(), api.E(op, kind, en.name(), err)
	}
	s, err := e.snapshot(en, name)
	if err != nil {
		return fail("", err)
	}
	run := en.currentRun()
	switch state := en.snapshot().State; {
	case state == api.Suspended:
		return en.instance(), errSuspended(op, en.name())
	case state == api.Restarting || state == api.Removing:
		return fail(api.Conflict, fmt.Errorf("it is %s; stop it first", state))
	case !s.Memory && run != nil:
		return fail(api.Conflict, fmt.Errorf("snapshot %s has no memory to go on with: stop it first", name))
	}
	if err := e.canPutBack(ctx, en, s); err != nil {
		return fail("", err)
	}
	if err := copySaved(e.savedDir(en.id), e.snapshotDir(en.id, name)); err != nil {
		return fail(api.Exhausted, err)
	}
	// From here on it is suspended there, whatever happens.
	if run != nil {
		if err := run.handle.Delete(context.WithoutCancel(ctx)); err != nil {
			return fail("", err)
		}
		if err := e.awaitEnd(context.WithoutCancel(ctx), en, run); err != nil {
			return fail("", err)
		}
	} else if err := e.change(ctx, en, suspended); err != nil {
		return fail("", err)
	}
	e.publish(en, op, map[string]string{"snapshot": name})
	if s.Memory {
		err = e.start(ctx, en, wanted)
	} else {
		err = e.settleDisks(ctx, en)
	}
	if err != nil {
		return fail("", err)
	}
	return en.instance(), nil
}

// canPutBack refuses a snapshot with a volume that is not there any more as it was, or
// that another instance has now.
func (e *Engine) canPutBack(ctx context.Context, en *entry, s api.Snapshot) error {
	for _, name := range s.Volumes {
		v, err := e.storage.Volume(ctx, name)
		if err != nil {
			return err
		}
		saved, err := os.Stat(filepath.Join(e.snapshotDir(en.id, s.Name), instance.SavedVolume+name))
		if err != nil {
			return err
		}
		if saved.Size() != v.Size {
			return api.E("", api.Conflict, "", fmt.Errorf("snapshot %s has the disk %s with %d bytes, and it has %d now: it is another one", s.Name, name, saved.Size(), v.Size))
		}
		if user := e.diskUser(en.id, api.Mount{Type: api.MountDisk, Source: name}); user != "" {
			return api.E("", api.InUse, "", fmt.Errorf("snapshot %s puts the disk %s back, which %s runs with: stop that first", s.Name, name, user))
		}
	}
	return nil
}

// settleDisks makes disks that were saved without memory the instance's own.
func (e *Engine) settleDisks(ctx context.Context, en *entry) error {
	saver, p, err := e.diskSaver(ctx, en)
	if err != nil {
		return err
	}
	if err := saver.PutDisks(ctx, p, e.savedDir(en.id)); err != nil {
		return err
	}
	return e.unsave(ctx, en)
}

// copySaved makes a saved directory out of another.
func copySaved(to, from string) error {
	partial := to + ".new"
	if err := os.RemoveAll(partial); err != nil {
		return err
	}
	err := os.Mkdir(partial, 0o700)
	if err == nil {
		err = addSaved(partial, from)
	}
	if err == nil {
		err = os.Rename(partial, to)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(partial))
	}
	return disk.Sync(filepath.Dir(to))
}

// addSaved adds the files of one saved directory to another, for good. The state is
// nobody's to write and is shared.
func addSaved(to, from string) error {
	entries, err := os.ReadDir(from)
	for _, entry := range entries {
		if err != nil {
			return err
		}
		source, target := filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name())
		if entry.Name() == instance.SavedState {
			err = os.Link(source, target)
		} else {
			err = disk.Clone(target, source)
		}
	}
	return errors.Join(err, disk.SyncTree(to))
}
