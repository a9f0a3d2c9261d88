package image_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
)

// counted counts the requests to a registry, by method and kind of path.
type counted struct {
	mu  sync.Mutex
	all map[string]int
}

func (c *counted) wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		what := "other"
		for _, kind := range []string{"blobs", "manifests"} {
			if strings.Contains(r.URL.Path, "/"+kind+"/") {
				what = kind
			}
		}
		c.mu.Lock()
		if c.all == nil {
			c.all = map[string]int{}
		}
		c.all[r.Method+" "+what]++
		if from := r.URL.Query().Get("from"); from != "" {
			c.all["from "+from]++
		}
		c.mu.Unlock()
		if r.Method == http.MethodHead && strings.HasPrefix(r.URL.Path, "/v2/mine/") {
			w.WriteHeader(http.StatusNotFound) // this registry has one place for all blobs
			return
		}
		h.ServeHTTP(w, r)
	})
}

// take returns a count and sets it to nothing.
func (c *counted) take(what string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.all[what]
	delete(c.all, what)
	return n
}

// importAs makes an image of files.
func importAs(t *testing.T, s *image.Store, name string, files ...string) {
	t.Helper()
	if _, err := s.Import(t.Context(), bytes.NewReader(rootfs(t, files...)), image.ImportOptions{Name: name}); err != nil {
		t.Fatal(err)
	}
}

// TestPush pushes what was made here and pulls it elsewhere; what the registry has is
// not sent again, and what it has in another repository is taken from there.
func TestPush(t *testing.T) {
	var seen counted
	host := newRegistry(t, seen.wrap)
	s, name := open(t), host+"/team/app:1"
	importAs(t, s, name, "f", strings.Repeat("content ", 100_000))
	stages := map[string]bool{}
	got, err := s.Push(t.Context(), name, image.PushOptions{Progress: func(p api.Progress) { stages[p.Stage] = true }})
	if err != nil || got != name {
		t.Fatalf("%q, %v", got, err)
	}
	for _, want := range []string{image.StageWaiting, image.StageUploading, image.StageDone} {
		if !stages[want] {
			t.Errorf("no progress of stage %q: %v", want, stages)
		}
	}
	if n := seen.take("PUT blobs"); n != 2 {
		t.Errorf("%d blobs were sent, not a config and a layer", n)
	}
	if _, err := s.Push(t.Context(), name, image.PushOptions{}); err != nil || seen.take("PUT blobs") != 0 {
		t.Errorf("once more: %v; or blobs were sent again", err)
	}

	other := open(t)
	if _, err := other.Pull(t.Context(), name, image.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	a, errA := s.Resolve(t.Context(), name)
	b, errB := other.Resolve(t.Context(), name)
	if errA != nil || errB != nil || a.Digest != b.Digest {
		t.Errorf("pushed %s, pulled %s; %v, %v", a.Digest, b.Digest, errA, errB)
	}
	if err := other.Tag(t.Context(), name, host+"/mine/app"); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Push(t.Context(), host+"/mine/app", image.PushOptions{}); err != nil || seen.take("from team/app") != 2 {
		t.Errorf("to another repository: %v; or the registry was not told what it has", err)
	}
}

// TestPushDisk pushes an artifact.
func TestPushDisk(t *testing.T) {
	host := newRegistry(t, nil)
	s, name := open(t), host+"/disks/empty:1"
	if _, err := s.ImportDisk(t.Context(), bytes.NewReader(rawDisk()), image.DiskOptions{Name: name, Format: "raw"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Push(t.Context(), name, image.PushOptions{}); err != nil {
		t.Fatal(err)
	}
	other := open(t)
	if _, err := other.Pull(t.Context(), name, image.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := other.ExportDisk(t.Context(), name, "raw", &b); err != nil || !bytes.Equal(b.Bytes(), rawDisk()) {
		t.Errorf("another disk came back: %d bytes, %v", b.Len(), err)
	}
}

// uploading is a registry that has nothing and takes uploads where it says.
func uploading(location func(r *http.Request) string, put http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/v2/":
		case r.Method == http.MethodPost:
			w.Header().Set("Location", location(r))
			w.WriteHeader(http.StatusAccepted)
		case r.Method == http.MethodPut:
			put(w, r)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
}

// TestPushRefused: what a registry, or who poses as one, may answer to a push.
func TestPushRefused(t *testing.T) {
	deny := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(code)
			fmt.Fprint(w, `{"errors":[{"code":"X","message":"because"}]}`)
		}
	}
	here := func(r *http.Request) string { return r.URL.Path + "upload" }
	release := make(chan struct{})
	for name, c := range map[string]struct {
		h    http.Handler
		kind api.ErrorKind
		says string
	}{
		"denied":     {uploading(here, deny(http.StatusForbidden)), api.Denied, "denies access"},
		"broken":     {uploading(here, deny(http.StatusInternalServerError)), api.Unavailable, "500"},
		"never full": {uploading(here, deny(http.StatusInsufficientStorage)), api.Unavailable, "507"},
		"stalls": {uploading(here, func(http.ResponseWriter, *http.Request) {
			<-release
		}), api.Unavailable, "stopped sending or taking"},
		"read only": {http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				w.WriteHeader(http.StatusMethodNotAllowed)
			} else if r.URL.Path != "/v2/" {
				w.WriteHeader(http.StatusNotFound)
			}
		}), api.Unavailable, "405"},
		"endless answer": {uploading(here, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusBadRequest)
			for {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}), api.Unavailable, "400"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(c.h)
			t.Cleanup(srv.Close)
			if name == "stalls" {
				t.Cleanup(func() { close(release) })
				if testing.Short() {
					t.Skip("waits until the registry is given up")
				}
			}
			s := openAt(t, t.TempDir(), image.Options{Stall: 500 * time.Millisecond})
			app := strings.TrimPrefix(srv.URL, "http://") + "/app:1"
			importAs(t, s, app, "f", strings.Repeat("x", 8<<20))
			_, err := s.Push(t.Context(), app, image.PushOptions{})
			if !api.IsKind(err, c.kind) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v", api.KindOf(err), err)
			}
		})
	}
	if _, err := open(t).Push(t.Context(), "nothing", image.PushOptions{}); !api.IsKind(err, api.NotFound) {
		t.Errorf("no image: %v", err)
	}
}

