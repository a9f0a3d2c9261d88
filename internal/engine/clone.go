package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/undo"
)

// CloneOptions say what a clone is to be.
type CloneOptions struct {
	Name     string // "" has one chosen
	Snapshot string // of the source, to begin from; "" for the source as it is now
}

// Clone makes a new VM that begins where another one is, or was when a snapshot of it was
// made: with its disk and, unless it was at rest, its memory. Name, addresses and keys are
// the clone's own. The source stands still for a moment, and is not changed.
//
// A clone is an instance that is suspended in a state of its source's, and resumed. Its
// record comes last, so that a kill leaves nothing, or an instance that is suspended.
func (e *Engine) Clone(ctx context.Context, ref string, o CloneOptions) (api.Instance, error) {
	en, err := e.makeClone(ctx, ref, o)
	if err != nil {
		return api.Instance{}, err
	}
	defer func() { en.op <- struct{}{} }()
	if en.snapshot().State != api.Suspended {
		return en.instance(), nil
	}
	if err := e.start(ctx, en, wanted); err != nil {
		return api.Instance{}, errors.Join(err, e.remove(context.WithoutCancel(ctx), en, RemoveOptions{Volumes: true}))
	}
	return en.instance(), nil
}

// makeClone records a clone: suspended, or at rest. The caller has the clone's entry.op,
// and gives it back.
func (e *Engine) makeClone(ctx context.Context, ref string, o CloneOptions) (_ *entry, err error) {
	const op = "clone"
	source, unlock, err := e.lockRef(ctx, op, ref)
	if err != nil {
		return nil, err
	}
	defer unlock()
	defer func() { err = api.E(op, "", source.name(), err) }()
	source.mu.Lock()
	rec := source.rec
	source.mu.Unlock()
	memory, err := e.cloneable(source, rec, o)
	if err != nil {
		return nil, err
	}
	var u undo.Stack
	defer u.Run(ctx, &err)
	if rec, err = e.cloneRecord(rec, o, memory, &u); err != nil {
		return nil, err
	}
	en := newEntry(rec)
	<-en.op
	if err := e.index(en); err != nil {
		return nil, err
	}
	u.Add(func(context.Context) error { e.unindex(en); return nil })
	if err := os.MkdirAll(e.dir(rec.ID), 0o700); err != nil {
		return nil, api.E("", api.Exhausted, "", err)
	}
	u.Add(func(context.Context) error { return os.RemoveAll(e.dir(rec.ID)) })
	if err := e.fillClone(ctx, source, en, o); err != nil {
		return nil, err
	}
	if err := disk.Sync(filepath.Dir(e.dir(rec.ID))); err != nil {
		return nil, err
	}
	if err := e.insert(ctx, rec); err != nil {
		return nil, err
	}
	u.Release()
	e.publish(en, "create", map[string]string{"image": rec.Spec.Image, "kind": string(rec.Spec.Kind), "source": source.name()})
	return en, nil
}

// cloneable says whether an instance can be cloned, and whether its memory comes along.
func (e *Engine) cloneable(en *entry, rec record, o CloneOptions) (memory bool, err error) {
	state := rec.Status.State
	memory = en.currentRun() != nil || state == api.Suspended
	if o.Snapshot != "" {
		s, err := e.snapshot(en, o.Snapshot)
		if err != nil {
			return false, err
		}
		memory = s.Memory
	}
	written := slices.IndexFunc(rec.Spec.Mounts, func(m api.Mount) bool { return m.Type == api.MountDisk && !m.ReadOnly })
	switch {
	case rec.Spec.Kind == api.Container:
		return false, api.E("", api.Unsupported, "", fmt.Errorf("clones are of VMs: 'berth commit %s IMAGE' makes an image of what a container has changed, and 'berth run IMAGE' another container of that", rec.Name))
	case state == api.Restarting || state == api.Removing || state == api.Starting:
		return false, api.E("", api.Conflict, "", fmt.Errorf("it is %s; try again when it is not", state))
	case rec.Spec.AutoRemove:
		return false, api.E("", api.Conflict, "", errors.New("it is removed when it ends (--rm), and its disk need not survive the host; run it without --rm"))
	case rec.Spec.VM.TPM:
		return false, api.E("", api.Unsupported, "", errors.New("it has a TPM, whose secrets two machines must not have: make another one of its image"))
	case memory && written >= 0:
		return false, api.E("", api.Unsupported, "", fmt.Errorf("it writes to the disk %s, a volume, which one VM has at a time, and its memory fits only that: stop it first, or have it use the disk read-only", rec.Spec.Mounts[written].Source))
	}
	return memory, nil
}

