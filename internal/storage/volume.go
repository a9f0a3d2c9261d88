package storage

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/disk"
)

// Volumes are directories. Files in one carry the instances' own user ids
// (0 to 65535): whoever mounts it maps them, so that instances with different
// ids on the host can share it. A volume with a size is a disk: one sparse raw file,
// in which the host sees no files.
//
// A volume exists once volume.json does; it is written last and removed first,
// so that a directory without it is a remnant.

var volumeName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

const (
	volumeData = "_data"
	volumeDisk = "disk.raw"
	volumeMeta = "volume.json"
)

// CreateVolume makes a volume and reports whether it is new: one that exists
// is returned as it is.
func (s *Storage) CreateVolume(_ context.Context, name string, labels map[string]string) (_ api.Volume, isNew bool, err error) {
	v, isNew, err := s.makeVolume(name, 0, labels)
	if err == nil && v.Size > 0 {
		return v, false, api.E("create volume", api.Conflict, name, errors.New("it is a disk and no file tree: use it by --mount type=disk, or choose another name"))
	}
	return v, isNew, err
}

// CreateDisk makes a volume that is a disk of size bytes, and reports whether it is
// new: one that exists with that size is returned as it is.
func (s *Storage) CreateDisk(_ context.Context, name string, size int64, labels map[string]string) (_ api.Volume, isNew bool, err error) {
	v, isNew, err := s.makeVolume(name, size, labels)
	switch {
	case err != nil:
	case v.Size == 0:
		err = api.E("create volume", api.Conflict, name, errors.New("it is a file tree and no disk: mount it by -v, or choose another name"))
	case v.Size != size:
		err = api.E("create volume", api.Conflict, name, fmt.Errorf("it has %s already, not %s: leave the size out, or choose another name",
			units.BytesSize(float64(v.Size)), units.BytesSize(float64(size))))
	}
	return v, isNew, err
}

func (s *Storage) makeVolume(name string, size int64, labels map[string]string) (_ api.Volume, isNew bool, err error) {
	if !volumeName.MatchString(name) {
		return api.Volume{}, false, api.E("create volume", api.Invalid, name, errors.New("a volume's name has 1 to 128 letters, digits, '_', '.' and '-', and begins with a letter or digit"))
	}
	s.volumes.Lock()
	defer s.volumes.Unlock()
	v, err := s.readVolume(name)
	if err == nil || !api.IsKind(err, api.NotFound) {
		return v, false, err
	}
	dir := filepath.Join(s.volumesDir(), name)
	if err := os.RemoveAll(dir); err != nil { // a remnant
		return api.Volume{}, false, api.E("create volume", "", name, err)
	}
	v = api.Volume{Name: name, Created: time.Now().UTC(), Labels: labels, Size: size}
	v.Path = volumePath(dir, v)
	if err := writeVolume(dir, v); err != nil {
		return api.Volume{}, false, api.E("create volume", api.Exhausted, name, errors.Join(err, os.RemoveAll(dir)))
	}
	return v, true, nil
}

func writeVolume(dir string, v api.Volume) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := makeContent(dir, v); err != nil {
		return err
	}
	tmp := filepath.Join(dir, volumeMeta+".tmp")
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, volumeMeta))
}

// volumePath is where a volume in a directory has its content.
func volumePath(dir string, v api.Volume) string {
	if v.Size > 0 {
		return filepath.Join(dir, volumeDisk)
	}
	return filepath.Join(dir, volumeData)
}

// makeContent makes an empty tree, or an empty disk.
func makeContent(dir string, v api.Volume) error {
	if v.Size == 0 {
		return os.MkdirAll(v.Path, 0o755)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(v.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(file.Truncate(v.Size), file.Close())
}

// FormatDisk makes an ext4 on a disk that nobody has written to yet. What was written
// is a guest's, and stays as it is.
func (s *Storage) FormatDisk(ctx context.Context, v api.Volume) error {
	s.volumes.Lock()
	defer s.volumes.Unlock()
	file, err := os.Open(v.Path)
	if err != nil {
		return err
	}
	_, err = file.Seek(0, unix.SEEK_DATA)
	file.Close()
	if !errors.Is(err, unix.ENXIO) { // ENXIO: it is one hole
		return err
	}
	whole := v.Path + ".new"
	if err := os.Remove(whole); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := disk.CreateExt4(ctx, whole, v.Size, true); err != nil {
		return err
	}
	return os.Rename(whole, v.Path)
}

func (s *Storage) readVolume(name string) (v api.Volume, err error) {
	if !volumeName.MatchString(name) {
		return v, noVolume(name)
	}
	data, err := os.ReadFile(filepath.Join(s.volumesDir(), name, volumeMeta))
	if errors.Is(err, os.ErrNotExist) {
		return v, noVolume(name)
	}
	if err != nil {
		return v, api.E("read volume", "", name, err)
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return v, api.E("read volume", api.Corrupt, name, err)
	}
	// The root may have been moved since.
	v.Path = volumePath(filepath.Join(s.volumesDir(), name), v)
	return v, nil
}

func noVolume(name string) error {
	return api.E("", api.NotFound, name, errors.New("no such volume; 'berth volume ls' lists all"))
}

// Volume returns a volume.
func (s *Storage) Volume(_ context.Context, name string) (api.Volume, error) {
	s.volumes.Lock()
	defer s.volumes.Unlock()
	return s.readVolume(name)
}

// Volumes returns all volumes, by name.
func (s *Storage) Volumes(context.Context) ([]api.Volume, error) {
	s.volumes.Lock()
	defer s.volumes.Unlock()
	dirs, err := os.ReadDir(s.volumesDir())
	if err != nil {
		return nil, api.E("list volumes", "", "", err)
	}
	list := []api.Volume{}
	for _, d := range dirs {
		v, err := s.readVolume(d.Name())
		if api.IsKind(err, api.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	slices.SortFunc(list, func(a, b api.Volume) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

// RemoveVolume deletes a volume with all its data. The caller knows that
// nobody uses it.
func (s *Storage) RemoveVolume(_ context.Context, name string) error {
	s.volumes.Lock()
	defer s.volumes.Unlock()
	if _, err := s.readVolume(name); err != nil {
		return err
	}
	dir := filepath.Join(s.volumesDir(), name)
	err := os.Remove(filepath.Join(dir, volumeMeta))
	if err == nil {
		err = os.RemoveAll(dir)
	}
	if err != nil {
		err = fmt.Errorf("its data could not be removed: %w", err)
	}
	return api.E("remove volume", "", name, err)
}
