package storage

import (
	"context"
	"os"

	"github.com/berthcloud/berth/internal/undo"
)

// View mounts layers, bottom first, and returns the root of them all, read-only, which
// is mounted nowhere. The layers stay mounted for the holder until release is called.
func (s *Storage) View(ctx context.Context, holder string, layers []Layer) (root *os.File, release func(), err error) {
	var u undo.Stack
	defer u.Run(ctx, &err)
	dirs, err := s.Mount(ctx, holder, layers)
	if err != nil {
		return nil, nil, err
	}
	release = func() { s.Release(holder) }
	u.Add(func(context.Context) error { release(); return nil })
	if root, err = merge(dirs); err != nil {
		return nil, nil, err
	}
	u.Release()
	return root, release, nil
}
