package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/berthcloud/berth/internal/instance"
)

// A snapshot is a saved run with its disks, or of an instance at rest the disks alone:
//
//	ROOT/instances/ID/snapshots/NAME/      appears and goes by a rename
//
// To restore one is to suspend the instance in that state: a copy of the snapshot takes
// the name that makes it suspended, the present run ends, and the next one goes on from
// there. A kill leaves the instance as it was, or suspended.

// validSnapshot is what a snapshot is called. What has a dot is being made or removed.
var validSnapshot = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]{0,62}$`)

func (e *Engine) snapshotDir(id, name string) string {
	return filepath.Join(e.dir(id), "snapshots", name)
}

// diskSaver returns the driver of an instance and what it knows of the instance at rest.
func (e *Engine) diskSaver(ctx context.Context, en *entry) (instance.DiskSaver, *instance.Prepared, error) {
	en.mu.Lock()
	rec := en.rec
	en.mu.Unlock()
	driver, err := e.driver(rec.Spec.Kind)
	if err != nil {
		return nil, nil, err
	}
	saver, ok := driver.(instance.DiskSaver)
	if !ok {
		return nil, nil, cannot("", rec.Instance)
	}
	img, err := e.images.ResolveDigest(ctx, rec.Digest)
	if err != nil {
		return nil, nil, err
	}
	p, err := e.outline(rec, img)
	return saver, p, err
}

// sweepSnapshots removes what is left of saved runs and snapshots that were being made or removed when
// the engine before this one ended.
func (e *Engine) sweepSnapshots(id string) error {
	saved := e.savedDir(id)
	if err := errors.Join(os.RemoveAll(saved+".new"), os.RemoveAll(saved+".old")); err != nil {
		return err
	}
	entries, err := os.ReadDir(e.snapshotDir(id, ""))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, entry := range entries {
		if strings.Contains(entry.Name(), ".") {
			err = errors.Join(err, os.RemoveAll(e.snapshotDir(id, entry.Name())))
		}
	}
	return err
}
