package image_test

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
)

// check checks a store and returns what it found, and the faults by their part.
func check(t *testing.T, s *image.Store, repair bool) (image.Checked, map[string]string) {
	t.Helper()
	var mu sync.Mutex
	faults := map[string]string{}
	found, err := s.Check(t.Context(), image.CheckOptions{Repair: repair, Progress: func(p api.Progress) {
		mu.Lock()
		defer mu.Unlock()
		if p.Text != "" {
			faults[p.Part] = p.Stage + " " + p.Text
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	return found, faults
}

// part is how a digest is shown.
func part(digest string) string { return strings.TrimPrefix(digest, "sha256:")[:12] }

// TestCheck breaks each blob of an image that was pulled, in several ways, and has it
// repaired from the registry.
func TestCheck(t *testing.T) {
	host := newRegistry(t, nil)
	img := push(t, host, "app:1", rootfs(t, "a", strings.Repeat("content ", 10_000)), rootfs(t, "b", "other"))
	root := t.TempDir()
	s := openAt(t, root, image.Options{})
	name, err := s.Pull(t.Context(), host+"/app:1", image.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := s.Resolve(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	whole := files(t, filepath.Join(root, "content", "blobs"))
	if found, faults := check(t, s, false); found.Broken != 0 || found.Blobs != 6 || len(faults) != 0 {
		t.Fatalf("%+v, %v", found, faults)
	}
	config, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	blobs := map[string]string{
		"manifest": pulled.Digest, "config": config.String(), "layer": pulled.Layers[0].Digest, "last layer": pulled.Layers[1].Digest,
		"EROFS image": pulled.Layers[0].EROFS, "last EROFS image": pulled.Layers[1].EROFS,
	}
	for _, what := range slices.Sorted(maps.Keys(blobs)) {
		path := filepath.Join(root, "content", "blobs", "sha256", strings.TrimPrefix(blobs[what], "sha256:"))
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := slices.Clone(content)
		changed[len(changed)/2] ^= 1
		for how, broken := range map[string][]byte{"changed": changed, "truncated": content[:len(content)/2], "empty": {}, "longer": append(slices.Clone(content), 'x'), "missing": nil} {
			t.Run(what+" "+how, func(t *testing.T) {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				if broken != nil {
					if err := os.WriteFile(path, broken, 0o400); err != nil {
						t.Fatal(err)
					}
				}
				found, faults := check(t, s, false)
				if text := faults[part(blobs[what])]; found.Broken != 1 || found.Repaired != 0 || !strings.HasPrefix(text, "broken of "+name) {
					t.Errorf("%+v, %v", found, faults)
				}
				found, faults = check(t, s, true)
				if text := faults[part(blobs[what])]; found.Broken != 1 || found.Repaired != 1 || !strings.HasPrefix(text, "repaired of "+name) {
					t.Errorf("repair: %+v, %v", found, faults)
				}
				if found, faults := check(t, s, false); found.Broken != 0 {
					t.Errorf("after the repair: %+v, %v", found, faults)
				}
				if _, err := s.Collect(t.Context()); err != nil {
					t.Error(err)
				}
				if d := cmp.Diff(whole, files(t, filepath.Join(root, "content", "blobs"))); d != "" {
					t.Errorf("not what it was: %s", d)
				}
				if again, err := s.Resolve(t.Context(), name); err != nil || !cmp.Equal(again, pulled) {
					t.Errorf("%+v, %v", again, err)
				}
			})
		}
	}
}

// TestCheckAlone has no registry to repair from, or one that is gone or lies.
func TestCheckAlone(t *testing.T) {
	lie := false
	host := newRegistry(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if lie && strings.Contains(r.URL.Path, "/blobs/") {
				_, _ = w.Write([]byte(strings.Repeat("lie", 1<<20)))
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	push(t, host, "app:1", rootfs(t, "a", "content"))
	s := open(t)
	imported(t, s, "own", rootfs(t, "b", "content"))
	if _, err := s.Pull(t.Context(), host+"/app:1", image.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	lie = true
	for name, want := range map[string]string{"own": "it came from no registry", host + "/app:1": "something else"} {
		img, err := s.Resolve(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		blob := filepath.Join(filepath.Dir(img.Layers[0].Path), strings.TrimPrefix(img.Layers[0].Digest, "sha256:"))
		if err := os.Remove(blob); err != nil {
			t.Fatal(err)
		}
		found, faults := check(t, s, true)
		if text := faults[part(img.Layers[0].Digest)]; found.Broken == 0 || found.Repaired != 0 || !strings.Contains(text, want) {
			t.Errorf("%s: %+v, %v", name, found, faults)
		}
		if _, err := os.Stat(blob); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the lie is in the store: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Check(ctx, image.CheckOptions{}); !api.IsKind(err, api.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}
