package engine

import (
	"context"
	"os"
	"path/filepath"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/storage"
	"github.com/berthcloud/berth/internal/undo"
)

// defaultKernel is the guest kernel of a VM that names none.
const defaultKernel = "kernel/debian-cloud"

// prepareRootfs finds the image's layers and the writable layer. It returns
// the layers for whoever needs to look into them.
func (e *Engine) prepareRootfs(ctx context.Context, rec record, p *instance.Prepared, u *undo.Stack) ([]storage.Layer, error) {
	img, err := e.images.ResolveDigest(ctx, rec.Digest)
	if err != nil {
		return nil, err
	}
	layers := make([]storage.Layer, len(img.Layers))
	for i, l := range img.Layers {
		layers[i] = storage.Layer{Digest: l.EROFS, Path: l.Path}
	}
	if err := os.MkdirAll(p.Dir, 0o700); err != nil {
		return nil, api.E("start", api.Exhausted, rec.Name, err)
	}
	if rec.Spec.Kind == api.VM {
		for _, l := range layers {
			p.Rootfs.Layers = append(p.Rootfs.Layers, l.Path)
		}
		p.Rootfs.Disk, p.Rootfs.DiskSize = filepath.Join(p.Dir, "root.raw"), rec.Spec.Limits.Disk
		return layers, nil
	}
	p.Rootfs.Upper, p.Rootfs.Work = filepath.Join(p.Dir, "upper"), filepath.Join(p.Dir, "work")
	for _, dir := range []string{p.Rootfs.Upper, p.Rootfs.Work} {
		// The mode of upper is that of the container's root directory.
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, api.E("start", api.Exhausted, rec.Name, err)
		}
	}
	p.Rootfs.Layers, err = e.storage.Mount(ctx, rec.ID, layers)
	if err != nil {
		return nil, err
	}
	u.Add(func(ctx context.Context) error { return e.storage.Release(ctx, rec.ID) })
	return layers, nil
}

// releaseRootfs takes back what prepareRootfs acquired; the writable layer
// stays.
func (e *Engine) releaseRootfs(ctx context.Context, p *instance.Prepared) error {
	return e.storage.Release(ctx, p.ID)
}

// prepareKernel finds the guest kernel of a VM.
func (e *Engine) prepareKernel(ctx context.Context, rec record, p *instance.Prepared) error {
	name := first(rec.Spec.VM.Kernel, defaultKernel)
	k, err := e.images.Kernel(ctx, name)
	if api.IsKind(err, api.NotFound) {
		return errNoKernel(name, err)
	}
	if err != nil {
		return err
	}
	p.Kernel = instance.Kernel{Release: k.Release, Vmlinux: k.Vmlinux, Modules: k.Modules, Config: k.Config}
	return nil
}
