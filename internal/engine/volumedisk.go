package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/docker/go-units"

	"github.com/berthcloud/berth/api"
)

const (
	// maxDisks is how many further disks a VM can have.
	maxDisks = 16
	// maxDisk is how large one can be, in bytes: what ext4 takes with blocks of 4 KiB
	// on every filesystem of a host (the ext4 of a host has files of 16 TiB at most).
	maxDisk = 16 << 40
)

func errDiskSize(n int64) error {
	size := func(n int64) string { return units.BytesSize(float64(n)) }
	return fmt.Errorf("a disk of %s is not within %s and %s", size(n), size(minDisk), size(maxDisk))
}

// validateDisk checks a further disk.
func validateDisk(s api.Spec, m api.Mount) error {
	switch {
	case s.Kind != api.VM:
		return fmt.Errorf("the disk %s: a container has files and no disks; mount a volume with -v, or make it a VM with --vm", m.Source)
	case m.Source == "" && m.Size == 0:
		return errors.New("a disk needs the name of one, or a size to make one of, as in --mount type=disk,source=data,size=10g")
	case m.Source != "" && !validName.MatchString(m.Source):
		return fmt.Errorf("volume name %q: use letters, digits, '_', '.' and '-'", m.Source)
	case m.Size != 0 && (m.Size < minDisk || m.Size > maxDisk):
		return errDiskSize(m.Size)
	}
	return nil
}

// prepareDisk returns the file of a disk and its size, and makes it where there is none.
// One that is to be mounted has a filesystem, unless something else was written to it.
func (e *Engine) prepareDisk(ctx context.Context, rec record, m api.Mount) (path string, size int64, err error) {
	if user := e.diskUser(rec.ID, m); user != "" {
		return "", 0, api.E("", api.InUse, m.Source, fmt.Errorf("%s runs with this disk, which one instance writes at a time: stop that first, or have both use it read-only", user))
	}
	v, err := e.storage.Volume(ctx, m.Source)
	if m.Size != 0 || err == nil && v.Size == 0 {
		var labels map[string]string
		if unnamed(rec.ID, m) {
			labels = map[string]string{ownerLabel: rec.ID}
		}
		var isNew bool
		if v, isNew, err = e.storage.CreateDisk(ctx, m.Source, m.Size, labels); isNew {
			e.announce("volume", "create", v.Name)
		}
	} else if api.IsKind(err, api.NotFound) {
		err = api.E("", api.NotFound, m.Source, errors.New("no such disk; make it with berth volume create --size, or say its size here, as in size=10g"))
	}
	if err == nil && m.Target != "" {
		err = e.storage.FormatDisk(ctx, v)
	}
	return v.Path, v.Size, err
}

// diskUser returns the name of another instance that runs, or will go on, with a disk, which one of the
// two would write; "" where there is none. Two that start at one moment are told apart
// by QEMU, which locks what it writes.
func (e *Engine) diskUser(id string, m api.Mount) string {
	for _, en := range e.entries() {
		inst := en.instance()
		if inst.ID == id || !inst.Status.State.Alive() && inst.Status.State != api.Suspended {
			continue
		}
		for _, other := range inst.Spec.Mounts {
			if other.Type == api.MountDisk && other.Source == m.Source && !(m.ReadOnly && other.ReadOnly) {
				return inst.Name
			}
		}
	}
	return ""
}
