// Package lazytest is for tests of images that are used before they have arrived: a
// registry that lets through what it is told to, and eStargz layers in it.
package lazytest

import (
	"bytes"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
)

// Registry is a registry on loopback. Whole parts of blobs, those that are fetched
// behind, end after a beginning and wait until Open is called; parts that somebody
// waits for are sent at once.
type Registry struct {
	Host string       // and port
	Sent atomic.Int64 // bytes of blobs
	Down atomic.Bool  // it closes every connection
	// Spoil changes, of blobs, what is sent; nil changes nothing.
	Spoil atomic.Pointer[func(p []byte)]
	// Whole has it know no parts of blobs.
	Whole atomic.Bool

	once sync.Once
	open chan struct{}
}

// New starts a registry that ends with the test.
func New(t testing.TB) *Registry {
	t.Helper()
	r := &Registry{open: make(chan struct{})}
	blobs := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if r.Down.Load() {
			panic(http.ErrAbortHandler)
		}
		if q.Method == http.MethodGet && strings.Contains(q.URL.Path, "/blobs/") {
			if r.Whole.Load() {
				q.Header.Del("Range")
			}
			w = &writer{ResponseWriter: w, r: r, q: q}
		}
		blobs.ServeHTTP(w, q)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(func() { r.Open(); s.Close() })
	r.Host = strings.TrimPrefix(s.URL, "http://")
	return r
}

// Open lets everything through from now on.
func (r *Registry) Open() { r.once.Do(func() { close(r.open) }) }

// Bounds of what passes a registry that is not open, in bytes.
const (
	long      = 1 << 20 // a part is longer than anybody waits for
	beginning = 256 << 10
	piece     = 32 << 10
)

// writer is the reply to a request for a blob.
type writer struct {
	http.ResponseWriter
	r    *Registry
	q    *http.Request
	sent int
}

// Write implements io.Writer.
func (w *writer) Write(p []byte) (int, error) {
	length, _ := strconv.Atoi(w.Header().Get("Content-Length"))
	for n := 0; n < len(p); {
		if w.q.Header.Get("Range") != "" && length > long && w.sent >= beginning {
			if f, ok := w.ResponseWriter.(http.Flusher); ok {
				f.Flush()
			}
			select {
			case <-w.r.open:
			case <-w.q.Context().Done():
				return n, w.q.Context().Err()
			}
		}
		q := bytes.Clone(p[n:min(n+piece, len(p))])
		if spoil := w.r.Spoil.Load(); spoil != nil {
			(*spoil)(q)
		}
		k, err := w.ResponseWriter.Write(q)
		w.r.Sent.Add(int64(k))
		w.sent += k
		if n += k; err != nil {
			return n, err
		}
	}
	return len(p), nil
}
