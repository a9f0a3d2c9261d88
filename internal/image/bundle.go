package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
)

// Bounds of an archive of images.
const (
	maxArchiveEntries = 20_000
	maxDocument       = 4 << 20 // bytes of manifest.json, index.json and the like
	maxArchive        = 1 << 40 // bytes of all entries
)

// bundle is a tar archive of images while it is read: its files are stored as
// blobs at once, because what they are is told only by manifest.json, which
// docker writes last.
type bundle struct {
	store *Store
	blobs map[string]ocispec.Descriptor // by name in the archive
	links map[string]string             // symbolic links; older dockers have layers as links to others
	docs  map[string][]byte
	size  int64 // of all entries so far, in bytes
}

// documents are the files of an archive that are read and not stored.
var documents = []string{ocispec.ImageLayoutFile, ocispec.ImageIndexFile, "manifest.json", "repositories"}

func (a *bundle) read(ctx context.Context, plain io.Reader) error {
	t := tar.NewReader(plain)
	for n := 0; ; n++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, plain) // so that a pipe's writer comes to its end
			return err
		}
		if err != nil {
			return damaged("tar", err)
		}
		if n >= maxArchiveEntries {
			return api.E("", api.Exhausted, "", fmt.Errorf("more than %d entries", maxArchiveEntries))
		}
		if err := a.entry(ctx, h, t); err != nil {
			return err
		}
	}
}

func (a *bundle) entry(ctx context.Context, h *tar.Header, content io.Reader) error {
	name := path.Clean(h.Name)
	switch h.Typeflag {
	case tar.TypeSymlink, tar.TypeLink:
		target := path.Join(path.Dir(name), h.Linkname)
		if h.Typeflag == tar.TypeLink {
			target = path.Clean(h.Linkname)
		}
		a.links[name] = target // a name within the archive; nothing is opened by it
		return nil
	case tar.TypeReg:
	default:
		return nil
	}
	if h.Size > maxArchive-a.size {
		return api.E("", api.Exhausted, "", fmt.Errorf("more than %d GiB, with entry %.300q of %d bytes", maxArchive>>30, h.Name, h.Size))
	}
	a.size += h.Size
	for _, doc := range documents {
		if name != doc {
			continue
		}
		if h.Size > maxDocument {
			return api.E("", api.Invalid, "", fmt.Errorf("%s has %d bytes, more than %d", doc, h.Size, maxDocument))
		}
		b, err := io.ReadAll(content)
		if err != nil {
			return damaged("tar", err)
		}
		a.docs[doc] = b
		return nil
	}
	desc, err := a.store.writeBlob(ctx, content, "", nil)
	if err != nil {
		return damaged("tar", err)
	}
	// The digest in a name of an OCI layout is a promise.
	if hex, ok := strings.CutPrefix(name, "blobs/sha256/"); ok && hex != desc.Digest.Encoded() {
		return api.E("", api.Corrupt, "", fmt.Errorf("entry %.300q has the digest %s; the archive is damaged", h.Name, desc.Digest))
	}
	a.blobs[name] = desc
	return nil
}

// find returns the blob that stands under a name.
func (a *bundle) find(name string) (ocispec.Descriptor, error) {
	name = path.Clean(name)
	for range 8 {
		if desc, ok := a.blobs[name]; ok {
			return desc, nil
		}
		target, ok := a.links[name]
		if !ok {
			break
		}
		name = target
	}
	return ocispec.Descriptor{}, api.E("", api.Corrupt, "", fmt.Errorf("the archive is incomplete: %.300q is missing", name))
}

// bundled is one image of a bundle.
type bundled struct {
	target ocispec.Descriptor
	names  []string
}

// importBundle names and converts the images of an archive. All of them are
// complete before the first gets its name.
func (s *Store) importBundle(ctx context.Context, a *bundle, opt ImportOptions) ([]string, error) {
	found, err := a.images(ctx)
	if err != nil {
		return nil, err
	}
	return s.nameBundle(ctx, found, opt)
}

