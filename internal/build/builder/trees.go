package builder

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/berthcloud/berth/internal/image/layer"
	"github.com/berthcloud/berth/internal/pack"
	"github.com/berthcloud/berth/internal/storage"
)

// trees turns trees of the host into images for VMs, and back. A tree that several steps
// have mounted is read and written by one at a time, so that none finds another's half, nor
// leads it astray by a link.
type trees struct{ mu sync.RWMutex }

// snapshotImage is the name of the image beside the directory of a snapshot, made when a VM
// needs it first: it goes with the snapshot.
const snapshotImage = "layer.erofs"

// ofSnapshot returns the image of a snapshot that does not change any more.
func (t *trees) ofSnapshot(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(filepath.Dir(dir), snapshotImage)
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return path, err
	}
	tree, err := openTree(dir)
	if err != nil {
		return "", err
	}
	defer tree.Close()
	partial, err := os.CreateTemp(filepath.Dir(dir), snapshotImage+".new-")
	if err != nil {
		return "", err
	}
	defer os.Remove(partial.Name()) // without effect after the rename
	if err := errors.Join(partial.Close(), t.image(ctx, tree, "", partial.Name())); err != nil {
		return "", err
	}
	return path, os.Rename(partial.Name(), path)
}

// image writes an open tree as an EROFS image: a directory with what is below, or a file as
// the only entry, by a name.
func (t *trees) image(ctx context.Context, tree *os.File, name, image string) error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	r, w := io.Pipe()
	var packed sync.WaitGroup
	packed.Go(func() {
		out := tar.NewWriter(w)
		err := pack.Tree(ctx, out, int(tree.Fd()), name, pack.Options{Upper: true, Exact: true, Root: name == ""})
		if err == nil {
			err = out.Close()
		}
		w.CloseWithError(err)
	})
	err := convert(ctx, r, image)
	r.Close()
	packed.Wait()
	return err
}

// convert writes a layer as an EROFS image.
func convert(ctx context.Context, r io.Reader, image string) error {
	f, err := os.OpenFile(image, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	_, err = layer.Convert(ctx, f, r, layer.Options{})
	return errors.Join(err, f.Close())
}

// merge lays an image over a tree.
func (t *trees) merge(ctx context.Context, image, dir string, root bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return storage.Merge(ctx, image, dir, root)
}
