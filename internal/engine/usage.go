package engine

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"syscall"

	"github.com/berthcloud/berth/api"
)

// Usage counts what there is, and what it takes of the disk.
func (e *Engine) Usage(ctx context.Context) (u api.Usage, err error) {
	if u.Images, err = e.images.Usage(ctx); err != nil {
		return u, err
	}
	for _, en := range e.entries() {
		size, err := allocated(ctx, e.dir(en.id))
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
		size, err := allocated(ctx, v.Path)
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
	var size int64
	for _, name := range []string{"build", "build-vm"} {
		some, failed := allocated(ctx, filepath.Join(e.root, name))
		size, err = size+some, errors.Join(err, failed)
	}
	if size > 0 {
		u.BuildCache.Add(size, false)
	}
	return u, api.E("count the build cache", "", "", err)
}

// allocated returns what the files at and below a path take of the disk, in bytes; a file
// with several names there is counted once. What is missing takes nothing.
func allocated(ctx context.Context, path string) (sum int64, err error) {
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	err = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone meanwhile
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if st.Nlink > 1 && !d.IsDir() {
			id := inode{st.Dev, st.Ino}
			if seen[id] {
				return nil
			}
			seen[id] = true
		}
		sum += st.Blocks * 512
		return nil
	})
	return sum, err
}