func (s *Store) nameBundle(ctx context.Context, found []bundled, opt ImportOptions) ([]string, error) {
	if opt.Name != "" {
		name, err := tagName(opt.Name)
		if err != nil {
			return nil, err
		}
		if len(found) > 1 {
			return nil, api.E("", api.Invalid, "", fmt.Errorf("it holds %d images, which cannot all be named %s; leave the name out", len(found), name))
		}
		found[0].names = []string{name}
	}
	var names []string
	for _, b := range found {
		if len(b.names) == 0 {
			return nil, api.E("", api.Invalid, "", errors.New("the archive does not name its image; give a name"))
		}
		if err := s.prepare(ctx, b.target, opt.Progress); err != nil {
			return nil, err
		}
	}
	for _, b := range found {
		for _, name := range b.names {
			if err := s.setName(ctx, name, b.target, nil); err != nil {
				return nil, err
			}
			names = append(names, Familiar(name))
		}
	}
	return names, nil
}

// prepare labels what target leads to, so that it is not garbage, and converts
// the layers of the part that is for this host.
func (s *Store) prepare(ctx context.Context, target ocispec.Descriptor, progress Progress) error {
	desc, m, err := s.manifest(ctx, target)
	if notFound(err) {
		return incomplete(err)
	} else if err != nil {
		return err
	}
	if err := s.setLabels(ctx, desc.Digest, manifestLabels(*m)); err != nil {
		return err
	}
	if target.Digest != desc.Digest {
		if err := s.setLabels(ctx, target.Digest, map[string]string{"containerd.io/gc.ref.content.m.0": desc.Digest.String()}); err != nil {
			return err
		}
	}
	if err := s.keepAttestations(ctx, target, desc); err != nil {
		return err
	}
	if m.Config.MediaType == ocispec.MediaTypeEmptyJSON {
		return nil // an artifact: nothing to convert
	}
	if m.ArtifactType == diskArtifact {
		return s.prepareDisk(ctx, m, progress)
	}
	doc, err := s.config(ctx, m)
	if notFound(err) {
		return incomplete(err)
	} else if err != nil {
		return err
	}
	err = s.convertAll(ctx, m.Layers, doc.RootFS.DiffIDs, progress)
	if notFound(err) {
		return incomplete(err)
	}
	return err
}

func incomplete(err error) error {
	return api.E("", api.Corrupt, "", fmt.Errorf("it is incomplete: %w", err))
}

// images returns the images of the archive.
func (a *bundle) images(ctx context.Context) ([]bundled, error) {
	if _, ok := a.docs[ocispec.ImageLayoutFile]; ok {
		return layoutImages(a.docs[ocispec.ImageLayoutFile], a.docs[ocispec.ImageIndexFile])
	}
	if doc, ok := a.docs["manifest.json"]; ok {
		return a.dockerImages(ctx, doc)
	}
	return nil, api.E("", api.Corrupt, "", errors.New("it has neither an OCI layout nor docker's manifest.json; is it truncated?"))
}

// layoutImages reads the two documents of an OCI image layout.
func layoutImages(layout, index []byte) ([]bundled, error) {
	var version ocispec.ImageLayout
	if err := json.Unmarshal(layout, &version); err != nil || version.Version != ocispec.ImageLayoutVersion {
		return nil, api.E("", api.Unsupported, "", fmt.Errorf("OCI layout of version %.20q, not %s", version.Version, ocispec.ImageLayoutVersion))
	}
	idx, err := parseIndex(index)
	if err != nil {
		return nil, err
	}
	// Several descriptors may be tags of one image, or untagged platforms of one.
	var found []bundled
	for _, d := range idx.Manifests {
		if !images.IsManifestType(d.MediaType) && !images.IsIndexType(d.MediaType) {
			continue
		}
		b := bundled{target: d}
		for _, key := range []string{images.AnnotationImageName, ocispec.AnnotationRefName} {
			if name, err := fullName(d.Annotations[key]); err == nil && strings.ContainsAny(d.Annotations[key], ":/") {
				b.names = []string{name}
				break
			}
		}
		found = append(found, b)
	}
	if len(found) == 0 {
		return nil, api.E("", api.Corrupt, "", errors.New("its index names no image"))
	}
	return found, nil
}

