package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/continuity/fs"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/undo"
)

// Fill copies into a new volume what the layers, bottom first, together have
// at target. Where they have no directory there, the volume stays empty.
// Symbolic links in target are followed inside the layers only.
func (s *Storage) Fill(ctx context.Context, v api.Volume, layers []Layer, target string) (err error) {
	var u undo.Stack
	defer u.Run(ctx, &err)
	holder := "fill-" + v.Name
	dirs, err := s.Mount(ctx, holder, layers)
	if err != nil {
		return err
	}
	u.Add(func(ctx context.Context) error { return s.Release(ctx, holder) })
	merged, err := s.merge(dirs, &u)
	if err != nil {
		return api.E("fill volume", "", v.Name, err)
	}
	root, err := os.OpenRoot(merged)
	if err != nil {
		return api.E("fill volume", "", v.Name, err)
	}
	defer root.Close()
	source, err := root.Open(strings.TrimPrefix(filepath.Clean(target), "/"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return api.E("fill volume", "", v.Name, err)
	}
	defer source.Close()
	if info, err := source.Stat(); err != nil || !info.IsDir() {
		return err
	}
	// The open directory is copied, not its name, which leads through links.
	err = fs.CopyDir(v.Path, fmt.Sprintf("/proc/self/fd/%d/.", source.Fd()))
	return api.E("fill volume", api.Exhausted, v.Name, err)
}

// merge stacks mounted layers read-only and returns where. Nothing of it is
// left when u has run.
func (s *Storage) merge(dirs []string, u *undo.Stack) (string, error) {
	if len(dirs) == 1 {
		return dirs[0], nil
	}
	dir, err := os.MkdirTemp(s.run, "merge-")
	if err != nil {
		return "", err
	}
	u.Add(func(context.Context) error { return os.Remove(dir) })
	lower := slices.Clone(dirs)
	slices.Reverse(lower)
	if err := unix.Mount("overlay", dir, "overlay", layerFlags, "lowerdir="+strings.Join(lower, ":")); err != nil {
		return "", fmt.Errorf("stack %d layers: %w", len(dirs), err)
	}
	u.Add(func(context.Context) error { return unix.Unmount(dir, unix.MNT_DETACH) })
	return dir, nil
}