// TestPushStaysSecret: a registry that is spoken to over TLS cannot have an image sent
// in the clear, and credentials go to it alone.
func TestPushStaysSecret(t *testing.T) {
	var taken sync.Map
	thief := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			taken.Store("credentials", true)
		}
		if n, _ := io.Copy(io.Discard, r.Body); n > 0 {
			taken.Store("content", true)
		}
	}))
	t.Cleanup(thief.Close)
	toThief := func(r *http.Request) string { return thief.URL + r.URL.Path + "upload" }
	for name, start := range map[string]func(http.Handler) *httptest.Server{"tls": httptest.NewTLSServer, "plain": httptest.NewServer} {
		t.Run(name, func(t *testing.T) {
			taken.Clear()
			srv := start(basicAuth(uploading(toThief, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })))
			t.Cleanup(srv.Close)
			host := srv.Listener.Addr().String()
			config := map[string]any{"auths": map[string]any{host: map[string]any{"auth": base64.StdEncoding.EncodeToString([]byte("alice:s3cret"))}}}
			s := openAt(t, t.TempDir(), image.Options{DockerConfig: dockerConfig(t, config)})
			importAs(t, s, host+"/app", "f", "x")
			_, err := s.Push(t.Context(), host+"/app", image.PushOptions{Access: image.Access{Insecure: true}})
			if err == nil {
				t.Error("the push went well")
			}
			if _, ok := taken.Load("credentials"); ok {
				t.Error("another host got the credentials")
			}
			if _, ok := taken.Load("content"); ok && name == "tls" {
				t.Errorf("content went over plain http; %v", err)
			}
			if name == "tls" && !strings.Contains(fmt.Sprint(err), "plain http; refused") {
				t.Error(err)
			}
		})
	}
}

// TestPushNeedsCredentials: the registry's user may push, others are denied.
func TestPushNeedsCredentials(t *testing.T) {
	host := newRegistry(t, basicAuth)
	s := open(t)
	importAs(t, s, host+"/app", "f", "x")
	if _, err := s.Push(t.Context(), host+"/app", image.PushOptions{}); !api.IsKind(err, api.Denied) {
		t.Errorf("nobody: %v", err)
	}
	if _, err := s.Push(t.Context(), host+"/app", image.PushOptions{Access: image.Access{Username: "alice", Secret: "s3cret"}}); err != nil {
		t.Error(errors.Unwrap(err))
	}
}
