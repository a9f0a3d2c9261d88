package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
)

// An attestation says something of an image: what it is made of, or how it was made. Its
// manifest stands beside the image's in their index (BuildKit's
// docs/attestations/attestation-storage.md).
const (
	referenceType   = "vnd.docker.reference.type"
	referenceDigest = "vnd.docker.reference.digest"
	attestation     = "attestation-manifest"
	predicateType   = "in-toto.io/predicate-type" // of a layer, which is a statement
)

// Bounds of attestations.
const (
	maxAttestations = 8        // manifests of one image
	maxStatement    = 64 << 20 // bytes
)

// sbomFormat returns the format of statements that say what an image is made of, and ""
// for those that say something else.
func sbomFormat(predicate string) string {
	switch predicate {
	case "https://spdx.dev/Document":
		return "spdx"
	case "https://cyclonedx.org/bom":
		return "cyclonedx"
	}
	return ""
}

// attestationsOf returns the manifests of an index that are about one of its images.
func attestationsOf(index *ocispec.Index, of digest.Digest) []ocispec.Descriptor {
	var list []ocispec.Descriptor
	for _, d := range index.Manifests {
		if d.Annotations[referenceType] == attestation && d.Annotations[referenceDigest] == of.String() && images.IsManifestType(d.MediaType) && len(list) < maxAttestations {
			list = append(list, d)
		}
	}
	return list
}

// attestations returns the manifests about an image that target, an index, leads to.
func (s *Store) attestations(ctx context.Context, target ocispec.Descriptor, of digest.Digest) ([]ocispec.Descriptor, error) {
	if !images.IsIndexType(target.MediaType) {
		return nil, nil
	}
	b, err := s.readBlob(ctx, target, maxManifest)
	if err != nil {
		return nil, err
	}
	index, err := parseIndex(b)
	if err != nil {
		return nil, err
	}
	return attestationsOf(index, of), nil
}

// keepAttestations labels what the store has of them, so that it is not garbage. What was
// not fetched is not missed.
func (s *Store) keepAttestations(ctx context.Context, target, of ocispec.Descriptor) error {
	list, err := s.attestations(ctx, target, of.Digest)
	if err != nil {
		return err
	}
	for i, d := range list {
		b, err := s.readBlob(ctx, d, maxManifest)
		if notFound(err) {
			continue
		} else if err != nil {
			return err
		}
		m, err := parseManifest(b)
		if err != nil {
			return err
		}
		if err := s.setLabels(ctx, d.Digest, manifestLabels(*m)); err != nil {
			return err
		}
		if err := s.setLabels(ctx, target.Digest, map[string]string{fmt.Sprintf("containerd.io/gc.ref.content.m.%d", i+1): d.Digest.String()}); err != nil {
			return err
		}
	}
	return nil
}

// attestations fetches what the registry has to say of the image.
func (p *puller) attestations(ctx context.Context, target, of ocispec.Descriptor) error {
	list, err := p.s.attestations(ctx, target, of.Digest)
	if err != nil {
		return err
	}
	for _, d := range list {
		if err := p.fetch(ctx, d, maxManifest); err != nil {
			return err
		}
		b, err := p.s.readBlob(ctx, d, maxManifest)
		if err != nil {
			return err
		}
		m, err := parseManifest(b)
		if err != nil {
			return err
		}
		for _, blob := range slices.Concat([]ocispec.Descriptor{m.Config}, m.Layers) {
			if err := p.fetch(ctx, blob, maxStatement); err != nil {
				return err
			}
		}
	}
	return nil
}

// SBOM returns the list of what an image is made of that was made with it and is kept
// with it.
//
// Errors: NotFound where the image has none.
func (s *Store) SBOM(ctx context.Context, name string) (api.SBOM, error) {
	ctx = s.context(ctx)
	rec, err := s.lookup(ctx, name)
	if err != nil {
		return api.SBOM{}, err
	}
	sbom, err := s.sbom(ctx, rec.Target)
	return sbom, api.E("read the SBOM of", "", Familiar(rec.Name), err)
}

func (s *Store) sbom(ctx context.Context, target ocispec.Descriptor) (api.SBOM, error) {
	desc, _, err := s.manifest(ctx, target)
	if err != nil {
		return api.SBOM{}, err
	}
	list, err := s.attestations(ctx, target, desc.Digest)
	if err != nil {
		return api.SBOM{}, err
	}
	for _, d := range list {
		b, err := s.readBlob(ctx, d, maxManifest)
		if notFound(err) {
			continue
		} else if err != nil {
			return api.SBOM{}, err
		}
		m, err := parseManifest(b)
		if err != nil {
			return api.SBOM{}, err
		}
		for _, l := range m.Layers {
			if format := sbomFormat(l.Annotations[predicateType]); format != "" {
				return s.statement(ctx, l, format)
			}
		}
	}
	return api.SBOM{}, api.E("", api.NotFound, "", errors.New("the image has none; have it built with berth build --sbom"))
}

// statement reads what a statement states.
func (s *Store) statement(ctx context.Context, desc ocispec.Descriptor, format string) (api.SBOM, error) {
	b, err := s.readBlob(ctx, desc, maxStatement)
	if err != nil {
		return api.SBOM{}, err
	}
	var statement struct {
		Predicate json.RawMessage `json:"predicate"`
	}
	if err := json.Unmarshal(b, &statement); err != nil || len(statement.Predicate) == 0 {
		return api.SBOM{}, api.E("", api.Corrupt, "", fmt.Errorf("the statement %s states nothing", short(desc.Digest)))
	}
	return api.SBOM{Format: format, Document: statement.Predicate}, nil
}
