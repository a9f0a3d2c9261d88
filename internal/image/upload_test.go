package image_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
)

// uploads is a registry that takes blobs in chunks, and can be made to do it badly.
type uploads struct {
	// patch may answer the nth PATCH, and then returns true.
	patch func(u *uploads, n int, w http.ResponseWriter, r *http.Request) bool
	ask   http.HandlerFunc // answers GET of an upload, if there is one

	mu       sync.Mutex
	requests int
	patches  int
	begun    int
	came     map[string][]byte // of uploads, by their paths
	received int               // bytes of bodies
	blobs    map[digest.Digest]bool
}

func (u *uploads) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.requests++
	switch {
	case r.URL.Path == "/v2/" || r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/"):
		w.WriteHeader(http.StatusCreated)
	case r.Method == http.MethodPost:
		u.begun++
		to := fmt.Sprintf("/up/%d", u.begun)
		u.came[to] = nil
		w.Header().Set("Location", to+"?state=1")
		w.WriteHeader(http.StatusAccepted)
	case r.Method == http.MethodPatch:
		u.patches++
		if u.patch != nil && u.patch(u, u.patches, w, r) {
			return
		}
		if from := r.Header.Get("Content-Range"); from != "" && !strings.HasPrefix(from, fmt.Sprint(len(u.came[r.URL.Path]), "-")) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		u.take(r, 1<<40)
		u.progress(w, r, http.StatusAccepted)
	case r.Method == http.MethodGet && u.came[r.URL.Path] != nil:
		if u.ask != nil {
			u.ask(w, r)
			return
		}
		u.progress(w, r, http.StatusNoContent)
	case r.Method == http.MethodPut:
		u.take(r, 1<<40)
		d := digest.Digest(r.URL.Query().Get("digest"))
		if digest.FromBytes(u.came[r.URL.Path]) != d || r.URL.Query().Get("state") == "" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		u.blobs[d] = true
		w.WriteHeader(http.StatusCreated)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// take takes so many bytes of a request, or all.
func (u *uploads) take(r *http.Request, n int64) {
	var b bytes.Buffer
	_, _ = io.CopyN(&b, r.Body, n)
	u.received += b.Len()
	u.came[r.URL.Path] = append(u.came[r.URL.Path], b.Bytes()...)
}

func (u *uploads) progress(w http.ResponseWriter, r *http.Request, status int) {
	w.Header().Set("Location", r.URL.Path+"?state=2")
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(0, len(u.came[r.URL.Path])-1)))
	w.WriteHeader(status)
}

// cut ends the connection.
func cut(w http.ResponseWriter) {
	if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
		conn.Close()
	}
}

// TestPushGoesOn: a blob whose upload breaks off is sent from where it stopped, where the
// registry says how far it came; else it is sent anew, or in one request.
func TestPushGoesOn(t *testing.T) {
	const size = 24 << 20
	for name, c := range map[string]struct {
		u    *uploads
		most int // bytes that are sent
	}{
		"in chunks": {&uploads{}, size + 1<<20},
		"cut off three times": {&uploads{patch: func(u *uploads, n int, w http.ResponseWriter, r *http.Request) bool {
			if n > 3 {
				return false
			}
			u.take(r, 5<<20)
			cut(w)
			return true
		}}, size + 1<<20},
		"takes a part": {&uploads{patch: func(u *uploads, n int, w http.ResponseWriter, r *http.Request) bool {
			if n > 1 {
				return false
			}
			u.take(r, 6<<20)
			_, _ = io.Copy(io.Discard, r.Body)
			u.progress(w, r, http.StatusAccepted)
			return true
		}}, size + 1<<20},
		"busy": {&uploads{patch: func(_ *uploads, n int, w http.ResponseWriter, _ *http.Request) bool {
			if n < 3 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			return n < 3
		}}, size + 1<<20},
		"forgets": {&uploads{patch: func(u *uploads, n int, w http.ResponseWriter, r *http.Request) bool {
			if n > 1 {
				return false
			}
			u.take(r, 5<<20)
			delete(u.came, r.URL.Path)
			cut(w)
			return true
		}}, size + 6<<20},
		"says nonsense": {&uploads{ask: func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Range", "7-3") }, patch: func(u *uploads, n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 1 {
				u.take(r, 5<<20)
				cut(w)
			}
			return n == 1
		}}, size + 6<<20},
		"whole alone": {&uploads{patch: func(_ *uploads, _ int, w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return true
		}}, size + 1<<20},
	} {
		t.Run(name, func(t *testing.T) {
			u := c.u
			u.came, u.blobs = map[string][]byte{}, map[digest.Digest]bool{}
			srv := httptest.NewServer(u)
			t.Cleanup(srv.Close)
			s, app := open(t), strings.TrimPrefix(srv.URL, "http://")+"/app:1"
			importAs(t, s, app, "f", string(noise(1, size)))
			if _, err := s.Push(t.Context(), app, image.PushOptions{}); err != nil {
				t.Fatal(err)
			}
			if len(u.blobs) != 2 || u.received > c.most {
				t.Errorf("%d blobs have arrived, and %d bytes were sent", len(u.blobs), u.received)
			}
		})
	}
}

