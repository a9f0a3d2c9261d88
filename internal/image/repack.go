package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/berthcloud/berth/api"
)

// Compression says how layers travel. The zero value leaves them as they are, but for
// those that were made here and are not compressed at all: they are with gzip, which
// docker before 23 reads, too.
type Compression struct {
	Format string // gzip, zstd, or "" for as they are
	Level  int    // of gzip 1 to 9, of zstd 1 to 22; 0 for the usual one
}

// Check refuses what no layer can be compressed with.
func (c Compression) Check() error {
	most := map[string]int{"": 0, string(gzipped): 9, string(zstandard): 22}
	switch top, known := most[c.Format]; {
	case !known:
		return api.E("", api.Invalid, "", fmt.Errorf("layers are not compressed with %.20q; choose gzip or zstd", c.Format))
	case c.Format == "" && c.Level != 0:
		return api.E("", api.Invalid, "", errors.New("a level of compression says nothing without a format, gzip or zstd"))
	case c.Level < 0 || c.Level > top:
		return api.E("", api.Invalid, "", fmt.Errorf("%s has no level %d; choose one from 1 to %d", c.Format, c.Level, top))
	}
	return nil
}

// wants returns what a layer is to be compressed with, or none where it stays as it is.
func (c Compression) wants(l ocispec.Descriptor, labels map[string]string) compression {
	has, known := layerTypes[ociLayerType(l.MediaType)]
	switch {
	case !known: // not a layer, or not to be distributed
		return none
	case c.Format == "" && has == none && len(sources(labels)) == 0:
		return gzipped
	case c.Format == string(has) && c.Level == 0:
		return none
	}
	return compression(c.Format)
}

// layerTypes are the media types of layers.
var layerTypes = map[string]compression{
	ocispec.MediaTypeImageLayer: none, ocispec.MediaTypeImageLayerGzip: gzipped, ocispec.MediaTypeImageLayerZstd: zstandard,
}

func layerType(c compression) string {
	if c == zstandard {
		return ocispec.MediaTypeImageLayerZstd
	}
	return ocispec.MediaTypeImageLayerGzip
}

// writer compresses into w.
func (c Compression) writer(as compression, w io.Writer) (io.WriteCloser, error) {
	if as == zstandard {
		level := zstd.SpeedDefault
		if c.Level > 0 {
			level = zstd.EncoderLevelFromZstd(c.Level)
		}
		return zstd.NewWriter(w, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1))
	}
	level := pgzip.DefaultCompression
	if c.Level > 0 {
		level = c.Level
	}
	return pgzip.NewWriterLevel(w, level)
}

// repacker compresses the layers of an image for a push.
type repacker struct {
	s        *Store
	as       Compression
	progress Progress

	mu   sync.Mutex
	made map[digest.Digest]ocispec.Descriptor // what has taken the place of a layer or manifest
}

// repacked returns an image with layers as a push wants them. Where these are others, the
// name means from now on the image that has them. All of t is here.
func (s *Store) repacked(ctx context.Context, rec images.Image, t tree, as Compression, progress Progress) (images.Image, error) {
	if untagged(rec) {
		if as != (Compression{}) {
			return rec, api.E("", api.Invalid, "", errors.New("a digest says which bytes are pushed, and they cannot be compressed in another way; name a tag"))
		}
		return rec, nil
	}
	r := &repacker{s: s, as: as, progress: progress, made: map[digest.Digest]ocispec.Descriptor{}}
	for _, desc := range t.manifests { // what one speaks of stands before it
		next := r.manifest
		if images.IsIndexType(desc.MediaType) {
			next = r.index
		}
		if err := next(ctx, desc); err != nil {
			return rec, err
		}
	}
	target, other := r.made[t.top().Digest]
	if !other {
		return rec, nil
	}
	rec.Target = target
	return rec, s.setName(ctx, rec.Name, target, nil)
}

// document reads a manifest or an index, whose members stay as they are.
func (r *repacker) document(ctx context.Context, desc ocispec.Descriptor) (object, error) {
	b, err := r.s.readBlob(ctx, desc, maxManifest)
	if err != nil {
		return nil, err
	}
	var doc object
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, api.E("", api.Corrupt, "", fmt.Errorf("manifest %s is not valid: %w", short(desc.Digest), err))
	}
	return doc, nil
}

// replace stores what takes the place of a manifest or an index.
func (r *repacker) replace(ctx context.Context, old ocispec.Descriptor, doc object, mediaType string) error {
	if err := doc.put("mediaType", mediaType); err != nil {
		return err
	}
	b, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	m, err := parseAny(b, mediaType)
	if err != nil {
		return err
	}
	desc, err := r.s.writeJSON(ctx, doc, mediaType, gcLabels(m))
	r.made[old.Digest] = desc
	return err
}

// manifest compresses the layers of a manifest, and has one that speaks of another manifest
// speak of what took its place.
func (r *repacker) manifest(ctx context.Context, desc ocispec.Descriptor) error {
	doc, err := r.document(ctx, desc)
	if err != nil {
		return err
	}
	var layers []ocispec.Descriptor
	var config ocispec.Descriptor
	var subject *ocispec.Descriptor
	if err := errors.Join(doc.take("layers", &layers), doc.take("config", &config), doc.take("subject", &subject)); err != nil {
		return api.E("", api.Corrupt, "", fmt.Errorf("manifest %s is not valid: %w", short(desc.Digest), err))
	}
	changed, err := r.layers(ctx, layers, config)
	if err != nil {
		return err
	}
	if changed {
		for i, l := range layers {
			layers[i].MediaType = ociLayerType(l.MediaType)
		}
		config.MediaType = ocispec.MediaTypeImageConfig
		err = errors.Join(doc.put("layers", layers), doc.put("config", config))
	}
	if subject != nil {
		if next, ok := r.made[subject.Digest]; ok {
			changed = true
			err = errors.Join(err, doc.put("subject", r.takePlace(*subject, next)))
		}
	}
	if err != nil || !changed {
		return err
	}
	return r.replace(ctx, desc, doc, ocispec.MediaTypeImageManifest)
}

