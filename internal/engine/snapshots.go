package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/instance"
)

// A snapshot is a saved run with its disks, or of an instance at rest the disks alone:
//
//	ROOT/instances/ID/snapshots/NAME/      appears and goes by a rename
//
// To restore one is to suspend the instance in that state: a copy of the snapshot takes
// the name that makes it suspended, the present run ends, and the next one goes on from
// there. A kill leaves the instance as it was, or suspended.

// validSnapshot is what a snapshot is called. What has a dot is being made or removed.
var validSnapshot = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]{0,62}$`)

func (e *Engine) snapshotDir(id, name string) string {
	return filepath.Join(e.dir(id), "snapshots", name)
}

// CreateSnapshot keeps an instance as it is now, under a name or, without one, under the
// first that is free of snap0, snap1 and so on. What runs stands still meanwhile.
func (e *Engine) CreateSnapshot(ctx context.Context, ref, name string) (api.Snapshot, error) {
	const op = "snapshot"
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
	if err := e.saveTo(ctx, en, dir); err != nil {
		return fail("", err)
	}
	e.publish(en, "snapshot", map[string]string{"snapshot": name})
	return readSnapshot(dir)
}

// saveTo saves an instance with its disks. The caller holds entry.op.
func (e *Engine) saveTo(ctx context.Context, en *entry, dir string) error {
	inst := en.instance()
	if inst.Status.State == api.Suspended {
		return errSuspended("", "")
	}
	if inst.Spec.Kind == api.Container {
		return api.E("", api.Unsupported, "", errors.New("snapshots are of VMs: 'berth commit' makes an image of what a container has changed"))
	}
	if en.currentRun() != nil {
		saver, _, err := en.saver("")
		if err != nil {
			return err
		}
		return saver.Save(ctx, dir, instance.SaveOptions{Disks: true})
	}
	saver, p, err := e.diskSaver(ctx, en)
	if err != nil {
		return err
	}
	return saver.SaveDisks(ctx, p, dir)
}

// diskSaver returns the driver of an instance and what it knows of the instance at rest.
func (e *Engine) diskSaver(ctx context.Context, en *entry) (instance.DiskSaver, *instance.Prepared, error) {
	en.mu.Lock()
	rec := en.rec
	en.mu.Unlock()
	driver, err := e.driver(rec.Spec.Kind)
	if err != nil {
		return nil, nil, err
	}
	saver, ok := driver.(instance.DiskSaver)
	if !ok {
		return nil, nil, cannot("", rec.Instance)
	}
	img, err := e.images.ResolveDigest(ctx, rec.Digest)
	if err != nil {
		return nil, nil, err
	}
	p, err := e.outline(rec, img)
	return saver, p, err
}

// Snapshots lists the snapshots of an instance, the oldest first.
func (e *Engine) Snapshots(_ context.Context, ref string) ([]api.Snapshot, error) {
	en, err := e.find(ref)
	if err != nil {
		return nil, err
	}
	list, err := e.snapshots(en.id)
	return list, api.E("list snapshots", "", en.name(), err)
}

func (e *Engine) snapshots(id string) ([]api.Snapshot, error) {
	entries, err := os.ReadDir(e.snapshotDir(id, ""))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var list []api.Snapshot
	for _, entry := range entries {
		if !validSnapshot.MatchString(entry.Name()) {
			continue
		}
		s, err := readSnapshot(e.snapshotDir(id, entry.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b api.Snapshot) int { return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Name, b.Name)) })
	return list, nil
}

// readSnapshot looks at a snapshot's directory.
func readSnapshot(dir string) (api.Snapshot, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return api.Snapshot{}, err
	}
	s := api.Snapshot{Name: filepath.Base(dir), Created: info.ModTime().UTC()}
	entries, err := os.ReadDir(dir)
	for _, entry := range entries {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, entry.Name()), &st); err == nil {
			s.Size += st.Blocks * 512
		}
		s.Memory = s.Memory || entry.Name() == instance.SavedState
	}
	return s, err
}

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

// copySaved makes a saved directory out of another. The state is nobody's to write and
// is shared.
func copySaved(to, from string) error {
	partial := to + ".new"
	if err := os.RemoveAll(partial); err != nil {
		return err
	}
	err := os.Mkdir(partial, 0o700)
	entries, rerr := os.ReadDir(from)
	err = errors.Join(err, rerr)
	for _, entry := range entries {
		if err != nil {
			break
		}
		source, target := filepath.Join(from, entry.Name()), filepath.Join(partial, entry.Name())
		if entry.Name() == instance.SavedState {
			err = os.Link(source, target)
		} else {
			err = disk.Clone(target, source)
		}
	}
	if err == nil {
		err = disk.SyncTree(partial)
	}
	if err == nil {
		err = os.Rename(partial, to)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(partial))
	}
	return disk.Sync(filepath.Dir(to))
}

// RemoveSnapshot removes a snapshot and gives back its space.
func (e *Engine) RemoveSnapshot(ctx context.Context, ref, name string) error {
	const op = "remove snapshot"
	en, unlock, err := e.lockRef(ctx, op, ref)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := e.snapshot(en, name); err != nil {
		return api.E(op, "", en.name(), err)
	}
	dir := e.snapshotDir(en.id, name)
	old := dir + ".old" // half a snapshot is none
	if err := errors.Join(os.RemoveAll(old), os.Rename(dir, old), os.RemoveAll(old)); err != nil {
		return api.E(op, "", en.name(), err)
	}
	e.publish(en, "snapshot-remove", map[string]string{"snapshot": name})
	return nil
}

// snapshot finds one.
func (e *Engine) snapshot(en *entry, name string) (api.Snapshot, error) {
	if !validSnapshot.MatchString(name) {
		return api.Snapshot{}, api.E("", api.Invalid, "", fmt.Errorf("%q is no name of a snapshot", name))
	}
	s, err := readSnapshot(e.snapshotDir(en.id, name))
	if errors.Is(err, os.ErrNotExist) {
		err = api.E("", api.NotFound, "", fmt.Errorf("it has no snapshot %s: 'berth snapshot ls %s' lists them", name, en.name()))
	}
	return s, err
}

// sweepSnapshots removes what is left of saved runs and snapshots that were being made or removed when
// the engine before this one ended.
func (e *Engine) sweepSnapshots(id string) error {
	saved := e.savedDir(id)
	if err := errors.Join(os.RemoveAll(saved+".new"), os.RemoveAll(saved+".old")); err != nil {
		return err
	}
	entries, err := os.ReadDir(e.snapshotDir(id, ""))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, entry := range entries {
		if strings.Contains(entry.Name(), ".") {
			err = errors.Join(err, os.RemoveAll(e.snapshotDir(id, entry.Name())))
		}
	}
	return err
}

// lockRef begins a lifecycle operation on the instance that ref names.
func (e *Engine) lockRef(ctx context.Context, op, ref string) (*entry, func(), error) {
	en, err := e.find(ref)
	if err != nil {
		return nil, nil, err
	}
	unlock, err := en.lock(ctx)
	return en, unlock, api.E(op, "", ref, err)
}
