package image

import (
	"context"
	"errors"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
)

// tree is what an image's target leads to.
type tree struct {
	manifests []ocispec.Descriptor   // and indexes; what one speaks of stands before it
	blobs     []ocispec.Descriptor   // configurations and layers
	has       map[digest.Digest]bool // the blobs, while climbing
}

// top returns what the others belong to.
func (t *tree) top() ocispec.Descriptor { return t.manifests[len(t.manifests)-1] }

// tree returns all that target leads to, of every platform, with attestations; or the
// part for this host where the store has not all of it.
func (s *Store) tree(ctx context.Context, target ocispec.Descriptor) (tree, error) {
	t := tree{has: map[digest.Digest]bool{}}
	err := s.climb(ctx, target, &t, 0)
	if !notFound(err) {
		return t, err
	}
	desc, m, err := s.manifest(ctx, target)
	if err != nil {
		return t, err
	}
	return tree{manifests: []ocispec.Descriptor{desc}, blobs: append([]ocispec.Descriptor{m.Config}, m.Layers...)}, s.awaitLayers(ctx, m.Layers)
}

// climb adds what a manifest or index leads to. Its error is one of notFound where
// something is missing.
func (s *Store) climb(ctx context.Context, desc ocispec.Descriptor, t *tree, depth int) error {
	if depth == 4 {
		return api.E("", api.Invalid, "", errors.New("indexes nested too deep"))
	}
	b, err := s.readBlob(ctx, desc, maxManifest)
	if err != nil {
		return err
	}
	if images.IsIndexType(desc.MediaType) {
		index, err := parseIndex(b)
		if err != nil {
			return err
		}
		for _, child := range index.Manifests {
			if err := s.climb(ctx, child, t, depth+1); err != nil {
				return err
			}
		}
	} else {
		m, err := parseManifest(b)
		if err != nil {
			return err
		}
		for _, blob := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
			if _, err := s.content.Info(ctx, blob.Digest); err != nil {
				return err
			}
			if !t.has[blob.Digest] {
				t.has[blob.Digest] = true
				t.blobs = append(t.blobs, blob)
			}
		}
	}
	desc.Size = int64(len(b))
	t.manifests = append(t.manifests, desc)
	return nil
}
