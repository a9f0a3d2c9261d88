package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/instance"
)

// SaveDisks copies what the machines of an instance at rest have written.
func (d *Driver) SaveDisks(_ context.Context, p *instance.Prepared, dir string) error {
	h := d.handle(p, runFile{})
	if p.Spec.VM.TPM {
		return h.fail("snapshot", errTPM())
	}
	partial := dir + ".new"
	err := os.RemoveAll(partial)
	if err == nil {
		err = os.Mkdir(partial, 0o700)
	}
	if err == nil {
		err = keep(partial, ownDisks(p))
	}
	if err == nil {
		err = commitDir(partial, dir)
	}
	if err != nil {
		return h.fail("snapshot", errors.Join(err, os.RemoveAll(partial)))
	}
	return nil
}

// PutDisks moves disks from where SaveDisks or Save would have put them to the
// instance. What is not there any more was moved by the call before.
func (d *Driver) PutDisks(_ context.Context, p *instance.Prepared, dir string) error {
	h := d.handle(p, runFile{})
	own := ownDisks(p)
	for name := range own {
		err := os.Chown(filepath.Join(dir, name), int(p.Users.First), int(p.Users.First))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return h.fail("restore", err)
		}
	}
	for _, files := range []map[string]string{own, volumeDisks(p)} {
		for name, path := range files {
			err := os.Rename(filepath.Join(dir, name), path)
			if err == nil {
				err = disk.Sync(filepath.Dir(path))
			}
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return h.fail("restore", err)
			}
		}
	}
	return nil
}
