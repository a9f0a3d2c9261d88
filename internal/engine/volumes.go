package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/storage"
)

// ownerLabel marks an unnamed volume with the instance it was made for: it
// goes with the instance when the user says so.
const ownerLabel = "berth/instance"

// defaultTmpfs is the size of a tmpfs of an instance without a memory limit.
const defaultTmpfs = 64 << 20

// nameVolumes gives the unnamed volumes of a specification, and those that the
// image declares beyond its mounts, the names they will have.
func nameVolumes(s api.Spec, c api.ImageConfig, id string) []api.Mount {
	mounts := slices.Clone(s.Mounts)
	for _, target := range c.Volumes {
		covered := slices.ContainsFunc(mounts, func(m api.Mount) bool { return path.Clean(m.Target) == path.Clean(target) })
		if path.IsAbs(target) && path.Clean(target) != "/" && !covered {
			mounts = append(mounts, api.Mount{Type: api.MountVolume, Target: path.Clean(target)})
		}
	}
	for i, m := range mounts {
		if isVolume(m) && m.Source == "" {
			mounts[i].Source = fmt.Sprintf("%s-%d", id[:32], i)
		}
	}
	return mounts
}

// isVolume reports whether a mount is of a volume, be it a file tree or a disk.
func isVolume(m api.Mount) bool { return m.Type == api.MountVolume || m.Type == api.MountDisk }

// unnamed reports whether nameVolumes made up this volume's name.
func unnamed(id string, m api.Mount) bool {
	return isVolume(m) && strings.HasPrefix(m.Source, id[:32]+"-")
}

// prepareMounts resolves the sources of an instance's mounts, and makes the
// volumes that do not exist.
func (e *Engine) prepareMounts(ctx context.Context, rec record, p *instance.Prepared, layers []storage.Layer) error {
	for _, m := range slices.Concat(initMounts(rec.Spec), rec.Spec.Mounts) {
		out := instance.Mount{Type: m.Type, Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly, Size: m.Size, Mode: m.Mode}
		if m.Target != "" {
			out.Target = path.Clean(m.Target)
		}
		var err error
		switch m.Type {
		case api.MountBind:
			err = checkBindSource(m.Source)
		case api.MountVolume:
			out.Source, err = e.prepareVolume(ctx, rec, m, layers)
		case api.MountDisk:
			out.Name = m.Source
			out.Source, out.Size, err = e.prepareDisk(ctx, rec, m)
		case api.MountTmpfs:
			completeTmpfs(&out, rec.Spec.Limits.Memory)
		}
		if err != nil {
			return err
		}
		p.Mounts = append(p.Mounts, out)
	}
	return nil
}

func checkBindSource(source string) error {
	_, err := os.Stat(source)
	if errors.Is(err, os.ErrNotExist) {
		return api.E("", api.NotFound, source, errors.New("no such file or directory on the host to mount; make it first"))
	}
	return api.E("", api.Invalid, source, err)
}

func completeTmpfs(m *instance.Mount, memory int64) {
	if m.Mode == 0 {
		m.Mode = 0o1777
	}
	if m.Size == 0 {
		m.Size = defaultTmpfs
		if memory > 0 {
			m.Size = memory / 2
		}
	}
}

// prepareVolume returns the directory of a volume. An empty one is filled with
// what the image has at the mount's target, as docker does; an empty volume may
// also be a new one whose filling was cut off by a kill.
func (e *Engine) prepareVolume(ctx context.Context, rec record, m api.Mount, layers []storage.Layer) (dir string, err error) {
	var labels map[string]string
	if unnamed(rec.ID, m) {
		labels = map[string]string{ownerLabel: rec.ID}
	}
	v, isNew, err := e.storage.CreateVolume(ctx, m.Source, labels)
	if err != nil {
		return "", err
	}
	if isNew {
		e.announce("volume", "create", v.Name)
	}
	if list, err := os.ReadDir(v.Path); err != nil || len(list) > 0 || m.NoCopy {
		return v.Path, err
	}
	err = e.storage.Fill(ctx, v, layers, m.Target)
	if err != nil && isNew {
		err = errors.Join(err, e.storage.RemoveVolume(context.WithoutCancel(ctx), v.Name))
	}
	return v.Path, err
}

// removeUnnamedVolumes removes the volumes that were made for the instance
// alone.
func (e *Engine) removeUnnamedVolumes(ctx context.Context, inst api.Instance, wanted bool) error {
	if !wanted {
		return nil
	}
	for _, m := range inst.Spec.Mounts {
		if !unnamed(inst.ID, m) {
			continue
		}
		if err := e.storage.RemoveVolume(ctx, m.Source); err != nil && !api.IsKind(err, api.NotFound) {
			return err
		}
	}
	return nil
}

// Volumes lists all volumes.
func (e *Engine) Volumes(ctx context.Context) ([]api.Volume, error) {
	list, err := e.storage.Volumes(ctx)
	users := e.volumeUsers()
	for i := range list {
		list[i].Users = users[list[i].Name]
	}
	return list, err
}

// Volume returns one volume.
func (e *Engine) Volume(ctx context.Context, name string) (api.Volume, error) {
	v, err := e.storage.Volume(ctx, name)
	v.Users = e.volumeUsers()[name]
	return v, err
}

// CreateVolume makes a volume; one that exists is returned as it is.
// Of a size, in bytes, it is a disk.
func (e *Engine) CreateVolume(ctx context.Context, name string, size int64, labels map[string]string) (v api.Volume, err error) {
	if name == "" {
		name = newID()
	}
	var isNew bool
	switch {
	case size == 0:
		v, isNew, err = e.storage.CreateVolume(ctx, name, labels)
	case size < minDisk || size > maxDisk:
		err = api.E("create volume", api.Invalid, name, errDiskSize(size))
	default:
		v, isNew, err = e.storage.CreateDisk(ctx, name, size, labels)
	}
	if isNew {
		e.announce("volume", "create", name)
	}
	return v, err
}

// RemoveVolume deletes a volume that no instance mounts. With force, one that
// does not exist is no error.
func (e *Engine) RemoveVolume(ctx context.Context, name string, force bool) error {
	if users := e.volumeUsers()[name]; len(users) > 0 {
		return api.E("remove volume", api.InUse, name, errors.New("mounted by "+strings.Join(users, ", ")+"; remove that first"))
	}
	err := e.storage.RemoveVolume(ctx, name)
	if force && api.IsKind(err, api.NotFound) {
		return nil
	}
	if err == nil {
		e.announce("volume", "remove", name)
	}
	return err
}

// volumeUsers returns the names of the instances that mount each volume.
func (e *Engine) volumeUsers() map[string][]string {
	users := make(map[string][]string)
	for _, en := range e.entries() {
		inst := en.instance()
		for _, m := range inst.Spec.Mounts {
			if isVolume(m) {
				users[m.Source] = append(users[m.Source], inst.Name)
			}
		}
	}
	for _, names := range users {
		slices.Sort(names)
	}
	return users
}