// takePlace returns the description of what took the place of another manifest.
func (r *repacker) takePlace(old, next ocispec.Descriptor) ocispec.Descriptor {
	old.MediaType, old.Digest, old.Size, old.Data = next.MediaType, next.Digest, next.Size, nil
	return old
}

// index has an index speak of what took the place of its manifests.
func (r *repacker) index(ctx context.Context, desc ocispec.Descriptor) error {
	doc, err := r.document(ctx, desc)
	if err != nil {
		return err
	}
	var manifests []ocispec.Descriptor
	if err := doc.take("manifests", &manifests); err != nil {
		return api.E("", api.Corrupt, "", fmt.Errorf("index %s is not valid: %w", short(desc.Digest), err))
	}
	changed := false
	for i, m := range manifests {
		if next, ok := r.made[m.Digest]; ok {
			manifests[i], changed = r.takePlace(m, next), true
		}
		if next, ok := r.made[digest.Digest(m.Annotations[referenceDigest])]; ok { // an attestation's
			manifests[i].Annotations = maps.Clone(m.Annotations)
			manifests[i].Annotations[referenceDigest], changed = next.Digest.String(), true
		}
	}
	if !changed {
		return nil
	}
	if err := doc.put("manifests", manifests); err != nil {
		return err
	}
	return r.replace(ctx, desc, doc, ocispec.MediaTypeImageIndex)
}

// layers compresses those of an image's layers that are to be, several at a time, and
// reports whether there are any.
func (r *repacker) layers(ctx context.Context, layers []ocispec.Descriptor, config ocispec.Descriptor) (bool, error) {
	wants := make([]compression, len(layers))
	for i, l := range layers {
		info, err := r.s.content.Info(ctx, l.Digest)
		if err != nil {
			return false, err
		}
		wants[i] = r.as.wants(l, info.Labels)
	}
	if !slices.ContainsFunc(wants, func(c compression) bool { return c != none }) {
		return false, nil
	}
	b, err := r.s.readBlob(ctx, config, maxConfig)
	if err != nil {
		return false, err
	}
	doc, err := parseConfig(b)
	if err == nil && len(doc.RootFS.DiffIDs) != len(layers) {
		err = api.E("", api.Corrupt, "", fmt.Errorf("the manifest has %d layers, the config %d", len(layers), len(doc.RootFS.DiffIDs)))
	}
	if err != nil {
		return false, err
	}
	g, within := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, l := range layers {
		if wants[i] == none {
			continue
		}
		g.Go(func() (err error) {
			layers[i], err = r.layer(within, l, wants[i], doc.RootFS.DiffIDs[i])
			return err
		})
	}
	return true, g.Wait()
}

// layer compresses one layer, which is known by the digest of its tar.
func (r *repacker) layer(ctx context.Context, l ocispec.Descriptor, as compression, diffID digest.Digest) (ocispec.Descriptor, error) {
	fail := func(err error) (ocispec.Descriptor, error) { return l, err }
	r.mu.Lock()
	made, ok := r.made[l.Digest]
	r.mu.Unlock()
	if ok {
		return made, nil
	}
	info, err := r.s.content.Info(ctx, l.Digest)
	if err != nil {
		return fail(err)
	}
	ra, err := r.s.content.ReaderAt(ctx, l)
	if err != nil {
		return fail(err)
	}
	defer ra.Close()
	part := short(l.Digest)
	counted := &layerReader{in: contextReader{ctx, content.NewReader(ra)}, progress: func(n int64) { r.progress.report(part, StageConverting, n, ra.Size()) }}
	plain, err := decompress(counted)
	if err != nil {
		return fail(err)
	}
	defer plain.Close()
	w, err := r.s.newBlob(ctx)
	if err != nil {
		return fail(err)
	}
	defer w.abandon()
	pack, err := r.as.writer(as, w)
	if err != nil {
		return fail(err)
	}
	hash := digest.Canonical.Digester()
	_, err = io.CopyBuffer(onlyWriter{io.MultiWriter(pack, hash.Hash())}, r.s.opt.Limits.Reader(plain, counted.count), make([]byte, 256<<10))
	if err = errors.Join(err, pack.Close()); err != nil {
		return fail(diskFull(err))
	}
	if hash.Digest() != diffID {
		return fail(api.E("", api.Corrupt, "", fmt.Errorf("layer %s expands to %s, but the image's config says %s", part, short(hash.Digest()), short(diffID))))
	}
	labels := map[string]string{}
	if erofs, ok := info.Labels[erofsRefLabel]; ok {
		labels[erofsRefLabel] = erofs
	}
	desc, err := w.commit(layerType(as), labels)
	if err != nil {
		return fail(err)
	}
	r.mu.Lock()
	r.made[l.Digest] = desc
	r.mu.Unlock()
	return desc, nil
}
