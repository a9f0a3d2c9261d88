package image

import (
	"context"
	"os"
	"path/filepath"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/qemu"
)

// DiskCommit says what a disk image of an instance's disk is.
type DiskCommit struct {
	Name string
	Base Image // that the instance's disk lies on
	// Overlay puts a qcow2 file at a path: what was written to the base.
	Overlay  func(path string) error
	Progress Progress
}

// CommitDisk makes a disk image of another and what was written to it, and returns its
// name. It starts as the other does.
func (s *Store) CommitDisk(ctx context.Context, c DiskCommit) (string, error) {
	name, err := s.commitDisk(ctx, c)
	return name, api.E("commit", "", c.Name, diskFull(err))
}

func (s *Store) commitDisk(ctx context.Context, c DiskCommit) (string, error) {
	name, err := tagName(c.Name)
	if err != nil {
		return "", err
	}
	ctx, done, err := s.work(ctx)
	if err != nil {
		return "", err
	}
	defer s.finish(ctx, done)
	dir, err := os.MkdirTemp(filepath.Join(s.root, "tmp"), "disk-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	overlay, base, raw := filepath.Join(dir, "overlay"), filepath.Join(dir, "base"), filepath.Join(dir, "raw")
	if err := c.Overlay(overlay); err != nil {
		return "", err
	}
	size, err := checkDiskFile(overlay, disk.Qcow2)
	if err != nil {
		return "", err
	}
	c.Progress.report("disk", StageConverting, 0, size)
	if err := disk.Clone(base, c.Base.Disk.Path); err != nil {
		return "", err
	}
	convert := qemu.Conversion{From: overlay, FromFormat: string(disk.Qcow2), Base: base, To: raw, ToFormat: string(disk.Raw), MaxFile: size}
	if err := s.convertDisk(ctx, dir, convert, c.Progress); err != nil {
		return "", err
	}
	if err := os.Truncate(raw, size); err != nil {
		return "", err
	}
	return Familiar(name), s.storeDisk(ctx, name, raw, DiskOptions{
		Name: c.Name, Format: disk.Raw, Firmware: c.Base.Disk.Firmware, Arch: c.Base.Arch, Agent: c.Base.Disk.Agent, Config: c.Base.Disk.Config, Progress: c.Progress,
	})
}
