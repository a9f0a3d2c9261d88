package engine

import (
	"context"
	"encoding/json"
	"os"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/storage"
	"github.com/berthcloud/berth/internal/store"
	"github.com/berthcloud/berth/internal/undo"
)

// Create records a new instance. Its image must be in the store, its name
// free, and its kind's driver must be able to run it; nothing is started.
func (e *Engine) Create(ctx context.Context, spec api.Spec) (_ api.Instance, err error) {
	id := newID()
	if spec, err = e.complete(spec, id); err != nil {
		return api.Instance{}, err
	}
	driver, err := e.driver(spec.Kind)
	if err != nil {
		return api.Instance{}, api.E("create", "", spec.Name, err)
	}
	if w, ok := driver.(instance.Warmer); ok {
		e.background(func(ctx context.Context) { _ = w.Warm(ctx) }) // a start finds out whether it matters
	}
	var u undo.Stack
	defer u.Run(ctx, &err)

	img, err := e.images.Resolve(ctx, spec.Image)
	if err != nil {
		return api.Instance{}, err
	}
	e.images.Hold(id, img.Digest)
	u.Add(func(context.Context) error { e.images.Release(id); return nil })

	spec.Mounts = nameVolumes(spec, img.Config, id)
	rec := record{Config: img.Config}
	rec.ID, rec.Name, rec.Created, rec.Spec, rec.Digest = id, spec.Name, time.Now().UTC(), spec, img.Digest
	rec.Revision = 1
	rec.Status.State = api.Created
	if spec.Kind == api.VM || !spec.Security.HostUsers {
		if rec.Users, err = e.allocateRange(); err != nil {
			return api.Instance{}, err
		}
		u.Add(func(context.Context) error { e.freeRange(rec.Users); return nil })
	}
	if err := e.planned(ctx, driver, rec, layersOf(img)); err != nil {
		return api.Instance{}, err
	}

	en := newEntry(rec)
	if err := e.index(en); err != nil {
		return api.Instance{}, err
	}
	u.Add(func(context.Context) error { e.unindex(en); return nil })
	if err := os.MkdirAll(e.dir(id), 0o700); err != nil {
		return api.Instance{}, api.E("create", api.Exhausted, spec.Name, err)
	}
	u.Add(func(context.Context) error { return os.RemoveAll(e.dir(id)) })
	if err := e.insert(ctx, rec); err != nil {
		return api.Instance{}, err
	}
	u.Release()
	e.publish(en, "create", map[string]string{"image": spec.Image, "kind": string(spec.Kind)})
	return en.instance(), nil
}

// planned has the driver plan the instance as far as it is known, so that what
// cannot work is refused at creation and not at the first start.
func (e *Engine) planned(ctx context.Context, d instance.Driver, rec record, layers []storage.Layer) error {
	p, err := e.outline(rec, layers)
	if err != nil {
		return api.E("create", api.Invalid, rec.Name, err)
	}
	if rec.Spec.Kind == api.VM {
		if err := e.prepareKernel(ctx, rec, p); err != nil {
			return api.E("create", "", rec.Name, err)
		}
	}
	_, err = d.Plan(p, e.host)
	return api.E("create", "", rec.Name, err)
}

// outline is what of a Prepared follows from the record and its image alone.
func (e *Engine) outline(rec record, layers []storage.Layer) (*instance.Prepared, error) {
	proc, err := process(rec.Spec, rec.Config, rec.ID)
	if err != nil {
		return nil, err
	}
	return &instance.Prepared{
		ID: rec.ID, Spec: rec.Spec, Process: proc, Rootfs: e.rootfs(rec, layers), Hostname: rec.Spec.Hostname, Users: rec.Users,
		Dir: e.dir(rec.ID), RunDir: e.runDir(rec.ID), LogPath: e.logPath(rec.ID), Cgroup: e.cgroup(rec.ID),
		HostNet: rec.Spec.Network.Name == api.NetworkHost,
	}, nil
}

func (e *Engine) insert(ctx context.Context, rec record) error {
	value, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	err = e.store.Update(ctx, func(w store.Writer) error { return w.Put(instancePrefix+rec.ID, value) })
	return api.E("create", api.Exhausted, rec.Name, err)
}
