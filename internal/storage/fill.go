package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/containerd/continuity/fs"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/oci/mount"
)

// fillDir is where a volume's first content grows until it is whole.
const fillDir = "_fill"

// Fill copies into an empty volume what the layers, bottom first, together
// have at target, with owners, modes and attributes. Where they have no
// directory there, or the volume is not empty, nothing happens. Symbolic links
// in target are followed as an instance would, within the layers
// (CVE-2022-23648). The content appears in one step: a fill that fails or is
// killed leaves the volume empty.
func (s *Storage) Fill(ctx context.Context, v api.Volume, layers []Layer, target string) error {
	merged, release, err := s.View(ctx, "fill-"+v.Name, layers)
	if err != nil {
		return api.E("fill volume", "", v.Name, err)
	}
	defer release()
	defer merged.Close()
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

// openInRoot opens a directory as a process sees it whose root is root.
func openInRoot(root *os.File, path string) (*os.File, error) {
	fd, err := mount.Root{FD: int(root.Fd())}.Open(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
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

// merge stacks mounted layers, bottom first, read-only and returns the root of
// the stack. It is mounted nowhere and goes with its last open file.
func merge(dirs []string) (*os.File, error) {
	if len(dirs) == 1 {
		return os.Open(dirs[0])
	}
	lower := slices.Clone(dirs)
	slices.Reverse(lower)
	stack := mount.Overlay{Lower: lower, Options: mount.Options{Set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID}}
	root, err := stack.Mount(-1, 0, 0)
	if err != nil {
		return nil, fmt.Errorf("stack %d layers: %w", len(dirs), err)
	}
	return os.NewFile(uintptr(root), "layers"), nil
}
