package image_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
)

func repositories(t testing.TB, s *image.Store) *image.Repositories {
	t.Helper()
	r, err := s.Repositories(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// upload puts a blob into a repository.
func upload(ctx context.Context, r *image.Repositories, repo string, b []byte) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromBytes(b), Size: int64(len(b))}
	u, err := r.NewUpload(ctx, repo, digest.SHA256)
	if err != nil {
		return desc, err
	}
	if _, err := u.Append(bytes.NewReader(b), 0); err != nil {
		u.Cancel()
		return desc, err
	}
	return desc, u.Commit(desc.Digest)
}

// artifact is a manifest of blobs, the first of which is its config.
func artifact(blobs ...ocispec.Descriptor) []byte {
	b, _ := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest, "config": blobs[0], "layers": blobs[1:]})
	return b
}

// TestRepositoriesSurvive kills the process in the middle of a push, and once more ends it
// in order: a blob that had arrived waits for its manifest, an upload under way goes on
// where it was, and what is canceled then leaves nothing.
func TestRepositoriesSurvive(t *testing.T) {
	root := t.TempDir()
	s, err := image.Open(root, image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := repositories(t, s)
	blob, err := upload(t.Context(), r, "localhost/app", []byte("arrived"))
	if err != nil {
		t.Fatal(err)
	}
	var begun []*image.Upload
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		u, err := r.NewUpload(t.Context(), "localhost/app", algorithm)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Append(strings.NewReader("half of it"), 0); err != nil {
			t.Fatal(err)
		}
		begun = append(begun, u)
	}
	// The file of an upload is all that a killed process would leave; closing the store
	// alone leaves it, too.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)

	if s, err = image.Open(root, image.Options{}); err != nil {
		t.Fatal(err)
	}
	second := repositories(t, s)
	if _, err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Upload("localhost/other", begun[0].ID); !api.IsKind(err, api.NotFound) {
		t.Errorf("another repository has the upload, too: %v", err)
	}
	u, err := second.Upload("localhost/app", begun[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := u.Append(strings.NewReader(", and more"), 10); n != 20 || err != nil {
		t.Fatalf("%d bytes, %v", n, err)
	}
	second.Close()
	if _, err := u.Append(strings.NewReader("late"), 20); !api.IsKind(err, api.NotFound) {
		t.Errorf("an upload of what is closed: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = openAt(t, root, image.Options{})
	third := repositories(t, s)
	defer third.Close()
	for i, text := range []string{"half of it, and more", "half of it"} {
		u, err := third.Upload("localhost/app", begun[i].ID)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := u.Size(); n != int64(len(text)) || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		if i == 1 {
			u.Cancel()
			continue
		}
		if err := u.Commit(digest.FromString(text)); err != nil {
			t.Error(err)
		}
		f, size, err := third.Blob(t.Context(), "localhost/app", digest.FromString(text))
		if err != nil || size != 20 {
			t.Fatalf("%d bytes, %v", size, err)
		}
		f.Close()
	}
	if left := files(t, filepath.Join(root, "content", "ingest")); len(left) > 0 {
		t.Errorf("left of the uploads: %v", left)
	}
	if _, _, err := third.PutManifest(t.Context(), "localhost/app", "1", ocispec.MediaTypeImageManifest, artifact(blob)); err != nil {
		t.Errorf("the blob that had arrived: %v", err)
	}
	if _, _, err := third.Blob(t.Context(), "localhost/other", blob.Digest); !api.IsKind(err, api.NotFound) {
		t.Errorf("it is in another repository: %v", err)
	}
}

// TestUploadDiskFull fills the disk in the middle of an upload, which ends it; then there
// is room again.
func TestUploadDiskFull(t *testing.T) {
	root := smallDisk(t)
	s, err := image.Open(root, image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r := repositories(t, s)
	defer r.Close()
	_, err = upload(t.Context(), r, "localhost/app", bytes.Repeat([]byte("x"), 20<<20))
	if !api.IsKind(err, api.Exhausted) || !strings.Contains(err.Error(), "no space left") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %s: %v", api.KindOf(err), err)
	}
	if left := files(t, filepath.Join(root, "content", "ingest")); len(left) > 0 {
		t.Errorf("left of the upload: %v", left)
	}
	if _, err := upload(t.Context(), r, "localhost/app", []byte("small")); err != nil {
		t.Error(err)
	}
}

// TestServeWhileCollecting pushes, pulls and deletes while garbage is collected all the
// time: what a repository has is never taken.
func TestServeWhileCollecting(t *testing.T) {
	if testing.Short() {
		t.Skip("collects for a while")
	}
	s := open(t)
	r := repositories(t, s)
	defer r.Close()
	stop, collected := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				collected <- nil
				return
			default:
			}
			if _, err := s.Collect(context.Background()); err != nil {
				collected <- err
				return
			}
		}
	}()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 6 {
				if err := pushAndPull(t.Context(), r, fmt.Sprintf("localhost/app%d", i%2), fmt.Sprintf("%d.%d", i, n)); err != nil {
					t.Errorf("%d.%d: %v", i, n, err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	if err := <-collected; err != nil {
		t.Error(err)
	}
}

func pushAndPull(ctx context.Context, r *image.Repositories, repo, tag string) error {
	shared, err := upload(ctx, r, repo, []byte("{}"))
	if err != nil {
		return err
	}
	own, err := upload(ctx, r, repo, []byte("only of "+tag))
	if err != nil {
		return err
	}
	manifest, _, err := r.PutManifest(ctx, repo, tag, ocispec.MediaTypeImageManifest, artifact(shared, own))
	if err != nil {
		return err
	}
	for _, d := range []ocispec.Descriptor{shared, own} {
		f, _, err := r.Blob(ctx, repo, d.Digest)
		if err != nil {
			return err
		}
		b, err := io.ReadAll(f)
		f.Close()
		if err != nil || digest.FromBytes(b) != d.Digest {
			return fmt.Errorf("%s has %q, %w", d.Digest, b, err)
		}
	}
	if _, _, err := r.Manifest(ctx, repo, manifest.Digest.String()); err != nil {
		return err
	}
	return r.DeleteManifest(ctx, repo, manifest.Digest.String())
}
