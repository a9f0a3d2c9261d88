package image

import (
	"context"
	"io"

	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/platforms"

	"github.com/berthcloud/berth/api"
)

// Export writes an image as a tar archive in OCI image layout that also has
// docker's manifest.json, so that docker load, podman load and skopeo read it.
func (s *Store) Export(ctx context.Context, name string, w io.Writer) error {
	ctx = s.context(ctx)
	rec, err := s.lookup(ctx, name)
	if err != nil {
		return api.E("export image", "", "", err)
	}
	desc, _, err := s.manifest(ctx, rec.Target)
	if err != nil {
		return api.E("export image", "", Familiar(rec.Name), err)
	}
	err = archive.Export(ctx, s.content, w, archive.WithManifest(desc, rec.Name), archive.WithPlatform(platforms.All))
	return api.E("export image", "", Familiar(rec.Name), err)
}
