package builder

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/internal/build"
	"github.com/berthcloud/berth/internal/storage"
)

// A layer of an image is in the store as an EROFS image, or is made one, as for an
// instance. It is not unpacked for a build: its snapshot stays empty and says in a file
// beside the empty directory which layer it stands for. What mounts the snapshot gets
// the mounted EROFS image in the place of that directory.

// layerFile is that file.
const layerFile = "layer.json"

// layers puts EROFS images into the places of snapshots. It implements diff.Applier.
type layers struct {
	daemon  build.Daemon
	unpack  diff.Applier // for layers that do not tell what they are
	storage *storage.Storage

	mu    sync.Mutex
	known map[string]storage.Layer // by digest of the layer
}

// Apply implements diff.Applier.
func (l *layers) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (ocispec.Descriptor, error) {
	diffID, ok := desc.Annotations[labels.LabelUncompressed]
	dir := snapshotDir(mounts)
	if !ok || dir == "" {
		return l.unpack.Apply(ctx, desc, mounts, opts...)
	}
	layer := build.Layer{Digest: desc.Digest.String(), DiffID: diffID}
	if _, err := l.image(ctx, layer); err != nil {
		return ocispec.Descriptor{}, err
	}
	text, err := json.Marshal(layer)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if err := os.WriteFile(filepath.Join(dir, layerFile), text, 0o600); err != nil {
		return ocispec.Descriptor{}, err
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.Digest(diffID), Size: desc.Size}, nil
}

// image returns a layer's EROFS image, which the daemon has verified.
func (l *layers) image(ctx context.Context, layer build.Layer) (storage.Layer, error) {
	l.mu.Lock()
	known, ok := l.known[layer.Digest]
	l.mu.Unlock()
	if _, err := os.Stat(known.Path); ok && err == nil {
		return known, nil
	}
	made, err := l.daemon.Layer(ctx, layer)
	if err != nil {
		return known, err
	}
	known = storage.Layer{Digest: made.EROFS, Path: made.Path}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known[layer.Digest] = known
	return known, nil
}

// imageAt returns the EROFS image that is mounted at a directory.
func (l *layers) imageAt(dir string) (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, image := range l.known {
		if l.storage.LayerDir(image) == dir {
			return image.Path, true
		}
	}
	return "", false
}

// snapshotDir is the directory of the snapshot that mounts write to.
func snapshotDir(mounts []mount.Mount) string {
	if len(mounts) != 1 {
		return ""
	}
	m := mounts[0]
	if m.Type == "overlay" {
		m.Source = parseStack(m.Options).upper
	}
	if filepath.Base(m.Source) != "fs" {
		return ""
	}
	return filepath.Dir(m.Source)
}

// place returns dirs, topmost first, with the mounted EROFS image in the place of each
// snapshot that stands for a layer, and a release for when they are not used any more.
// Of a layer that is there twice the upper is enough, as for an instance: overlayfs takes
// no directory twice.
func (l *layers) place(ctx context.Context, dirs []string) (placed []string, release func(), err error) {
	var images []storage.Layer
	seen := map[string]bool{}
	for _, dir := range dirs {
		text, err := os.ReadFile(filepath.Join(filepath.Dir(dir), layerFile))
		if errors.Is(err, os.ErrNotExist) {
			placed = append(placed, dir)
			continue
		}
		var layer build.Layer
		if err == nil {
			err = json.Unmarshal(text, &layer)
		}
		if err != nil {
			return nil, nil, err
		}
		image, err := l.image(ctx, layer)
		if err != nil {
			return nil, nil, err
		}
		if at := l.storage.LayerDir(image); !seen[at] {
			seen[at] = true
			placed, images = append(placed, at), append(images, image)
		}
	}
	if len(images) == 0 {
		return placed, func() {}, nil
	}
	holder := newID()
	if _, err := l.storage.Mount(ctx, holder, images); err != nil {
		return nil, nil, err
	}
	return placed, func() { l.storage.Release(holder) }, nil
}
