package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
)

// Image is an image ready to be used by an instance of either kind. What it refers
// to is shared, and not to be changed.
type Image struct {
	Name    string // in the short form
	Digest  string // of the manifest
	Arch    string // as GOARCH
	Created time.Time
	Config  api.ImageConfig
	Layers  []Layer // bottom first
	Disk    *Disk   // of a disk image, which has no layers and no config
}

// Layer is one read-only layer of a root filesystem.
type Layer struct {
	DiffID string // digest of the layer's uncompressed tar
	Digest string // digest of the layer as distributed
	EROFS  string // digest of the EROFS image
	Path   string // of the EROFS image, a regular file on the host
	Size   int64  // bytes of the EROFS image
	Packed int64  // bytes of the layer as distributed
}

// Resolve finds the image that name means and makes sure that all its layers
// are ready. It does not pull. The paths stay valid as long as the name does,
// or a Hold of the image.
func (s *Store) Resolve(ctx context.Context, name string) (Image, error) {
	ctx = s.context(ctx)
	rec, err := s.lookup(ctx, name)
	if err != nil {
		return Image{}, err
	}
	img, err := s.resolve(ctx, rec.Target)
	if err != nil {
		return Image{}, api.E("resolve image", "", Familiar(rec.Name), err)
	}
	img.Name = Familiar(rec.Name)
	return img, nil
}

// ResolveDigest is Resolve for a manifest's digest, as a Hold has it: the name
// may have moved on to another image.
func (s *Store) ResolveDigest(ctx context.Context, manifest string) (Image, error) {
	ctx = s.context(ctx)
	d := digest.Digest(manifest)
	if err := checkDigest(d); err != nil {
		return Image{}, api.E("resolve image", api.Invalid, manifest, err)
	}
	img, err := s.resolve(ctx, ocispec.Descriptor{Digest: d, MediaType: ocispec.MediaTypeImageManifest})
	if errdefs.IsNotFound(err) {
		return Image{}, api.E("resolve image", api.NotFound, manifest, errors.New("its content is not in the store any more"))
	}
	return img, api.E("resolve image", "", manifest, err)
}

// lookup finds the record that a name, or the beginning of a digest, means.
func (s *Store) lookup(ctx context.Context, name string) (images.Image, error) {
	full, err := fullName(name)
	if err != nil {
		if rec, ok, derr := s.lookupDigest(ctx, name); ok || derr != nil { // 64 digits are no valid name
			return rec, derr
		}
		return images.Image{}, err
	}
	rec, err := s.images.Get(ctx, full)
	if err == nil {
		return rec, nil
	}
	if !errdefs.IsNotFound(err) {
		return images.Image{}, api.E("", api.Internal, name, err)
	}
	if rec, ok, err := s.lookupDigest(ctx, name); ok || err != nil {
		return rec, err
	}
	return images.Image{}, api.E("", api.NotFound, name, errors.New("no such image here; get it with berth pull, berth image import or berth image bootstrap"))
}

// lookupDigest finds an image by at least six digits of its digest, as docker
// users name images without a tag.
func (s *Store) lookupDigest(ctx context.Context, name string) (images.Image, bool, error) {
	hex := strings.TrimPrefix(name, "sha256:")
	if len(hex) < 6 || strings.Trim(hex, "0123456789abcdef") != "" {
		return images.Image{}, false, nil
	}
	all, err := s.images.List(ctx)
	if err != nil {
		return images.Image{}, false, api.E("", api.Internal, name, err)
	}
	var found images.Image
	for _, rec := range all {
		if !strings.HasPrefix(rec.Target.Digest.Encoded(), hex) {
			continue
		}
		if found.Name != "" && found.Target.Digest != rec.Target.Digest {
			return images.Image{}, false, api.E("", api.Invalid, name, errors.New("more than one image has a digest that begins so; give more digits"))
		}
		found = rec
	}
	return found, found.Name != "", nil
}

// resolve makes an Image of the content that target leads to, once: content with a
// digest never changes.
func (s *Store) resolve(ctx context.Context, target ocispec.Descriptor) (Image, error) {
	key := target.Digest.String()
	s.mu.Lock()
	img, known := s.resolved[key]
	collected := s.collected
	s.mu.Unlock()
	if known && img.complete() {
		return img, nil
	}
	img, err := s.read(ctx, target)
	if err != nil {
		return Image{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.collected == collected {
		s.resolved[key] = img
	}
	return img, nil
}

// complete reports whether the layers are where they were.
func (i *Image) complete() bool {
	gone := func(path string) bool {
		_, err := os.Lstat(path)
		return err != nil
	}
	return (i.Disk == nil || !gone(i.Disk.Path)) && !slices.ContainsFunc(i.Layers, func(l Layer) bool { return gone(l.Path) })
}

// forgetResolved is called when content may have gone.
func (s *Store) forgetResolved() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.resolved)
	s.collected++
}

