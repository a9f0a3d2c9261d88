package builder

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/leases"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/moby/buildkit/util/db"

	"github.com/berthcloud/berth/internal/build"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/undo"
)

// What a step has written, and the indexes of the cache, are not put to the disk before
// the builder ends: waiting for that would take as long as many steps do. A process that
// is killed loses nothing by it; where the host itself goes down meanwhile, the whole
// cache is worth nothing and begins anew. Images have nothing to do with it: the content
// store syncs each blob.

// indexes are the files that begin anew with the cache.
var indexes = []string{"cache.db", "history.db", "metadata.db"}

// openFile says, while a builder runs, under which boot of the host.
const openFile = "open"

const bootIDFile = "/proc/sys/kernel/random/boot_id"

// reopen makes the cache ready for use: anew, where the host went down while it was open
// before.
func reopen(ctx context.Context, c build.Config, manager leases.Manager, u *undo.Stack) error {
	now, err := os.ReadFile(bootIDFile)
	if err != nil {
		return err
	}
	path := filepath.Join(c.Root, openFile)
	before, err := os.ReadFile(path)
	if err == nil && !bytes.Equal(before, now) {
		err = forget(ctx, c, manager)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := writeSynced(path, now); err != nil {
		return err
	}
	u.Add(func(context.Context) error { return closeCache(c.Root, path) })
	return nil
}

// closeCache puts the cache to the disk.
func closeCache(root, path string) error {
	dir, err := os.Open(root)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return os.NewSyscallError("syncfs", err)
	}
	return os.Remove(path)
}

// forget drops the whole cache. What it kept alive is garbage then.
func forget(ctx context.Context, c build.Config, manager leases.Manager) error {
	list, err := manager.List(ctx)
	if err != nil {
		return err
	}
	for _, l := range list {
		if !strings.HasPrefix(l.ID, image.WorkPrefix) {
			err = errors.Join(err, manager.Delete(ctx, l))
		}
	}
	for _, name := range indexes {
		if removed := os.Remove(filepath.Join(c.Root, name)); !errors.Is(removed, os.ErrNotExist) {
			err = errors.Join(err, removed)
		}
	}
	return err
}

func writeSynced(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// unsynced has a database leave it to the kernel when it reaches the disk.
func unsynced(d db.Transactor) error {
	return d.Update(func(tx *bolt.Tx) error {
		tx.DB().NoSync = true
		return nil
	})
}