// cloneRecord is the record of a clone, with what only one instance can have made anew.
func (e *Engine) cloneRecord(source record, o CloneOptions, memory bool, u *undo.Stack) (rec record, err error) {
	id := newID()
	want := source.Spec
	want.Name, want.Hostname, want.Network = o.Name, "", unaddressed(want.Network)
	want.Mounts = slices.Clone(want.Mounts)
	for i, m := range want.Mounts {
		if unnamed(source.ID, m) {
			want.Mounts[i].Source = ""
		}
	}
	spec, err := e.complete(want, id)
	if err != nil {
		return rec, err
	}
	spec.Mounts = nameVolumes(spec, source.Config, id)
	rec = record{Config: source.Config, Arch: source.Arch, Cloned: true}
	rec.ID, rec.Name, rec.Created, rec.Spec, rec.Digest = id, spec.Name, time.Now().UTC(), spec, source.Digest
	rec.Revision, rec.Status.State = 1, api.Created
	if memory {
		rec.Status.State = api.Suspended
	}
	e.images.Hold(id, rec.Digest)
	u.Add(func(context.Context) error { e.images.Release(id); return nil })
	if rec.Users, err = e.allocateRange(spec.Kind); err != nil {
		return rec, err
	}
	u.Add(func(context.Context) error { e.freeRange(rec.Users); return nil })
	return rec, nil
}

// unaddressed is what an instance wants of the network without what only one can have:
// addresses, and fixed ports of the host, for which others are chosen.
func unaddressed(n api.NetworkSpec) api.NetworkSpec {
	n.Address, n.MAC, n.NICs, n.Publish = "", "", slices.Clone(n.NICs), slices.Clone(n.Publish)
	for i := range n.NICs {
		n.NICs[i].Address, n.NICs[i].MAC = "", ""
	}
	for i := range n.Publish {
		n.Publish[i].HostPort = 0
	}
	return n
}

// fillClone gives a clone its disks, and where it has memory the saved run that it goes on
// from. The caller holds entry.op of both.
func (e *Engine) fillClone(ctx context.Context, source, en *entry, o CloneOptions) error {
	dir := e.savedDir(en.id)
	run, state := source.currentRun(), source.snapshot().State
	switch {
	case o.Snapshot != "":
		if err := copySaved(dir, e.snapshotDir(source.id, o.Snapshot)); err != nil {
			return err
		}
	case run != nil:
		saver, _, err := source.saver("", api.Running, api.Paused)
		if err != nil {
			return err
		}
		return saver.Save(ctx, dir, instance.SaveOptions{Disks: true, Copy: true})
	default:
		saver, p, err := e.diskSaver(ctx, source)
		if err != nil {
			return err
		}
		if err := saver.SaveDisks(ctx, p, dir); err != nil {
			return err
		}
		if state == api.Suspended {
			if err := addSaved(dir, e.savedDir(source.id)); err != nil {
				return err
			}
		}
	}
	saver, p, err := e.diskSaver(ctx, en)
	if err != nil {
		return err
	}
	if en.snapshot().State == api.Suspended {
		return saver.Copyable(dir)
	}
	return errors.Join(saver.PutDisks(ctx, p, dir), os.RemoveAll(dir))
}
