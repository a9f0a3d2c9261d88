package image_test

import (
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
)

// site is an origin, a mirror, and what a store is told of them.
type site struct {
	origin   string // host:port
	mirror   *httptest.Server
	toOrigin atomic.Int32 // requests
	toMirror atomic.Int32
	ns       atomic.Value // of the mirror's last request
	secret   atomic.Bool  // the mirror got credentials
	hosts    string       // Options.Hosts
	down     atomic.Bool  // the mirror answers 503
}

func newSite(t *testing.T, secure bool) *site {
	t.Helper()
	s := &site{hosts: t.TempDir()}
	s.origin = newRegistry(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.toOrigin.Add(1); h.ServeHTTP(w, r) })
	})
	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	watched := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.toMirror.Add(1)
		s.ns.Store(r.URL.Query().Get("ns"))
		if _, _, ok := r.BasicAuth(); ok {
			s.secret.Store(true)
		}
		if s.down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		h.ServeHTTP(w, r)
	})
	s.mirror = httptest.NewUnstartedServer(watched)
	s.mirror.Config.ErrorLog = log.New(io.Discard, "", 0)
	if secure {
		s.mirror.StartTLS()
	} else {
		s.mirror.Start()
	}
	t.Cleanup(s.mirror.Close)
	return s
}

// tell writes the hosts.toml of the origin.
func (s *site) tell(t *testing.T, format string, args ...any) {
	t.Helper()
	dir := filepath.Join(s.hosts, s.origin)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), fmt.Appendf(nil, format, args...), 0o644); err != nil {
		t.Fatal(err)
	}
}

// pull pulls into a fresh store, and returns how many requests went where.
func (s *site) pull(t *testing.T, name string, opt image.Options) (mirror, origin int32, err error) {
	t.Helper()
	opt.Hosts = s.hosts
	store := openAt(t, t.TempDir(), opt)
	s.toMirror.Store(0)
	s.toOrigin.Store(0)
	if _, err = store.Pull(t.Context(), s.origin+"/"+name, image.PullOptions{}); err == nil {
		_, err = store.Resolve(t.Context(), s.origin+"/"+name)
	}
	return s.toMirror.Load(), s.toOrigin.Load(), err
}

const pullOnly = `capabilities = ["pull", "resolve"]`

// TestMirror pulls from a mirror over plain http that is named so, from the origin what
// the mirror does not have or cannot give, and pushes to the origin.
func TestMirror(t *testing.T) {
	s := newSite(t, false)
	mirrorHost := strings.TrimPrefix(s.mirror.URL, "http://")
	push(t, s.origin, "both:1", rootfs(t, "a", "content"))
	push(t, mirrorHost, "both:1", rootfs(t, "a", "content"))
	push(t, s.origin, "origin:1", rootfs(t, "b", "content"))
	s.tell(t, "[host.%q]\n%s\n", s.mirror.URL, pullOnly)
	if mirror, origin, err := s.pull(t, "both:1", image.Options{}); err != nil || mirror < 3 || origin > 1 || s.ns.Load() != s.origin {
		t.Errorf("%d requests to the mirror, for ns %v, %d to the origin: %v", mirror, s.ns.Load(), origin, err)
	}
	if mirror, origin, err := s.pull(t, "origin:1", image.Options{}); err != nil || mirror == 0 || origin < 3 {
		t.Errorf("what the mirror has not: %d requests to it, %d to the origin: %v", mirror, origin, err)
	}
	s.down.Store(true)
	if mirror, origin, err := s.pull(t, "both:1", image.Options{}); err != nil || mirror == 0 || origin < 3 {
		t.Errorf("a broken mirror: %d requests to it, %d to the origin: %v", mirror, origin, err)
	}
	s.down.Store(false)
	s.tell(t, "[host.%q]\n%s\n", "http://127.0.0.1:1", pullOnly)
	if mirror, origin, err := s.pull(t, "both:1", image.Options{}); err != nil || mirror != 0 || origin < 3 {
		t.Errorf("an absent mirror: %d requests, %d to the origin: %v", mirror, origin, err)
	}

	s.tell(t, "[host.%q]\n%s\n", s.mirror.URL, pullOnly)
	store := openAt(t, t.TempDir(), image.Options{Hosts: s.hosts, DockerConfig: dockerConfig(t, map[string]any{"auths": map[string]any{s.origin: map[string]string{"username": "me", "password": "secret"}}})})
	importAs(t, store, s.origin+"/pushed:1", "f", "x")
	s.toMirror.Store(0)
	if _, err := store.Push(t.Context(), s.origin+"/pushed:1", image.PushOptions{}); err != nil || s.toMirror.Load() != 0 {
		t.Errorf("push: %v, with %d requests to the mirror", err, s.toMirror.Load())
	}
	if _, err := store.Pull(t.Context(), s.origin+"/both:1", image.PullOptions{Access: image.Access{Username: "me", Secret: "secret"}}); err != nil || s.secret.Load() {
		t.Errorf("%v; the mirror got the origin's credentials: %v", err, s.secret.Load())
	}
}

// TestMirrorCertificates trusts a mirror's certificate by its own CA, or where the file
// says not to look; and no other.
func TestMirrorCertificates(t *testing.T) {
	s := newSite(t, true)
	layer := rootfs(t, "a", "content")
	push(t, s.origin, "app:1", layer)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.mirror.Certificate().Raw}), 0o644); err != nil {
		t.Fatal(err)
	}
	// Not the mirror's content counts here, but that it was asked.
	for name, c := range map[string]struct {
		more  string
		asked bool
	}{
		"unknown": {"", false},
		"its own": {fmt.Sprintf("ca = %q", ca), true},
		"any":     {"skip_verify = true", true},
		"not any": {"skip_verify = false", false},
	} {
		t.Run(name, func(t *testing.T) {
			s.tell(t, "[host.%q]\n%s\n%s\n", s.mirror.URL, pullOnly, c.more)
			mirror, origin, err := s.pull(t, "app:1", image.Options{})
			if err != nil || mirror > 0 != c.asked || origin < 3 {
				t.Errorf("%d requests to the mirror, %d to the origin: %v", mirror, origin, err)
			}
		})
	}
}

// TestHostsFile refuses in one line what cannot be meant, and asks nobody.
func TestHostsFile(t *testing.T) {
	s := newSite(t, false)
	push(t, s.origin, "app:1", rootfs(t, "a", "content"))
	for name, text := range map[string]string{
		"no TOML":            "[host",
		"a wrong type":       "host = 5",
		"unknown capability": fmt.Sprintf("[host.%q]\ncapabilities = [\"take\"]\n", s.mirror.URL),
		"missing CA":         fmt.Sprintf("[host.%q]\nca = \"/nonexistent\"\n", "https://127.0.0.1:1"),
		"CA of plain http":   fmt.Sprintf("[host.%q]\nskip_verify = true\n", s.mirror.URL),
	} {
		t.Run(name, func(t *testing.T) {
			s.tell(t, "%s", text)
			mirror, origin, err := s.pull(t, "app:1", image.Options{})
			if !api.IsKind(err, api.Invalid) || !strings.Contains(err.Error(), "hosts.toml") || strings.Contains(err.Error(), "\n") || mirror+origin > 0 {
				t.Errorf("%v, after %d requests to the mirror and %d to the origin", err, mirror, origin)
			}
		})
	}
}
