package image

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
)

// Export writes images as a tar archive in OCI image layout that also has docker's
// manifest.json, so that docker load, podman load and skopeo read it. What they share is
// in it once.
func (s *Store) Export(ctx context.Context, w io.Writer, names ...string) error {
	const op = "export image"
	ctx, done, err := s.work(ctx) // nothing goes while it is being written
	if err != nil {
		return api.E(op, "", "", err)
	}
	defer done()
	opts := []archive.ExportOpt{archive.WithPlatform(platforms.All)}
	for _, name := range names {
		rec, err := s.lookup(ctx, name)
		if err != nil {
			return api.E(op, "", "", err)
		}
		desc, m, err := s.manifest(ctx, rec.Target)
		if err != nil {
			return api.E(op, "", Familiar(rec.Name), err)
		}
		if err := s.awaitLayers(ctx, m.Layers); err != nil {
			return api.E(op, "", Familiar(rec.Name), err)
		}
		for _, d := range append([]ocispec.Descriptor{desc, m.Config}, m.Layers...) {
			if !s.keep(ctx, d.Digest) {
				return api.E(op, api.Corrupt, Familiar(rec.Name), fmt.Errorf("%s is not in the store any more; berth image fsck --repair may bring it back", short(d.Digest)))
			}
		}
		opts = append(opts, archive.WithManifest(desc, rec.Name))
	}
	return api.E(op, "", "", archive.Export(ctx, s.content, w, opts...))
}
