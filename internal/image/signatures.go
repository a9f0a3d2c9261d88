package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image/trust"
)

// Bounds of what is fetched to find a signature: who fills a registry with signatures
// that are none must not keep a pull busy.
const (
	maxSignatures = 50
	maxSignature  = 1 << 20 // bytes
)

// bundleAnnotation is of every manifest with a bundle that cosign makes.
const bundleAnnotation = "dev.sigstore.bundle.content"

// checkPolicy asks the policy whether what a name led to may be pulled. The policy is
// read anew, so that a change counts at once.
func (s *Store) checkPolicy(ctx context.Context, resolver remotes.Resolver, name string, target digest.Digest) error {
	if s.opt.Policy == "" {
		return nil
	}
	policy, err := trust.Load(s.opt.Policy)
	if err != nil {
		return err
	}
	return policy.Check(ctx, name, target, func(ctx context.Context) ([]trust.Signature, error) {
		named, err := reference.ParseNamed(name)
		if err != nil {
			return nil, err
		}
		f := signatureFetcher{resolver: resolver, repository: named.Name(), target: target}
		return f.all(ctx)
	}, s.opt.Verifier)
}

// Allow returns nil if the policy lets an image of that name and digest come from its
// registry: it is for those who fetch by other ways than Pull.
//
// Errors: Denied, in a line that says what is required.
func (s *Store) Allow(ctx context.Context, name string, target digest.Digest) error {
	g := newGuard(s.opt.Stall)
	defer g.close()
	return api.E("", "", Familiar(name), s.checkPolicy(ctx, s.resolver(ctx, Access{}, g), name, target))
}

// signatureFetcher fetches the signatures of one image.
type signatureFetcher struct {
	resolver   remotes.Resolver
	repository string
	target     digest.Digest
	found      []trust.Signature
}

// all returns the signatures that refer to the image, and those under the tag that is
// made of its digest.
func (f *signatureFetcher) all(ctx context.Context) ([]trust.Signature, error) {
	byDigest := f.repository + "@" + f.target.String()
	fetcher, err := f.resolver.Fetcher(ctx, byDigest)
	if err != nil {
		return nil, err
	}
	if r, ok := fetcher.(remotes.ReferrersFetcher); ok {
		refer, err := r.FetchReferrers(ctx, f.target)
		if err != nil && !errdefs.IsNotFound(err) {
			return nil, remoteError(ctx, err)
		}
		for _, desc := range refer {
			// Some registries list the type of the manifest's empty configuration.
			if !strings.HasPrefix(desc.ArtifactType, trust.Bundle) && desc.Annotations[bundleAnnotation] == "" {
				continue
			}
			if err := f.manifest(ctx, fetcher, desc, trust.Bundle); err != nil {
				return nil, err
			}
		}
	}
	_, desc, err := f.resolver.Resolve(ctx, f.repository+":"+trust.SimpleTag(f.target))
	switch {
	case errdefs.IsNotFound(err):
		return f.found, nil
	case err != nil:
		return nil, remoteError(ctx, err)
	}
	return f.found, f.manifest(ctx, fetcher, desc, trust.SimpleSigning)
}

// manifest adds the signatures that a manifest lists: the layers of that media type.
func (f *signatureFetcher) manifest(ctx context.Context, fetcher remotes.Fetcher, desc ocispec.Descriptor, mediaType string) error {
	b, err := f.blob(ctx, fetcher, desc)
	if err != nil {
		return err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return api.E("", api.Corrupt, "", fmt.Errorf("the manifest of the image's signature is no JSON: %w", err))
	}
	for _, l := range m.Layers {
		if !strings.HasPrefix(l.MediaType, mediaType) {
			continue
		}
		if len(f.found) == maxSignatures {
			return api.E("", api.Invalid, "", fmt.Errorf("the image has more than %d signatures", maxSignatures))
		}
		blob, err := f.blob(ctx, fetcher, l)
		if err != nil {
			return err
		}
		f.found = append(f.found, trust.Signature{MediaType: l.MediaType, Blob: blob, Annotations: l.Annotations})
	}
	return nil
}

// blob returns what a descriptor is of.
func (f *signatureFetcher) blob(ctx context.Context, fetcher remotes.Fetcher, desc ocispec.Descriptor) ([]byte, error) {
	if err := checkDescriptor(desc); err != nil {
		return nil, api.E("", api.Corrupt, "", err)
	}
	if desc.Size > maxSignature {
		return nil, api.E("", api.Invalid, "", fmt.Errorf("a signature of the image has %d bytes, more than %d", desc.Size, maxSignature))
	}
	desc.URLs = nil // the registry that was named, and no other host it may name
	rc, err := fetcher.Fetch(ctx, desc)
	if err != nil {
		return nil, remoteError(ctx, err)
	}
	defer rc.Close()
	b, err := io.ReadAll(io.LimitReader(rc, desc.Size+1))
	if err != nil {
		return nil, remoteError(ctx, err)
	}
	if int64(len(b)) != desc.Size || desc.Digest.Algorithm().FromBytes(b) != desc.Digest {
		return nil, api.E("", api.Corrupt, "", errors.New("what the registry sent as a signature of the image is not what it announced"))
	}
	return b, nil
}
