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

	"github.com/berthcloud/berth/api"
)

// Volumes are directories. Files in one carry the instances' own user ids
// (0 to 65535): whoever mounts it maps them, so that instances with different
// ids on the host can share it.
//
// A volume exists once volume.json does; it is written last and removed first,
// so that a directory without it is a remnant.

var volumeName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

const (
	volumeData = "_data"
	volumeMeta = "volume.json"
)

// CreateVolume makes a volume and reports whether it is new: one that exists
// is returned as it is.
func (s *Storage) CreateVolume(_ context.Context, name string, labels map[string]string) (_ api.Volume, isNew bool, err error) {
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
	v = api.Volume{Name: name, Created: time.Now().UTC(), Labels: labels, Path: filepath.Join(dir, volumeData)}
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
	if err := os.MkdirAll(v.Path, 0o755); err != nil {
		return err
	}
	tmp := filepath.Join(dir, volumeMeta+".tmp")
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, volumeMeta))
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
	v.Path = filepath.Join(s.volumesDir(), name, volumeData)
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
