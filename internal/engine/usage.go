package engine

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/disk"
)

// Usage counts what there is, and what it takes of the disk.
func (e *Engine) Usage(ctx context.Context) (u api.Usage, err error) {
	var cached int64 // blobs of builds
	if u.Images, cached, err = e.images.Usage(ctx); err != nil {
		return u, err
	}
	for _, en := range e.entries() {
		size, err := disk.Allocated(ctx, e.dir(en.id))
		if err != nil {
			return u, api.E("count instances", "", en.name(), err)
		}
		state := en.snapshot().State
		u.Instances.Add(size, state.Alive() || state == api.Restarting || state == api.Suspended)
	}
	volumes, err := e.Volumes(ctx)
	if err != nil {
		return u, err
	}
	for _, v := range volumes {
		size, err := disk.Allocated(ctx, v.Path)
		if err != nil {
			return u, api.E("count volumes", "", v.Name, err)
		}
		u.Volumes.Add(size, len(v.Users) > 0)
	}
	templates, err := e.Templates(ctx)
	if err != nil {
		return u, err
	}
	used := map[string]bool{}
	for _, en := range e.entries() {
		if st := en.snapshot(); st.State.Alive() && st.Machine != nil {
			used[st.Machine.Template] = true
		}
	}
	for _, t := range templates {
		u.Templates.Add(t.Size, used[t.ID])
	}
	size := cached
	for _, name := range []string{"build", "build-vm"} {
		some, failed := disk.Allocated(ctx, filepath.Join(e.root, name))
		size, err = size+some, errors.Join(err, failed)
	}
	if size > 0 {
		u.BuildCache.Add(size, false)
	}
	return u, api.E("count the build cache", "", "", err)
}
