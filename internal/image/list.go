package image

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/containerd/containerd/v2/core/images"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
)

// Types of image, as in api.Image.Type.
const (
	TypeRootFS = "rootfs"
	TypeKernel = "kernel"
	TypeDisk   = "disk"
)

// List returns all images, sorted by name. One that is damaged is listed
// without what cannot be read of it.
func (s *Store) List(ctx context.Context) ([]api.Image, error) {
	ctx = s.context(ctx)
	all, err := s.images.List(ctx)
	if err != nil {
		return nil, api.E("list images", "", "", err)
	}
	out, parts := make([]api.Image, 0, len(all)), s.parts(ctx, all)
	for _, rec := range all {
		img, _ := s.describe(ctx, rec, false)
		img.Part = parts[rec.Target.Digest] && untagged(rec)
		out = append(out, img)
	}
	slices.SortFunc(out, func(a, b api.Image) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// Inspect returns all that is known of one image.
func (s *Store) Inspect(ctx context.Context, name string) (api.Image, error) {
	ctx = s.context(ctx)
	rec, err := s.lookup(ctx, name)
	if err != nil {
		return api.Image{}, api.E("inspect image", "", "", err)
	}
	img, err := s.describe(ctx, rec, true)
	if err != nil {
		return img, api.E("inspect image", "", Familiar(rec.Name), err)
	}
	desc, _, err := s.manifest(ctx, rec.Target)
	if err != nil {
		return img, api.E("inspect image", "", Familiar(rec.Name), err)
	}
	img.Users = s.holders()[desc.Digest.String()]
	return img, nil
}

// describe reads what an image is. On an error it returns what it has so far.
func (s *Store) describe(ctx context.Context, rec images.Image, full bool) (api.Image, error) {
	img := api.Image{Name: Familiar(rec.Name), Digest: rec.Target.Digest.String(), Created: rec.CreatedAt, Type: TypeRootFS}
	_, m, err := s.manifest(ctx, rec.Target)
	if err != nil {
		return img, err
	}
	img.Size = m.Config.Size
	if m.ArtifactType == kernelArtifact {
		img.Type = TypeKernel
		if arch := m.Annotations[archAnnotation]; architectures[arch] {
			img.Platform = "linux/" + arch
		}
		for _, l := range m.Layers {
			img.Size += l.Size
		}
		return img, nil
	}
	if m.ArtifactType == diskArtifact {
		return img, s.describeDisk(ctx, &img, m)
	}
	doc, err := s.config(ctx, m)
	if err != nil {
		return img, err
	}
	img.Platform = doc.platform()
	if doc.Created != nil {
		img.Created = *doc.Created
	}
	if full {
		c := doc.api()
		img.Config, img.History = &c, history(doc, m)
	}
	return img, s.describeLayers(ctx, &img, m, doc, full)
}

func (s *Store) describeLayers(ctx context.Context, img *api.Image, m *ocispec.Manifest, doc *document, full bool) error {
	var problem error
	for i, l := range m.Layers {
		one := api.ImageLayer{DiffID: doc.RootFS.DiffIDs[i].String(), Digest: l.Digest.String(), Size: l.Size}
		if info, err := s.erofsOf(ctx, l.Digest); err == nil {
			one.EROFS = info.Size
		} else if !notFound(err) {
			problem = errors.Join(problem, err)
		}
		img.Size += one.Size + one.EROFS
		if full {
			img.Layers = append(img.Layers, one)
		}
	}
	return problem
}

// history says how the image came to be, the latest step first.
func history(doc *document, m *ocispec.Manifest) (steps []api.ImageStep) {
	layers := m.Layers
	for _, h := range doc.History {
		step := api.ImageStep{By: api.OneLine(h.CreatedBy), Comment: api.OneLine(h.Comment), Author: api.OneLine(h.Author)}
		if h.Created != nil {
			step.Created = *h.Created
		}
		if !h.EmptyLayer && len(layers) > 0 {
			step.Layer, step.Size = layers[0].Digest.String(), layers[0].Size
			layers = layers[1:]
		}
		steps = append(steps, step)
	}
	slices.Reverse(steps)
	return steps
}