// TestPushGivesUp: a registry that never has a blob is given up, soon and in one line.
func TestPushGivesUp(t *testing.T) {
	accept := func(text string) func(*uploads, int, http.ResponseWriter, *http.Request) bool {
		return func(_ *uploads, _ int, w http.ResponseWriter, r *http.Request) bool {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Range", text)
			w.WriteHeader(http.StatusAccepted)
			return true
		}
	}
	for name, c := range map[string]struct {
		patch func(*uploads, int, http.ResponseWriter, *http.Request) bool
		kind  api.ErrorKind
		says  string
	}{
		"takes nothing":   {accept("0-0"), api.Unavailable, "0 bytes of"},
		"has too much":    {accept("0-99999999999"), api.Unavailable, "100000000000 bytes of"},
		"speaks nonsense": {accept("bytes 0-1/5"), api.Unavailable, "says that it has the bytes"},
		"cuts":            {func(_ *uploads, _ int, w http.ResponseWriter, _ *http.Request) bool { cut(w); return true }, api.Unavailable, ""},
		"cuts after a little": {func(u *uploads, _ int, w http.ResponseWriter, r *http.Request) bool {
			u.take(r, 1000)
			cut(w)
			return true
		}, api.Unavailable, ""},
		"is full": {func(_ *uploads, _ int, w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusInsufficientStorage)
			return true
		}, api.Unavailable, "507"},
		"denies": {func(_ *uploads, _ int, w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusForbidden)
			return true
		}, api.Denied, "denies access"},
		"leads nowhere": {func(u *uploads, _ int, w http.ResponseWriter, r *http.Request) bool {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(http.StatusAccepted)
			return true
		}, api.Unavailable, "no URL"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it waits
			u := &uploads{patch: c.patch, came: map[string][]byte{}, blobs: map[digest.Digest]bool{}}
			srv := httptest.NewServer(u)
			t.Cleanup(srv.Close)
			s, app := open(t), strings.TrimPrefix(srv.URL, "http://")+"/app:1"
			importAs(t, s, app, "f", string(noise(1, 5<<20)))
			_, err := s.Push(t.Context(), app, image.PushOptions{})
			if !api.IsKind(err, c.kind) || !strings.Contains(fmt.Sprint(err), c.says) || strings.Contains(fmt.Sprint(err), "\n") {
				t.Errorf("%s: %v", api.KindOf(err), err)
			}
			if u.requests > 40 {
				t.Errorf("it was asked %d times", u.requests)
			}
		})
	}
}

// TestUploadElsewhere: who is to send a blob to another host sends no credentials there,
// and says there which blob it is.
func TestUploadElsewhere(t *testing.T) {
	other := &uploads{came: map[string][]byte{"/there": {}}, blobs: map[digest.Digest]bool{}}
	var credentials string
	there := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		credentials += r.Header.Get("Authorization")
		other.came["/there"] = nil
		other.ServeHTTP(w, r)
	}))
	t.Cleanup(there.Close)
	host := newRegistry(t, func(http.Handler) http.Handler {
		return basicAuth(uploading(func(*http.Request) string {
			to, _ := url.Parse(there.URL)
			return to.JoinPath("there").String() + "?state=secret"
		}, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusCreated) }))
	})
	s := open(t)
	importAs(t, s, host+"/app", "f", "x")
	if _, err := s.Push(t.Context(), host+"/app", image.PushOptions{Access: image.Access{Username: "alice", Secret: "s3cret"}}); err != nil {
		t.Fatal(err)
	}
	if credentials != "" || len(other.blobs) != 2 {
		t.Errorf("the other host has got %q and %d blobs", credentials, len(other.blobs))
	}
}
