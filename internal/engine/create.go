package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/store"
	"github.com/berthcloud/berth/internal/undo"
)

// Create records a new instance. Its image must be in the store, its name
// free, and its kind's driver must be able to run it; nothing is started.
func (e *Engine) Create(ctx context.Context, spec api.Spec) (api.Instance, error) {
	en, err := e.create(ctx, spec, api.Created)
	if err != nil {
		return api.Instance{}, err
	}
	en.op <- struct{}{}
	return en.instance(), nil
}

// Run makes an instance and starts it, with one record of both. Before the start it
// calls created, where that is not nil. Where the start fails, nothing is left of
// the instance.
func (e *Engine) Run(ctx context.Context, spec api.Spec, created func(api.Instance)) (api.Instance, error) {
	en, err := e.create(ctx, spec, api.Starting)
	if err != nil {
		return api.Instance{}, err
	}
	defer func() { en.op <- struct{}{} }()
	if created != nil {
		created(en.instance())
	}
	if err := e.launch(ctx, en); err != nil {
		err = api.E("start", "", en.name(), err)
		e.tellFailedStart(en, err)
		return api.Instance{}, errors.Join(err, e.remove(context.WithoutCancel(ctx), en, RemoveOptions{Volumes: true}))
	}
	return en.instance(), nil
}

// create records a new instance in a state, created or starting. The caller has
// entry.op, and gives it back.
func (e *Engine) create(ctx context.Context, want api.Spec, state api.State) (_ *entry, err error) {
	id := newID()
	spec, err := e.complete(want, id)
	if err != nil {
		return nil, err
	}
	img, err := e.images.Resolve(ctx, spec.Image)
	if err != nil {
		return nil, err
	}
	if spec, err = e.completeDisk(want, spec, id, img); err != nil {
		return nil, err
	}
	if _, err := e.networksOf(interfaces(spec.Network)); err != nil {
		return nil, api.E("create", "", spec.Name, err)
	}
	driver, err := e.driver(spec.Kind)
	if err != nil {
		return nil, api.E("create", "", spec.Name, err)
	}
	if w, ok := driver.(instance.Warmer); ok {
		e.background(func(ctx context.Context) { _ = w.Warm(ctx) }) // a start finds out whether it matters
	}
	var u undo.Stack
	defer u.Run(ctx, &err)

	if err := e.checkPlatform(spec, img); err != nil {
		return nil, api.E("create", "", spec.Name, err)
	}
	e.images.Hold(id, img.Digest)
	u.Add(func(context.Context) error { e.images.Release(id); return nil })

	spec.Mounts = nameVolumes(spec, img.Config, id)
	rec := record{Config: img.Config, Arch: img.Arch}
	rec.ID, rec.Name, rec.Created, rec.Spec, rec.Digest = id, spec.Name, time.Now().UTC(), spec, img.Digest
	rec.Revision = 1
	rec.Status.State = state
	if spec.Kind == api.VM || !spec.Security.HostUsers {
		if rec.Users, err = e.allocateRange(spec.Kind); err != nil {
			return nil, err
		}
		u.Add(func(context.Context) error { e.freeRange(rec.Users); return nil })
	}
	if state == api.Created { // a start plans it anyway
		if err := e.planned(ctx, driver, rec, img); err != nil {
			return nil, err
		}
	}

	en := newEntry(rec)
	<-en.op
	if err := e.index(en); err != nil {
		return nil, err
	}
	u.Add(func(context.Context) error { e.unindex(en); return nil })
	if err := os.MkdirAll(e.dir(id), 0o700); err != nil {
		return nil, api.E("create", api.Exhausted, spec.Name, err)
	}
	u.Add(func(context.Context) error { return os.RemoveAll(e.dir(id)) })
	if err := e.insert(ctx, rec); err != nil {
		return nil, err
	}
	u.Release()
	e.publish(en, "create", map[string]string{"image": spec.Image, "kind": string(spec.Kind)})
	return en, nil
}

// checkPlatform refuses an image that is not for the platform that was asked for,
// or that only a VM can run.
func (e *Engine) checkPlatform(spec api.Spec, img image.Image) error {
	if spec.Platform != "" {
		if want := image.Arch(spec.Platform); want != img.Arch {
			return api.E("", api.NotFound, spec.Image, fmt.Errorf("it is here for linux/%s and not for linux/%s; get that with berth pull --platform linux/%s", img.Arch, want, want))
		}
	}
	if spec.Kind == api.Container && img.Arch != e.host.Arch {
		return api.E("", api.Unsupported, spec.Image, fmt.Errorf("it is for %s, and a container runs on the host's processor, which is %s; make it a VM with --vm", img.Arch, e.host.Arch))
	}
	return nil
}

// planned has the driver plan the instance as far as it is known, so that what
// cannot work is refused at creation and not at the first start.
func (e *Engine) planned(ctx context.Context, d instance.Driver, rec record, img image.Image) error {
	p, err := e.outline(rec, img)
	if err != nil {
		return api.E("create", api.Invalid, rec.Name, err)
	}
	if rec.Spec.Kind == api.VM {
		p.Mounts = rec.outlineMounts()
		if err := e.prepareKernel(ctx, rec, p); err != nil {
			return api.E("create", "", rec.Name, err)
		}
	}
	_, err = d.Plan(p, e.host)
	return api.E("create", "", rec.Name, err)
}

// outline is what of a Prepared follows from the record and its image alone.
func (e *Engine) outline(rec record, img image.Image) (*instance.Prepared, error) {
	read := process
	if img.Disk != nil {
		read = diskProcess
	}
	proc, err := read(rec.Spec, rec.Config, rec.ID)
	if err != nil {
		return nil, err
	}
	return &instance.Prepared{
		ID: rec.ID, Spec: rec.Spec, Arch: rec.Arch, Cloned: rec.Cloned, Process: proc, Rootfs: e.rootfs(rec, img), Hostname: rec.Spec.Hostname, Users: rec.Users,
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
