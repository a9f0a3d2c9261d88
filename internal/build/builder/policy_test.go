package builder

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	ggcrname "github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/moby/buildkit/util/resolver"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestObeying fetches an index and what it lists, by the library that BuildKit fetches
// by, from a registry of which one repository may be had.
func TestObeying(t *testing.T) {
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(srv.Close)
	host := strings.TrimPrefix(srv.URL, "http://")
	index, err := random.Index(100, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, repo := range []string{"good", "bad"} {
		ref, err := ggcrname.ParseReference(host + "/" + repo + ":1")
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.WriteIndex(ref, index); err != nil {
			t.Fatal(err)
		}
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	denied := errors.New("denied")
	var asked []string
	allow := func(_ context.Context, name string, target digest.Digest) error {
		asked = append(asked, name)
		if name != host+"/good:1" && name != host+"/good@"+target.String() {
			return denied
		}
		return nil
	}
	hosts := obeying(allow, resolver.NewRegistryConfig(nil))
	fetch := func(repo string, desc *ocispec.Descriptor) error {
		t.Helper()
		r := docker.NewResolver(docker.ResolverOptions{Hosts: hosts})
		if desc == nil {
			_, top, err := r.Resolve(t.Context(), host+"/"+repo+":1")
			if err != nil {
				t.Fatal(err)
			}
			desc = &top
		}
		f, err := r.Fetcher(t.Context(), host+"/"+repo+"@"+desc.Digest.String())
		if err != nil {
			t.Fatal(err)
		}
		rc, err := f.Fetch(t.Context(), *desc)
		if err != nil {
			return err
		}
		defer rc.Close()
		content, err := io.ReadAll(rc)
		if err == nil && desc.Digest != digest.FromBytes(content) {
			t.Errorf("what comes is not what was asked for")
		}
		return err
	}
	child := &ocispec.Descriptor{MediaType: string(manifest.Manifests[0].MediaType), Digest: digest.Digest(manifest.Manifests[0].Digest.String()), Size: manifest.Manifests[0].Size}
	if _, _, err := docker.NewResolver(docker.ResolverOptions{Hosts: hosts}).Resolve(t.Context(), host+"/bad:1"); !errors.Is(err, denied) {
		t.Errorf("a tag that leads to what is denied: %v", err)
	}
	if err := fetch("bad", child); !errors.Is(err, denied) {
		t.Errorf("a manifest of an index that is denied: %v", err)
	}
	asked = nil
	hosts = obeying(allow, resolver.NewRegistryConfig(nil))
	for _, desc := range []*ocispec.Descriptor{nil, child, nil} {
		if err := fetch("good", desc); err != nil {
			t.Error(err)
		}
	}
	if len(asked) != 1 || asked[0] != host+"/good:1" {
		t.Errorf("asked for %v", asked)
	}
	if err := fetch("bad", child); !errors.Is(err, denied) {
		t.Errorf("a manifest that another repository may give: %v", err)
	}
}
