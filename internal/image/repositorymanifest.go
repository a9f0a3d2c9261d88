package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image/chunks"
)

// ErrBlobUnknown is the cause of the error of a manifest that refers to something which
// its repository does not have.
var ErrBlobUnknown = errors.New("not in this repository; push it first")

// MaxManifest is how many bytes a manifest may have: the least that the
// distribution-spec wants a registry to take.
const MaxManifest = maxManifest

// Bounds of what one manifest refers to: each has to be looked for and written down.
const (
	maxReferences     = 1000
	maxDiskReferences = chunks.MaxCount + 2 // of a disk in chunks
)

// pushedLabel is on names that others have pushed, which somebody may want to pull though
// nobody uses them here.
const pushedLabel = "berth.pushed"

var pushed = map[string]string{pushedLabel: "true"}

// parsed is what concerns a registry in a manifest or an index.
type parsed struct {
	mediaType        string
	manifests, blobs []ocispec.Descriptor // that it refers to
	subject          digest.Digest
	artifactType     string
	annotations      map[string]string
}

// parseAny reads a manifest or an index, of an image or of anything else. It refuses a
// document that is both (CVE-2021-41190).
func parseAny(b []byte, mediaType string) (*parsed, error) {
	fail := func(err error) (*parsed, error) {
		return nil, api.E("", api.Corrupt, "", fmt.Errorf("no valid manifest: %w", err))
	}
	var doc struct {
		SchemaVersion int                  `json:"schemaVersion"`
		MediaType     string               `json:"mediaType"`
		ArtifactType  string               `json:"artifactType"`
		Config        *ocispec.Descriptor  `json:"config"`
		Layers        []ocispec.Descriptor `json:"layers"`
		Manifests     []ocispec.Descriptor `json:"manifests"`
		FSLayers      json.RawMessage      `json:"fsLayers"`
		Subject       *ocispec.Descriptor  `json:"subject"`
		Annotations   map[string]string    `json:"annotations"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return fail(err)
	}
	if doc.SchemaVersion != 2 {
		return fail(fmt.Errorf("schema version %d", doc.SchemaVersion))
	}
	if doc.MediaType != "" && doc.MediaType != mediaType {
		return fail(fmt.Errorf("it is sent as %.80q and says that it is %.80q", mediaType, doc.MediaType))
	}
	p := &parsed{mediaType: mediaType, artifactType: doc.ArtifactType, annotations: doc.Annotations}
	switch {
	case images.IsIndexType(mediaType):
		if doc.Config != nil || doc.Layers != nil || doc.FSLayers != nil {
			return fail(errors.New("it is of two kinds at once"))
		}
		p.manifests = doc.Manifests
	case images.IsManifestType(mediaType):
		if doc.Manifests != nil || doc.FSLayers != nil {
			return fail(errors.New("it is of two kinds at once"))
		}
		if doc.Config == nil {
			return fail(errors.New("it has no config"))
		}
		if p.artifactType == "" {
			p.artifactType = doc.Config.MediaType
		}
		p.blobs = append([]ocispec.Descriptor{*doc.Config}, doc.Layers...)
	default:
		return nil, api.E("", api.Unsupported, "", fmt.Errorf("manifests of type %.80q are not taken", mediaType))
	}
	all := slices.Concat(p.manifests, p.blobs)
	if doc.Subject != nil {
		p.subject, all = doc.Subject.Digest, append(all, *doc.Subject)
	}
	most := maxReferences
	if len(doc.Layers) > 0 && doc.Layers[0].MediaType == diskIndexType {
		most = maxDiskReferences
	}
	if len(all) > most {
		return fail(fmt.Errorf("it refers to %d things, more than %d", len(all), most))
	}
	for _, d := range all {
		if err := checkDescriptor(d); err != nil {
			return fail(err)
		}
	}
	return p, nil
}

// parse reads a manifest of the store. r.mu is held.
func (r *Repositories) parse(ctx context.Context, desc ocispec.Descriptor) (*parsed, error) {
	if p, ok := r.parsed[desc.Digest]; ok {
		return p, nil
	}
	b, err := r.s.readBlob(ctx, desc, maxManifest)
	if err != nil {
		return nil, err
	}
	p, err := parseAny(b, desc.MediaType)
	if err != nil {
		return nil, err
	}
	if r.references += len(p.manifests) + len(p.blobs) + 1; r.references > maxParsed {
		clear(r.parsed)
		r.references = 0
	}
	r.parsed[desc.Digest] = p
	return p, nil
}

// Manifest returns a manifest of a repository, by tag or by digest.
func (r *Repositories) Manifest(ctx context.Context, name, ref string) (ocispec.Descriptor, []byte, error) {
	ctx = r.s.context(ctx)
	desc, err := r.manifest(ctx, name, ref)
	if err != nil {
		return desc, nil, api.E("get manifest", "", name, err)
	}
	b, err := r.s.readBlob(ctx, desc, maxManifest)
	if notFound(err) { // of a platform that was not pulled
		err = noManifest(ref)
	}
	desc.Size = int64(len(b))
	return desc, b, api.E("get manifest", "", name, err)
}

func (r *Repositories) manifest(ctx context.Context, name, ref string) (ocispec.Descriptor, error) {
	repo, err := r.find(ctx, name)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if desc, ok := repo.tags[ref]; ok {
		return desc, nil
	}
	d := digest.Digest(ref)
	if desc, ok := repo.targets[d]; ok {
		return desc, nil
	}
	if err := r.reach(ctx, repo); err != nil {
		return ocispec.Descriptor{}, err
	}
	if desc, ok := repo.manifests[d]; ok {
		return desc, nil
	}
	return ocispec.Descriptor{}, noManifest(ref)
}

func noManifest(ref string) error {
	return api.E("", api.NotFound, "", fmt.Errorf("the repository has no manifest %.140q", ref))
}

// PutManifest stores a manifest under the digest or the tag ref, and under further tags,
// and returns its descriptor and the digest of its subject, if it has one. All it refers
// to, its subject excepted, must be in the repository: else somebody could read another
// repository's blobs by naming their digests.
func (r *Repositories) PutManifest(ctx context.Context, name, ref, mediaType string, body []byte, tags ...string) (ocispec.Descriptor, digest.Digest, error) {
	fail := func(err error) (ocispec.Descriptor, digest.Digest, error) {
		return ocispec.Descriptor{}, "", api.E("put manifest", "", name, diskFull(err))
	}
	m, err := parseAny(body, mediaType)
	if err != nil {
		return fail(err)
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}
	if d := digest.Digest(ref); checkDigest(d) == nil {
		if desc.Digest = d.Algorithm().FromBytes(body); desc.Digest != d {
			return fail(api.E("", api.Corrupt, "", fmt.Errorf("the manifest has the digest %s", desc.Digest)))
		}
	} else {
		tags = append(tags, ref)
	}
	r.writing.Lock()
	defer r.writing.Unlock()
	ctx, done, err := r.s.work(ctx)
	if err != nil {
		return fail(err)
	}
	defer done()
	if err := r.refers(ctx, name, m); err != nil {
		return fail(err)
	}
	if left, err := r.room(ctx, name); err != nil {
		return fail(err)
	} else if desc.Size > left {
		return fail(r.full())
	}
	if err := r.s.writeManifestBytes(ctx, desc, body, m); err != nil {
		return fail(err)
	}
	for _, tag := range tags {
		if err := r.untag(ctx, name, tag, desc.Digest); err != nil {
			return fail(err)
		}
		if err := r.s.setName(ctx, name+":"+tag, desc, pushed); err != nil {
			return fail(err)
		}
	}
	if !slices.Contains(tags, ref) {
		err = r.s.setName(ctx, name+"@"+desc.Digest.String(), desc, pushed)
	}
	if err != nil {
		return fail(err)
	}
	return desc, m.subject, nil
}

// refers wants the repository to have what a manifest refers to, and keeps it meanwhile.
func (r *Repositories) refers(ctx context.Context, name string, m *parsed) error {
	missing := func(d ocispec.Descriptor) error {
		return api.E("", api.NotFound, d.Digest.String(), ErrBlobUnknown)
	}
	for _, d := range m.manifests {
		if _, err := r.manifest(ctx, name, d.Digest.String()); err != nil || !r.s.keep(ctx, d.Digest) {
			return missing(d)
		}
	}
	for _, d := range m.blobs {
		if images.IsNonDistributable(d.MediaType) {
			continue
		}
		has, err := r.has(ctx, name, d.Digest)
		if err != nil {
			return err
		}
		if !has || !r.s.keep(ctx, d.Digest) {
			return missing(d)
		}
		size, err := r.s.size(ctx, d)
		if err != nil {
			return missing(d)
		}
		if size != d.Size {
			return api.E("", api.Corrupt, "", fmt.Errorf("the manifest says that %s has %d bytes; it has %d", short(d.Digest), d.Size, size))
		}
	}
	return nil
}

// writeManifestBytes stores a manifest as it is.
func (s *Store) writeManifestBytes(ctx context.Context, desc ocispec.Descriptor, body []byte, m *parsed) error {
	labels := gcLabels(m)
	err := content.WriteBlob(ctx, s.content, "manifest-"+desc.Digest.Encoded(), bytes.NewReader(body), desc, content.WithLabels(labels))
	if err != nil {
		return err
	}
	return s.setLabels(ctx, desc.Digest, labels)
}

// gcLabels lead the garbage collector from a manifest or an index to all it refers to.
func gcLabels(m *parsed) map[string]string {
	labels := map[string]string{}
	for i, d := range slices.Concat(m.manifests, m.blobs) {
		labels[fmt.Sprintf("containerd.io/gc.ref.content.r.%d", i)] = d.Digest.String()
	}
	return labels
}

// untag takes a tag from the manifest that it means, which stays in the repository,
// unless that is the one it is to mean.
func (r *Repositories) untag(ctx context.Context, name, tag string, next digest.Digest) error {
	repo, err := r.find(ctx, name)
	if err != nil {
		return err
	}
	old, ok := repo.tags[tag]
	if !ok || old.Digest == next {
		return nil
	}
	return r.s.setName(ctx, name+"@"+old.Digest.String(), old, pushed)
}

// DeleteManifest takes a tag away, or a manifest with all its tags.
func (r *Repositories) DeleteManifest(ctx context.Context, name, ref string) error {
	ctx = r.s.context(ctx)
	r.writing.Lock()
	defer r.writing.Unlock()
	return api.E("delete manifest", "", name, r.delete(ctx, name, ref))
}

func (r *Repositories) delete(ctx context.Context, name, ref string) error {
	repo, err := r.find(ctx, name)
	if err != nil {
		return err
	}
	if _, ok := repo.tags[ref]; ok {
		if err := r.untag(ctx, name, ref, ""); err != nil {
			return err
		}
		return r.s.images.Delete(ctx, name+":"+ref)
	}
	d := digest.Digest(ref)
	if _, ok := repo.targets[d]; !ok {
		if _, err := r.manifest(ctx, name, ref); err != nil {
			return err
		}
		return api.E("", api.InUse, "", errors.New("an index of the repository refers to it; delete that first"))
	}
	defer r.dirty()
	for tag, desc := range repo.tags {
		if desc.Digest == d {
			err = errors.Join(err, r.s.images.Delete(ctx, name+":"+tag))
		}
	}
	if e := r.s.images.Delete(ctx, name+"@"+ref); e != nil && !errdefs.IsNotFound(e) {
		err = errors.Join(err, e)
	}
	return err
}

// Referrers returns the manifests of a repository whose subject has a digest, as the
// distribution-spec wants them described, sorted by digest.
func (r *Repositories) Referrers(ctx context.Context, name string, subject digest.Digest) ([]ocispec.Descriptor, error) {
	ctx = r.s.context(ctx)
	repo, err := r.find(ctx, name)
	if err == nil {
		err = r.reach(ctx, repo)
	}
	if err != nil {
		return nil, api.E("list referrers", "", name, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	found := []ocispec.Descriptor{}
	for _, d := range slices.Sorted(maps.Keys(repo.manifests)) {
		desc := repo.manifests[d]
		m, err := r.parse(ctx, desc)
		if err != nil || m.subject != subject {
			continue // reach has told the two kinds of error apart
		}
		found = append(found, ocispec.Descriptor{
			MediaType: m.mediaType, Digest: d, Size: desc.Size, ArtifactType: m.artifactType, Annotations: m.annotations,
		})
	}
	return found, nil
}
