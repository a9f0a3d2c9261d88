package image_test

import (
	"strings"
	"testing"

	ggcrname "github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
)

// attested is an index of an image and of what is stated of it.
func attested(t *testing.T, statement string) (index v1.ImageIndex) {
	t.Helper()
	img := build(t, "amd64", rootfs(t, "a", "b"))
	of, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	about, err := mutate.Append(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), mutate.Addendum{
		Layer: static.NewLayer([]byte(statement), "application/vnd.in-toto+json"), Annotations: map[string]string{"in-toto.io/predicate-type": "https://spdx.dev/Document"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex),
		mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: about, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}, Annotations: map[string]string{
			"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": of.String(),
		}}},
	)
}

// TestAttestations pulls an image with its bill of materials, collects garbage, pushes both
// elsewhere, and pulls them from there.
func TestAttestations(t *testing.T) {
	host := newRegistry(t, nil)
	put := func(repo string, index v1.ImageIndex) {
		t.Helper()
		ref, err := ggcrname.ParseReference(host + "/" + repo)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.WriteIndex(ref, index); err != nil {
			t.Fatal(err)
		}
	}
	index := attested(t, `{"predicateType": "https://spdx.dev/Document", "predicate": {"spdxVersion": "SPDX-2.3"}}`)
	put("app", index)
	put("empty", attested(t, `{"predicateType": "https://spdx.dev/Document"}`))
	push(t, host, "bare", rootfs(t, "c", "d"))
	s := open(t)
	pull := func(s *image.Store, repo string) string {
		t.Helper()
		name, err := s.Pull(t.Context(), host+"/"+repo, image.PullOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Collect(t.Context()); err != nil {
			t.Fatal(err)
		}
		return name
	}
	has := func(s *image.Store, name string) {
		t.Helper()
		sbom, err := s.SBOM(t.Context(), name)
		if err != nil || sbom.Format != "spdx" || string(sbom.Document) != `{"spdxVersion": "SPDX-2.3"}` {
			t.Errorf("the SBOM of %s: %s %s, %v", name, sbom.Format, sbom.Document, err)
		}
	}
	app := pull(s, "app")
	has(s, app)
	if _, err := s.SBOM(t.Context(), pull(s, "bare")); !api.IsKind(err, api.NotFound) || !strings.Contains(err.Error(), "berth build --sbom") {
		t.Errorf("an image without one: %v", err)
	}
	if _, err := s.SBOM(t.Context(), pull(s, "empty")); !api.IsKind(err, api.Corrupt) {
		t.Errorf("a statement of nothing: %v", err)
	}
	if err := s.Tag(t.Context(), app, host+"/copy"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Push(t.Context(), host+"/copy", image.PushOptions{}); err != nil {
		t.Fatal(err)
	}
	ref, err := ggcrname.ParseReference(host + "/copy")
	if err != nil {
		t.Fatal(err)
	}
	there, err := remote.Get(ref)
	if err != nil {
		t.Fatal(err)
	}
	if want, err := index.Digest(); err != nil || there.Digest != want {
		t.Errorf("%s was pushed of %s (%v)", there.Digest, want, err)
	}
	other := open(t)
	has(other, pull(other, "copy"))
}
