package engine

import (
	"context"
	"errors"
	"os"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/instance"
)

// baseOf returns the image that an instance was made from.
func (e *Engine) baseOf(ctx context.Context, ref string) (image.Image, error) {
	en, err := e.find(ref)
	if err != nil {
		return image.Image{}, err
	}
	en.mu.Lock()
	digest := en.rec.Digest
	en.mu.Unlock()
	return e.images.ResolveDigest(ctx, digest)
}

// commitDisk makes a disk image of an instance's disk. A machine that runs stands still,
// its disk at rest, while what was written is copied.
func (e *Engine) commitDisk(ctx context.Context, o CommitOptions, base image.Image, report func(api.Progress)) (string, error) {
	if o.Author != "" || o.Message != "" {
		return "", api.E("commit", api.Unsupported, o.Ref, errors.New("a disk image has no history to keep an author or a message in; leave them out"))
	}
	en, err := e.find(o.Ref)
	if err != nil {
		return "", err
	}
	unlock, err := en.lock(ctx)
	if err != nil {
		return "", api.E("commit", "", o.Ref, err)
	}
	defer unlock()
	name, err := e.images.CommitDisk(ctx, image.DiskCommit{
		Name: o.Image, Base: base, Progress: report,
		Overlay: func(to string) error { return e.copyDisk(ctx, en, base, to) },
	})
	return name, api.E("commit", "", en.name(), err)
}

// copyDisk copies what an instance has written to its disk.
func (e *Engine) copyDisk(ctx context.Context, en *entry, base image.Image, to string) error {
	en.mu.Lock()
	rec, run := en.rec, en.run
	en.mu.Unlock()
	var err error
	thaw := func() error { return nil }
	if run != nil {
		if f, ok := run.handle.(instance.Freezer); ok {
			if thaw, err = f.Freeze(ctx); err != nil {
				return err
			}
		}
	}
	if rec.Status.State == api.Suspended {
		return errSuspended("", rec.Name)
	}
	err = disk.Clone(to, e.rootfs(rec, base).Disk)
	if errors.Is(err, os.ErrNotExist) {
		err = api.E("", api.Conflict, "", errors.New("it was never started and is as its image is; give that a further name with 'berth image tag'"))
	}
	return errors.Join(err, thaw())
}