// read makes an Image of the content that target leads to.
func (s *Store) read(ctx context.Context, target ocispec.Descriptor) (Image, error) {
	desc, manifest, err := s.manifest(ctx, target)
	if err != nil {
		return Image{}, err
	}
	if manifest.ArtifactType == diskArtifact {
		return s.readDisk(ctx, desc, manifest)
	}
	if manifest.ArtifactType != "" && manifest.Config.MediaType == ocispec.MediaTypeEmptyJSON {
		return Image{}, api.E("", api.Invalid, "", fmt.Errorf("it holds %.80s and no root filesystem", manifest.ArtifactType))
	}
	doc, err := s.config(ctx, manifest)
	if err != nil {
		return Image{}, err
	}
	img := Image{Digest: desc.Digest.String(), Arch: doc.arch(), Config: doc.api()}
	if doc.Created != nil {
		img.Created = *doc.Created
	}
	for i, l := range manifest.Layers {
		info, err := s.erofsOf(ctx, l.Digest)
		if at := s.arriving(l.Digest); at != nil && errdefs.IsNotFound(err) {
			one, err := s.lazyLayer(ctx, at)
			if err != nil {
				return Image{}, err
			}
			img.Layers = append(img.Layers, one)
			continue
		}
		if errdefs.IsNotFound(err) {
			// An interrupted import or a copied store: make it now.
			err = s.convertLeased(ctx, l, doc.RootFS.DiffIDs[i])
			if err == nil {
				info, err = s.erofsOf(ctx, l.Digest)
			}
		}
		if err != nil {
			return Image{}, err
		}
		img.Layers = append(img.Layers, Layer{
			DiffID: doc.RootFS.DiffIDs[i].String(), Digest: l.Digest.String(), EROFS: info.Digest.String(),
			Path: s.blobPath(info.Digest.String()), Size: info.Size, Packed: l.Size,
		})
	}
	return img, nil
}

// Arch returns the architecture in a platform, as GOARCH; what is no platform is
// returned as it is, and matches no image.
func Arch(platform string) string {
	p, err := platforms.Parse(platform)
	if err != nil {
		return platform
	}
	return platforms.Normalize(p).Architecture
}

func (s *Store) convertLeased(ctx context.Context, l ocispec.Descriptor, diffID digest.Digest) error {
	ctx, done, err := s.work(ctx)
	if err != nil {
		return err
	}
	defer done()
	return s.convert(ctx, l, diffID, nil)
}

// manifest returns the manifest for this host's platform that target is or
// leads to.
func (s *Store) manifest(ctx context.Context, target ocispec.Descriptor) (ocispec.Descriptor, *ocispec.Manifest, error) {
	for range 4 { // an index may hold an index
		b, err := s.readBlob(ctx, target, maxManifest)
		if err != nil {
			return target, nil, err
		}
		if !images.IsIndexType(target.MediaType) {
			m, err := parseManifest(b)
			return target, m, err
		}
		index, err := parseIndex(b)
		if err != nil {
			return target, nil, err
		}
		if target, err = choose(index, platforms.Default(), platforms.DefaultString()); err != nil {
			return target, nil, err
		}
	}
	return target, nil, api.E("", api.Invalid, "", errors.New("indexes nested too deep"))
}

// choose picks the manifest of an index that suits a platform best.
func choose(index *ocispec.Index, match platforms.MatchComparer, platform string) (ocispec.Descriptor, error) {
	var best *ocispec.Descriptor
	var offered []string
	for i := range index.Manifests {
		d := &index.Manifests[i]
		if d.Platform == nil {
			if best == nil && (images.IsManifestType(d.MediaType) || images.IsIndexType(d.MediaType)) {
				best = d // an index without platforms: the config will tell
			}
			continue
		}
		p := platforms.Normalize(*d.Platform)
		if p.OS == "unknown" { // BuildKit's attestations
			continue
		}
		offered = append(offered, platforms.Format(p))
		if !match.Match(p) {
			continue
		}
		if best == nil || best.Platform == nil || match.Less(p, platforms.Normalize(*best.Platform)) {
			best = d
		}
	}
	if best == nil {
		return ocispec.Descriptor{}, api.E("", api.Unsupported, "", fmt.Errorf("not offered for %s, only for %s", platform, api.OneLine(strings.Join(offered, ", "))))
	}
	return *best, nil
}

// config reads a manifest's config and checks that the two agree.
func (s *Store) config(ctx context.Context, m *ocispec.Manifest) (*document, error) {
	b, err := s.readBlob(ctx, m.Config, maxConfig)
	if err != nil {
		return nil, err
	}
	doc, err := parseConfig(b)
	if err != nil {
		return nil, err
	}
	if len(doc.RootFS.DiffIDs) != len(m.Layers) {
		return nil, api.E("", api.Corrupt, "", fmt.Errorf("the manifest has %d layers, the config %d", len(m.Layers), len(doc.RootFS.DiffIDs)))
	}
	for _, l := range m.Layers {
		if !images.IsLayerType(l.MediaType) {
			return nil, api.E("", api.Unsupported, "", fmt.Errorf("a layer is of type %.80q, not a tar archive", l.MediaType))
		}
	}
	if doc.OS != "" && doc.OS != "linux" {
		return nil, api.E("", api.Unsupported, "", fmt.Errorf("it is for %.40q, not for Linux", doc.OS))
	}
	return doc, nil
}
