package image_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
)

// TestPruneDangling prunes images without a tag: not the platforms of an index, nor the
// signature of an image, nor, unless that is wanted, what others have pushed.
func TestPruneDangling(t *testing.T) {
	s := open(t)
	r, err := s.Repositories(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	const repo = "localhost/app"
	u, err := r.NewUpload(t.Context(), repo, digest.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	empty := ocispec.Descriptor{MediaType: ocispec.MediaTypeEmptyJSON, Digest: digest.FromString(""), Size: 0}
	if err := u.Commit(empty.Digest); err != nil {
		t.Fatal(err)
	}
	put := func(ref, mediaType string, doc map[string]any) ocispec.Descriptor {
		t.Helper()
		doc["schemaVersion"], doc["mediaType"] = 2, mediaType
		b, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		if ref == "" {
			ref = digest.FromBytes(b).String()
		}
		desc, _, err := r.PutManifest(t.Context(), repo, ref, mediaType, b)
		if err != nil {
			t.Fatal(err)
		}
		return desc
	}
	manifest := func(ref, kind string, subject *ocispec.Descriptor) ocispec.Descriptor {
		doc := map[string]any{"config": empty, "layers": []ocispec.Descriptor{}, "artifactType": kind}
		if subject != nil {
			doc["subject"] = subject
		}
		return put(ref, ocispec.MediaTypeImageManifest, doc)
	}
	child := manifest("", "a/child", nil)
	put("index", ocispec.MediaTypeImageIndex, map[string]any{"manifests": []ocispec.Descriptor{child}})
	tagged := manifest("tagged", "a/tagged", nil)
	manifest("", "a/signature", &tagged)
	old := manifest("latest", "a/old", nil)
	manifest("latest", "a/new", nil) // old has no tag any more

	names := func() []string {
		t.Helper()
		list, err := s.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, i := range list {
			names = append(names, i.Name)
		}
		return names
	}
	all := names()
	list, err := s.List(t.Context())
	if parts := slices.DeleteFunc(list, func(i api.Image) bool { return !i.Part }); err != nil || len(parts) != 2 {
		t.Errorf("parts of images: %+v, %v", parts, err)
	}
	prune := func(o image.PruneOptions, want ...string) {
		t.Helper()
		removed, _, err := s.Prune(t.Context(), o)
		if err != nil || !slices.Equal(removed, want) {
			t.Errorf("%+v removed %v, %v; want %v", o, removed, err, want)
		}
	}
	prune(image.PruneOptions{})
	prune(image.PruneOptions{Dangling: true})
	prune(image.PruneOptions{Dangling: true, All: true})
	prune(image.PruneOptions{Dangling: true, Pushed: true, Match: func(created time.Time, _ map[string]string) bool { return time.Since(created) > time.Hour }})
	if got := names(); len(got) != 6 || !slices.Equal(got, all) {
		t.Fatalf("there are %v, and were %v", got, all)
	}
	prune(image.PruneOptions{Dangling: true, Pushed: true}, repo+"@"+old.Digest.String())
	if _, _, err := r.Manifest(t.Context(), repo, old.Digest.String()); err == nil {
		t.Error("what was removed is still served")
	}
	if err := r.DeleteManifest(t.Context(), repo, tagged.Digest.String()); err != nil {
		t.Fatal(err)
	}
	if removed, _, err := s.Prune(t.Context(), image.PruneOptions{Dangling: true, Pushed: true}); err != nil || len(removed) != 1 {
		t.Errorf("the signature of an image that has gone: removed %v, %v", removed, err)
	}
}
