package engine

import (
	"context"
	"errors"
	"os"

	"github.com/berthcloud/berth/api"
)

// RemoveSnapshot removes a snapshot and gives back its space.
func (e *Engine) RemoveSnapshot(ctx context.Context, ref, name string) error {
	const op = "remove snapshot"
	en, unlock, err := e.lockRef(ctx, op, ref)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := e.snapshot(en, name); err != nil {
		return api.E(op, "", en.name(), err)
	}
	dir := e.snapshotDir(en.id, name)
	old := dir + ".old" // half a snapshot is none
	if err := errors.Join(os.RemoveAll(old), os.Rename(dir, old), os.RemoveAll(old)); err != nil {
		return api.E(op, "", en.name(), err)
	}
	e.publish(en, "snapshot-remove", map[string]string{"snapshot": name})
	return nil
}
