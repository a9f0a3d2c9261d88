package image

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image/layer"
)

// Backing is what a Store stands on, for a builder that works in it: what it writes is
// where it belongs at once. Whoever writes keeps a lease, or the next collection takes
// what no name leads to.
type Backing struct {
	Content   content.Store
	Images    images.Store
	Leases    leases.Manager
	Snapshots snapshots.Snapshotter // of Options.Snapshotter
}

// Backing returns what the store stands on. It is used with contexts of Namespace.
func (s *Store) Backing() Backing {
	b := Backing{Content: s.content, Images: s.images, Leases: s.leases}
	if s.opt.Snapshotter != nil {
		b.Snapshots = s.db.Snapshotter(SnapshotterName)
	}
	return b
}

// FullTag returns the name under which an image is kept that is given a name.
func FullTag(name string) (string, error) { return tagName(name) }

// Ready makes the layers ready that a name leads to, for this host's platform: an image
// is used soon after it was made.
func (s *Store) Ready(ctx context.Context, name string) error {
	_, err := s.Resolve(ctx, name)
	return err
}

// MakeLayer makes of a layer, of which r holds the tar, uncompressed, an EROFS image in the
// file f, which is empty. It is on the disk then, and AddLayer takes it.
func MakeLayer(ctx context.Context, f *os.File, r io.Reader) (Layer, error) {
	hash := digest.Canonical.Digester()
	if _, err := layer.Convert(ctx, f, io.TeeReader(r, hash.Hash()), layer.Options{Absolute: true}); err != nil {
		return Layer{}, err
	}
	made, err := seal(ctx, f, MediaTypeEROFS)
	return Layer{DiffID: hash.Digest().String(), EROFS: made.Digest.String(), Path: f.Name(), Size: made.Size}, err
}

// AddLayer takes an EROFS image that MakeLayer has made into the store, its file too, which
// lies on the same filesystem. The layer it was made of may come later, in any
// compression; until then the lease of ctx keeps the image.
func (s *Store) AddLayer(ctx context.Context, l Layer) error {
	desc := ocispec.Descriptor{MediaType: MediaTypeEROFS, Digest: digest.Digest(l.EROFS), Size: l.Size}
	err := errors.Join(checkDigest(desc.Digest), checkDigest(digest.Digest(l.DiffID)))
	if err != nil {
		return api.E("add layer", api.Invalid, l.EROFS, err)
	}
	f, err := os.Open(l.Path)
	if err == nil {
		err = s.settle(s.context(ctx), f, desc, map[string]string{diffIDLabel: l.DiffID})
	}
	return api.E("add layer", "", l.EROFS, err)
}

// LayerImage returns the EROFS image of a layer in the store, which is made where there
// is none yet. The layer is known by its digest as distributed and by that of its
// uncompressed tar, which is verified.
func (s *Store) LayerImage(ctx context.Context, layer, diffID string) (Layer, error) {
	ctx = s.context(ctx)
	desc := ocispec.Descriptor{Digest: digest.Digest(layer)}
	if err := errors.Join(checkDigest(desc.Digest), checkDigest(digest.Digest(diffID))); err != nil {
		return Layer{}, api.E("read layer", api.Invalid, layer, err)
	}
	if err := s.awaitLayers(ctx, []ocispec.Descriptor{desc}); err != nil {
		return Layer{}, api.E("read layer", "", layer, err)
	}
	info, err := s.content.Info(ctx, desc.Digest)
	if err != nil {
		return Layer{}, err
	}
	desc.Size = info.Size
	if err := s.convertLeased(ctx, desc, digest.Digest(diffID)); err != nil {
		return Layer{}, api.E("read layer", "", layer, err)
	}
	erofs, err := s.erofsOf(ctx, desc.Digest)
	if err != nil {
		return Layer{}, api.E("read layer", "", layer, err)
	}
	d := erofs.Digest.String()
	return Layer{DiffID: diffID, Digest: layer, EROFS: d, Path: s.blobPath(d), Size: erofs.Size, Packed: desc.Size}, nil
}
