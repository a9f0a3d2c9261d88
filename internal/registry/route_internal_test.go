package registry

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// FuzzRoute reads paths and Content-Ranges of strangers: what passes has the grammar of
// the specification, and leads nowhere else.
func FuzzRoute(f *testing.F) {
	sha := "sha256:" + strings.Repeat("0", 64)
	for _, path := range []string{
		"/v2/", "/v2/a/manifests/1", "/v2/a/b/blobs/" + sha, "/v2/a/blobs/uploads/", "/v2/a/blobs/uploads/" + strings.Repeat("a", 26), "/v2/blobs/uploads/manifests/1",
		"/v2/a/tags/list", "/v2/a/referrers/" + sha, "/v2/_catalog", "/token", "/v2/../manifests/1", "/v2/a/blobs/uploads",
	} {
		f.Add(path, "0-4", int64(5))
	}
	f.Add("/v2/a/blobs/uploads/x", "18446744073709551615-18446744073709551615", int64(-1))
	f.Fuzz(func(t *testing.T, path, header string, length int64) {
		if r, err := parseRoute(path); err == nil && r.name != "" {
			if strings.Contains(r.name, "..") || strings.HasPrefix(r.name, "/") || strings.ContainsAny(r.name, "@:\x00") || strings.Contains(r.ref, "/") || strings.HasPrefix(r.ref, ".") {
				t.Errorf("%q passed as %+v", path, r)
			}
			switch r.what {
			case tags, manifests, blobs, uploads, referrers:
			default:
				t.Errorf("%q is about %q", path, r.what)
			}
		}
		at, err := parseContentRange(header, length)
		if err == nil && (at < -1 || at == -1 && header != "") {
			t.Errorf("%q begins at %d", header, at)
		}
	})
}

// drip gives one byte each second.
type drip struct{ left int }

func (d *drip) Read(p []byte) (int, error) {
	if d.left == 0 {
		return 0, io.EOF
	}
	d.left--
	<-time.After(time.Second)
	p[0] = 'x'
	return 1, nil
}

// control is a connection that takes deadlines.
type control struct{ http.ResponseWriter }

func (control) SetReadDeadline(time.Time) error { return nil }

// TestSlowBody cuts off who sends byte by byte, and nobody else.
func TestSlowBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := http.NewResponseController(control{httptest.NewRecorder()})
		begin := time.Now()
		_, err := io.Copy(io.Discard, &steady{body: &drip{1 << 20}, control: c, window: window})
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) > 2*window {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		if n, err := io.Copy(io.Discard, &steady{body: bytes.NewReader(make([]byte, 1<<20)), control: c, window: window}); err != nil || n != 1<<20 {
			t.Errorf("%d bytes, %v", n, err)
		}
		// A small body may take its time within the window.
		if n, err := io.Copy(io.Discard, &steady{body: &drip{20}, control: c, window: window}); err != nil || n != 20 {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
}