// dockerImages reads docker's manifest.json and makes manifests, which such an
// archive lacks.
func (a *bundle) dockerImages(ctx context.Context, doc []byte) ([]bundled, error) {
	var list []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(doc, &list); err != nil {
		return nil, api.E("", api.Corrupt, "", fmt.Errorf("manifest.json is not valid: %w", err))
	}
	if len(list) == 0 || len(list) > 1000 {
		return nil, api.E("", api.Corrupt, "", fmt.Errorf("manifest.json lists %d images", len(list)))
	}
	var found []bundled
	for _, e := range list {
		m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
		var err error
		if m.Config, err = a.find(e.Config); err != nil {
			return nil, err
		}
		m.Config.MediaType = ocispec.MediaTypeImageConfig
		if len(e.Layers) > maxLayers {
			return nil, api.E("", api.Invalid, "", fmt.Errorf("%d layers, more than %d", len(e.Layers), maxLayers))
		}
		for _, name := range e.Layers {
			l, err := a.find(name)
			if err != nil {
				return nil, err
			}
			if l.MediaType, err = a.store.layerType(ctx, l); err != nil {
				return nil, err
			}
			m.Layers = append(m.Layers, l)
		}
		b := bundled{}
		if b.target, err = a.store.writeJSON(ctx, m, ocispec.MediaTypeImageManifest, manifestLabels(m)); err != nil {
			return nil, err
		}
		for _, tag := range e.RepoTags {
			name, err := fullName(tag)
			if err != nil {
				return nil, err
			}
			b.names = append(b.names, name)
		}
		found = append(found, b)
	}
	return found, nil
}

// layerType tells how a layer is compressed from its first bytes.
func (s *Store) layerType(ctx context.Context, l ocispec.Descriptor) (string, error) {
	ra, err := s.content.ReaderAt(ctx, l)
	if err != nil {
		return "", err
	}
	defer ra.Close()
	head := make([]byte, peekLength)
	n, _ := ra.ReadAt(head, 0) // a shorter blob is no compressed stream
	switch c := detect(head[:n]); c {
	case none:
		return ocispec.MediaTypeImageLayer, nil
	case gzipped:
		return ocispec.MediaTypeImageLayerGzip, nil
	case zstandard:
		return ocispec.MediaTypeImageLayerZstd, nil
	default:
		return "", api.E("", api.Unsupported, "", fmt.Errorf("a layer is compressed with %s, which OCI has no type for", c))
	}
}

// importLayout imports a directory in OCI image layout.
func (s *Store) importLayout(ctx context.Context, dir string, opt ImportOptions) ([]string, error) {
	ctx, done, err := s.work(ctx)
	if err != nil {
		return nil, err
	}
	defer s.finish(ctx, done)
	l, err := openLayout(dir)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	layout, err := l.document(ocispec.ImageLayoutFile)
	if err != nil {
		return nil, err
	}
	index, err := l.document(ocispec.ImageIndexFile)
	if err != nil {
		return nil, err
	}
	found, err := layoutImages(layout, index)
	if err != nil {
		return nil, err
	}
	for _, b := range found {
		if err := s.copyLayout(ctx, l, b.target); err != nil {
			return nil, err
		}
	}
	return s.nameBundle(ctx, found, opt)
}

// copyLayout copies what target leads to, as far as it is for this host.
func (s *Store) copyLayout(ctx context.Context, l *layout, target ocispec.Descriptor) error {
	for range 4 {
		if err := l.copy(ctx, s, target); err != nil {
			return err
		}
		if !images.IsIndexType(target.MediaType) {
			break
		}
		b, err := s.readBlob(ctx, target, maxManifest)
		if err != nil {
			return err
		}
		index, err := parseIndex(b)
		if err != nil {
			return err
		}
		if target, err = choose(index, platforms.Default(), platforms.DefaultString()); err != nil {
			return err
		}
	}
	_, m, err := s.manifest(ctx, target)
	if err != nil {
		return err
	}
	for _, desc := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if err := l.copy(ctx, s, desc); err != nil {
			return err
		}
	}
	return nil
}
