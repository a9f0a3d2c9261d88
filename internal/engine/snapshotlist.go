package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// Snapshots lists the snapshots of an instance, the oldest first.
func (e *Engine) Snapshots(_ context.Context, ref string) ([]api.Snapshot, error) {
	en, err := e.find(ref)
	if err != nil {
		return nil, err
	}
	list, err := e.snapshots(en.id)
	return list, api.E("list snapshots", "", en.name(), err)
}

func (e *Engine) snapshots(id string) ([]api.Snapshot, error) {
	entries, err := os.ReadDir(e.snapshotDir(id, ""))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var list []api.Snapshot
	for _, entry := range entries {
		if !validSnapshot.MatchString(entry.Name()) {
			continue
		}
		s, err := readSnapshot(e.snapshotDir(id, entry.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b api.Snapshot) int { return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Name, b.Name)) })
	return list, nil
}

// readSnapshot looks at a snapshot's directory.
func readSnapshot(dir string) (api.Snapshot, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return api.Snapshot{}, err
	}
	s := api.Snapshot{Name: filepath.Base(dir), Created: info.ModTime().UTC()}
	entries, err := os.ReadDir(dir)
	for _, entry := range entries {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, entry.Name()), &st); err == nil {
			s.Size += st.Blocks * 512
		}
		s.Memory = s.Memory || entry.Name() == instance.SavedState
		if volume, found := strings.CutPrefix(entry.Name(), instance.SavedVolume); found {
			s.Volumes = append(s.Volumes, volume)
		}
	}
	return s, err
}

// snapshot finds one.
func (e *Engine) snapshot(en *entry, name string) (api.Snapshot, error) {
	if !validSnapshot.MatchString(name) {
		return api.Snapshot{}, api.E("", api.Invalid, "", fmt.Errorf("%q is no name of a snapshot", name))
	}
	s, err := readSnapshot(e.snapshotDir(en.id, name))
	if errors.Is(err, os.ErrNotExist) {
		err = api.E("", api.NotFound, "", fmt.Errorf("it has no snapshot %s: 'berth snapshot ls %s' lists them", name, en.name()))
	}
	return s, err
}
