package engine

import (
	"context"
	"errors"
	"io"
	"slices"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/instance"
)

// CommitOptions say what to make an image of, and what to call it.
type CommitOptions struct {
	Ref     string // of an instance
	Image   string
	Author  string
	Message string
}

// StartCommit begins to make an image of what an instance has changed in its root
// filesystem. Nothing else can be done with the instance meanwhile, and what it runs is
// held still.
func (e *Engine) StartCommit(_ context.Context, o CommitOptions) (api.Operation, error) {
	if _, err := e.find(o.Ref); err != nil {
		return api.Operation{}, err
	}
	if err := image.CheckTag(o.Image); err != nil {
		return api.Operation{}, api.E("commit", "", o.Ref, err)
	}
	return e.begin("commit", o.Ref, func(ctx context.Context, report func(api.Progress)) (string, error) {
		base, err := e.baseOf(ctx, o.Ref)
		if err != nil {
			return "", err
		}
		if base.Disk != nil {
			return e.commitDisk(ctx, o, base, report)
		}
		var name string
		err = e.withLayer(ctx, o.Ref, "commit", false, func(rec record, tar io.Reader) (err error) {
			name, err = e.images.Commit(ctx, tar, image.CommitOptions{
				Base: rec.Digest, Name: o.Image, By: "berth commit of " + rec.Name, Author: o.Author, Message: o.Message,
				Config: committed(rec.Spec, rec.Config), Progress: report,
			})
			return err
		})
		return name, err
	})
}

// committed is how an instance of the image runs: as the one it was made of does.
func committed(s api.Spec, c api.ImageConfig) api.ImageConfig {
	c.Entrypoint, c.Command = commandLine(s, c)
	c.Env = setVariables(slices.Clone(c.Env), s.Env)
	c.User, c.WorkingDir, c.StopSignal = first(s.User, c.User), first(s.WorkingDir, c.WorkingDir), first(s.StopSignal, c.StopSignal)
	return c
}

// errEnough ends a driver's stream whose reader needs no more of it.
var errEnough = errors.New("nobody reads the layer any more")

// withLayer hands what an instance has changed to read, as the layer of an OCI image or
// with namesOnly as its headers. Its stream ends with an error where the instance could
// not tell all.
func (e *Engine) withLayer(ctx context.Context, ref, op string, namesOnly bool, read func(record, io.Reader) error) error {
	en, err := e.find(ref)
	if err != nil {
		return err
	}
	unlock, err := en.lock(ctx)
	if err != nil {
		return api.E(op, "", ref, err)
	}
	defer unlock()
	inst := en.instance()
	driver, err := e.driver(inst.Spec.Kind)
	if err != nil {
		return err
	}
	layerer, ok := driver.(instance.Layerer)
	if !ok {
		return cannot(op, inst)
	}
	en.mu.Lock()
	rec, run := en.rec, en.run
	en.mu.Unlock()
	img, err := e.images.ResolveDigest(ctx, rec.Digest)
	if err == nil && img.Disk != nil {
		err = api.E("", api.Unsupported, "", errors.New("it starts from a disk, and what it has changed there is no layer"))
	}
	if err != nil {
		return api.E(op, "", inst.Name, err)
	}
	err = e.withRun(ctx, rec, run, img, layerer.LayerAtRest(), func(p *instance.Prepared, h instance.Handle) error {
		return pipeLayer(ctx, layerer, p, h, namesOnly, func(tar io.Reader) error { return read(rec, tar) })
	})
	return api.E(op, "", inst.Name, err)
}

// withRun hands use the run of an instance: nil for one at rest where that will do, else
// an idle one.
func (e *Engine) withRun(ctx context.Context, rec record, r *run, img image.Image, atRest bool, use func(*instance.Prepared, instance.Handle) error) error {
	switch {
	case r != nil:
		return use(r.prepared, r.handle)
	case !atRest:
		return e.idle(ctx, rec, img, use)
	}
	p, err := e.outline(rec, img)
	if err != nil {
		return err
	}
	return use(p, nil)
}

// pipeLayer has read read what the driver writes.
func pipeLayer(ctx context.Context, l instance.Layerer, p *instance.Prepared, h instance.Handle, namesOnly bool, read func(io.Reader) error) error {
	return pipe(func(w io.Writer) error { return l.Layer(ctx, p, h, namesOnly, w) }, read)
}

// pipe has read read what write writes, up to an end that comes when write has returned.
func pipe(write func(io.Writer) error, read func(io.Reader) error) error {
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := write(w)
		w.CloseWithError(err)
		written <- err
	}()
	err := read(r)
	r.CloseWithError(errEnough)
	if failed := <-written; failed != nil && !errors.Is(failed, errEnough) {
		err = failed // the cause of what the reader says
	}
	return err
}
