package engine

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"path"
	"strings"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/pack"
)

// Diff returns what an instance has changed in its root filesystem.
func (e *Engine) Diff(ctx context.Context, ref string) ([]api.Change, error) {
	var list []api.Change
	err := e.withLayer(ctx, ref, "diff", true, func(rec record, r io.Reader) error {
		img, err := e.images.ResolveDigest(ctx, rec.Digest)
		if err != nil {
			return err
		}
		holder := "diff/" + rec.ID
		if _, err := e.storage.Mount(ctx, holder, layersOf(img)); err != nil {
			return err
		}
		defer e.storage.Release(holder)
		list, err = changes(r, func(name string) (bool, error) { return e.storage.Has(layersOf(img), name) })
		return err
	})
	return list, err
}

// maxChanges bounds the list: a guest may name as many files as it likes.
const maxChanges = 1 << 20

// changes reads a layer. has tells whether the image has a file of a name.
func changes(r io.Reader, has func(name string) (bool, error)) (list []api.Change, err error) {
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		if len(list) == maxChanges {
			return nil, api.E("", api.Exhausted, "", errors.New("more than a million files have changed; no list holds them"))
		}
		name := path.Clean("/" + h.Name)
		dir, base := path.Split(name)
		change := api.Change{Kind: api.Added, Path: name}
		if base == pack.OpaqueName {
			continue // its directory is in the list
		}
		if hidden, ok := strings.CutPrefix(base, pack.WhiteoutPrefix); ok {
			list = append(list, api.Change{Kind: api.Deleted, Path: dir + hidden})
			continue
		}
		if known, err := has(name); err != nil {
			return nil, err
		} else if known {
			change.Kind = api.Modified
		}
		list = append(list, change)
	}
}
