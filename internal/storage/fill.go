package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/continuity/fs"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/undo"
)

// fillDir is where a volume's first content grows until it is whole.
const fillDir = "_fill"

// Fill copies into an empty volume what the layers, bottom first, together
// have at target, with owners, modes and attributes. Where they have no
// directory there, or the volume is not empty, nothing happens. Symbolic links
// in target are followed as an instance would, within the layers
// (CVE-2022-23648). The content appears in one step: a fill that fails or is
// killed leaves the volume empty.
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
	source, err := openInRoot(merged, target)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err != nil {
		return api.E("fill volume", "", v.Name, err)
	}
	defer source.Close()
	return api.E("fill volume", "", v.Name, fillFrom(source, v.Path))
}

// openInRoot opens a directory as a process sees it whose root is at root.
func openInRoot(root, path string) (*os.File, error) {
	at, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(at)
	fd, err := unix.Openat2(at, path, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// fillFrom makes data, if it is empty, a copy of the open directory source.
func fillFrom(source *os.File, data string) error {
	tmp := filepath.Join(filepath.Dir(data), fillDir)
	if err := os.RemoveAll(tmp); err != nil { // of one that was killed
		return err
	}
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return diskFull(err)
	}
	// The open directory is copied, not its name, which leads through links.
	err := fs.CopyDir(tmp, fmt.Sprintf("/proc/self/fd/%d/.", source.Fd()))
	if err == nil {
		// rename(2) replaces an empty directory, and no other. (os.Rename none.)
		if err = unix.Rename(tmp, data); err == nil {
			return nil
		}
	}
	if gone := os.RemoveAll(tmp); gone != nil {
		return errors.Join(err, gone)
	}
	if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST) {
		return nil
	}
	return diskFull(err)
}

func diskFull(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return api.E("", api.Exhausted, "", fmt.Errorf("no space left on the disk; free some (berth system prune) and try again: %w", err))
	}
	return err
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
