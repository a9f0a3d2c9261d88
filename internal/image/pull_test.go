package image_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ggcrname "github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
)

// newRegistry starts a registry on loopback; wrap may change its handler.
func newRegistry(t testing.TB, wrap func(http.Handler) http.Handler) string {
	t.Helper()
	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	if wrap != nil {
		h = wrap(h)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

// push puts an image with the given layers, uncompressed archives, into a registry.
func push(t testing.TB, host, repo string, layers ...[]byte) v1.Image {
	t.Helper()
	img := build(t, "amd64", layers...)
	ref, err := ggcrname.ParseReference(host + "/" + repo)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	return img
}

// build makes an image of layers for an architecture.
func build(t testing.TB, arch string, layers ...[]byte) v1.Image {
	t.Helper()
	img := empty.Image
	for _, l := range layers {
		var err error
		img, err = mutate.AppendLayers(img, static.NewLayer(l, types.OCIUncompressedLayer))
		if err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg.OS, cfg.Architecture = "linux", arch
	cfg.Config.Cmd = []string{"/bin/true"}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	return img
}

// TestPullPlatform pulls one platform after the other of an image that has two: its
// name means the one that was named last.
func TestPullPlatform(t *testing.T) {
	host := newRegistry(t, nil)
	index := v1.ImageIndex(empty.Index)
	for _, arch := range []string{"amd64", "arm64"} {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: build(t, arch, rootfs(t, "arch", arch)), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	ref, err := ggcrname.ParseReference(host + "/both")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	push(t, host, "single", rootfs(t, "a", "b"))
	s := open(t)
	for platform, arch := range map[string]string{"linux/arm64": "arm64", "linux/amd64": "amd64", "arm64": "arm64", "": "amd64"} {
		name, err := s.Pull(t.Context(), host+"/both", image.PullOptions{Platform: platform})
		if err != nil {
			t.Fatal(err)
		}
		img, err := s.Resolve(t.Context(), name)
		if err != nil || img.Arch != arch {
			t.Fatalf("%s: %s, %v", platform, img.Arch, err)
		}
		if b, err := os.ReadFile(filepath.Join(mountLayer(t, img.Layers[0]), "arch")); err != nil || string(b) != arch {
			t.Errorf("%s: %q, %v", platform, b, err)
		}
		if list, err := s.List(t.Context()); err != nil || len(list) != 1 || list[0].Platform != "linux/"+arch {
			t.Errorf("%s: listed as %+v, %v", platform, list, err)
		}
	}
	for _, c := range []struct {
		name, platform string
		kind           api.ErrorKind
		want           string
	}{
		{"both", "linux/riscv64", api.Unsupported, "not offered for linux/riscv64, only for linux/amd64, linux/arm64"},
		{"single", "linux/arm64", api.Unsupported, "not offered for linux/arm64, only for linux/amd64"},
		{"both", "what/is/that/one", api.Invalid, "linux/arm64"},
	} {
		_, err := s.Pull(t.Context(), host+"/"+c.name, image.PullOptions{Platform: c.platform})
		if !api.IsKind(err, c.kind) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("pull %s of %s: %v", c.platform, c.name, err)
		}
	}
}

func TestPull(t *testing.T) {
	host := newRegistry(t, nil)
	push(t, host, "app:1", rootfs(t, "a", "lower"), rootfs(t, "b", "upper"))
	s := open(t)
	var mu sync.Mutex
	stages := map[string]bool{}
	name, err := s.Pull(t.Context(), host+"/app:1", image.PullOptions{Progress: func(p api.Progress) {
		mu.Lock()
		stages[p.Stage] = true
		mu.Unlock()
	}})
	if err != nil || name != host+"/app:1" {
		t.Fatal(name, err)
	}
	img, err := s.Resolve(t.Context(), name)
	if err != nil || len(img.Layers) != 2 || img.Config.Command[0] != "/bin/true" {
		t.Fatalf("%+v, %v", img, err)
	}
	if b, err := os.ReadFile(filepath.Join(mountLayer(t, img.Layers[1]), "b")); err != nil || string(b) != "upper" {
		t.Errorf("%q, %v", b, err)
	}
	for _, want := range []string{image.StageWaiting, image.StageDownloading, image.StageDone} {
		if !stages[want] {
			t.Errorf("no progress of stage %s", want)
		}
	}
	for _, c := range []struct {
		name string
		kind api.ErrorKind
		want string
	}{
		{host + "/app:2", api.NotFound, "no such image or tag"},
		{host + "/none", api.NotFound, "no such image or tag"},
		{"127.0.0.1:1/app", api.Unavailable, "cannot be reached"},
		{"UPPER:x:y", api.Invalid, "no image name"},
	} {
		_, err := s.Pull(t.Context(), c.name, image.PullOptions{})
		if !api.IsKind(err, c.kind) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("pull %s: %v", c.name, err)
		}
	}
}

func TestSixtyLayers(t *testing.T) {
	host := newRegistry(t, nil)
	var layers [][]byte
	for i := range 60 {
		layers = append(layers, rootfs(t, fmt.Sprintf("layer-%d", i), fmt.Sprint(i)))
	}
	push(t, host, "many", layers...)
	s := open(t)
	name, err := s.Pull(t.Context(), host+"/many", image.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.Resolve(t.Context(), name)
	if err != nil || len(img.Layers) != 60 {
		t.Fatalf("%d layers, %v", len(img.Layers), err)
	}
}

// TestPullWithoutRanges has a connection break off, with a registry that knows no range
// without an end: the blob comes anew.
func TestPullWithoutRanges(t *testing.T) {
	layerTar := rootfs(t, "f", strings.Repeat("0123456789abcdef", 1<<16))
	digest := digestOf(layerTar)
	var requests, refused atomic.Int64
	host := newRegistry(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/blobs/"+digest) {
				if requests.Add(1) == 1 {
					_, _ = w.Write(layerTar[:len(layerTar)/2])
					panic(http.ErrAbortHandler)
				}
				if strings.HasSuffix(r.Header.Get("Range"), "-") {
					refused.Add(1)
				}
			}
			h.ServeHTTP(w, r)
		})
	})
	push(t, host, "app", layerTar)
	s := openAt(t, t.TempDir(), image.Options{})
	if _, err := s.Pull(t.Context(), host+"/app", image.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if refused.Load() == 0 {
		t.Error("no range was asked for")
	}
}

// TestPullResumes breaks the connection in the middle of a layer. The next
// pull, with a store that was closed and opened in between, asks for the rest
// only.
func TestPullResumes(t *testing.T) {
	layerTar := rootfs(t, "f", strings.Repeat("0123456789abcdef", 1<<16)) // 1 MiB
	digest := digestOf(layerTar)
	var requests atomic.Int64
	var last atomic.Value
	const step = 300_000 // bytes before the connection breaks for good
	var mended atomic.Bool
	host := newRegistry(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/blobs/"+digest) {
				h.ServeHTTP(w, r)
				return
			}
			from := 0
			last.Store(r.Header.Get("Range"))
			if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(layerTar)-1, len(layerTar)))
				w.WriteHeader(http.StatusPartialContent)
			}
			if !mended.Load() {
				if requests.Add(1) == 1 {
					w.Write(layerTar[:step])
					w.(http.Flusher).Flush()
				}
				panic(http.ErrAbortHandler)
			}
			w.Write(layerTar[from:])
		})
	})
	push(t, host, "app", layerTar)
	root := t.TempDir()
	s := openAt(t, root, image.Options{})
	if _, err := s.Pull(t.Context(), host+"/app", image.PullOptions{}); !api.IsKind(err, api.Unavailable) {
		t.Fatalf("got %v", err)
	}
	if _, err := s.Collect(t.Context()); err != nil { // spares it
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openAt(t, root, image.Options{})
	mended.Store(true)
	if _, err := s.Pull(t.Context(), host+"/app", image.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, want := last.Load().(string), fmt.Sprintf("bytes=%d-", step); got != want {
		t.Errorf("the last request's range is %q, want %q", got, want)
	}
	if _, err := s.Resolve(t.Context(), host+"/app"); err != nil {
		t.Error(err)
	}
}

// hostile serves one manifest with one layer, each as the case wants it.
type hostile struct {
	manifest     []byte
	manifestType string
	config       []byte
	layer        func(w http.ResponseWriter, r *http.Request)
	manifestBody func(w http.ResponseWriter, r *http.Request) // instead of manifest
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// honest makes an image whose layer is l.
func honest(l []byte) *hostile {
	h := &hostile{manifestType: string(types.OCIManifestSchema1)}
	h.config = []byte(fmt.Sprintf(`{"os":"linux","architecture":"amd64","config":{},"rootfs":{"type":"layers","diff_ids":[%q]}}`, digestOf(l)))
	h.manifest = []byte(fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`,
		digestOf(h.config), len(h.config), digestOf(l), len(l)))
	h.layer = func(w http.ResponseWriter, _ *http.Request) { w.Write(l) }
	return h
}

func (h *hostile) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/v2/":
	case strings.Contains(r.URL.Path, "/manifests/"):
		w.Header().Set("Content-Type", h.manifestType)
		if h.manifestBody != nil {
			h.manifestBody(w, r)
			return
		}
		w.Header().Set("Docker-Content-Digest", digestOf(h.manifest))
		w.Header().Set("Content-Length", fmt.Sprint(len(h.manifest)))
		if r.Method == http.MethodGet {
			w.Write(h.manifest)
		}
	case strings.HasSuffix(r.URL.Path, "/blobs/"+digestOf(h.config)):
		w.Write(h.config)
	default:
		h.layer(w, r)
	}
}

func endless(w http.ResponseWriter, r *http.Request) {
	chunk := bytes.Repeat([]byte(" "), 1<<16)
	for {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

func silent(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// TestHostileRegistry is row 14 of the attack classes.
func TestHostileRegistry(t *testing.T) {
	layerTar := rootfs(t, "f", strings.Repeat("x", 5000))
	other := rootfs(t, "f", strings.Repeat("y", 5000))
	cases := map[string]struct {
		change func(h *hostile)
		kind   api.ErrorKind
		want   string
	}{
		"honest": {change: func(*hostile) {}},
		"wrong layer": {kind: api.Corrupt, want: "what the registry sent is not", change: func(h *hostile) {
			h.layer = func(w http.ResponseWriter, _ *http.Request) { w.Write(other) }
		}},
		"truncated layer": {kind: api.Unavailable, want: "the registry sent", change: func(h *hostile) {
			h.layer = func(w http.ResponseWriter, _ *http.Request) { w.Write(layerTar[:100]) }
		}},
		// What counts is the digest; bytes beyond the size are not read.
		"longer layer": {change: func(h *hostile) {
			h.layer = func(w http.ResponseWriter, _ *http.Request) {
				w.Write(append(slices.Clip(layerTar), 'x'))
			}
		}},
		"endless layer": {kind: api.Corrupt, want: "what the registry sent is not", change: func(h *hostile) { h.layer = endless }},
		"silent layer":  {kind: api.Unavailable, want: "stopped sending|cannot be reached", change: func(h *hostile) { h.layer = silent }},
		"slow layer": {kind: api.Unavailable, want: "stopped sending", change: func(h *hostile) {
			h.layer = func(w http.ResponseWriter, r *http.Request) {
				for r.Context().Err() == nil {
					w.Write([]byte("x"))
					w.(http.Flusher).Flush()
					select {
					case <-r.Context().Done():
					case <-time.After(20 * time.Millisecond):
					}
				}
			}
		}},
		"endless manifest": {kind: api.Corrupt, want: "has more than", change: func(h *hostile) {
			h.manifestBody = func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet {
					endless(w, r)
				}
			}
		}},
		"silent manifest": {kind: api.Unavailable, change: func(h *hostile) { h.manifestBody = silent }},
		"wrong manifest": {kind: api.Corrupt, want: "what the registry sent is not", change: func(h *hostile) {
			h.manifestBody = func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Docker-Content-Digest", digestOf(h.manifest))
				w.Header().Set("Content-Length", fmt.Sprint(len(h.manifest)))
				if r.Method == http.MethodGet {
					w.Write(bytes.Replace(h.manifest, []byte("schemaVersion"), []byte("schemaVersIon"), 1))
				}
			}
		}},
		"manifest and index at once": {kind: api.Corrupt, want: "of two kinds at once", change: func(h *hostile) {
			h.manifest = bytes.Replace(h.manifest, []byte("{"), []byte(`{"manifests":[],`), 1)
		}},
		"index that is a manifest": {kind: api.Corrupt, want: "of two kinds at once", change: func(h *hostile) { h.manifestType = string(types.OCIImageIndex) }},
		"no image":                 {kind: api.Unsupported, want: "which is no image", change: func(h *hostile) { h.manifestType = "text/html" }},
		"digest as a path": {kind: api.Corrupt, want: "no SHA-256 digest", change: func(h *hostile) {
			h.manifest = bytes.Replace(h.manifest, []byte(digestOf(layerTar)), []byte("sha256:../../../../etc/passwd"), 1)
		}},
		"layer of a negative size": {kind: api.Corrupt, want: "size of -5", change: func(h *hostile) {
			h.manifest = bytes.Replace(h.manifest, []byte(fmt.Sprintf(`"size":%d}]`, len(layerTar))), []byte(`"size":-5}]`), 1)
		}},
		"smaller size": {kind: api.Corrupt, want: "what the registry sent is not", change: func(h *hostile) {
			h.manifest = bytes.Replace(h.manifest, []byte(fmt.Sprintf(`"size":%d}]`, len(layerTar))), []byte(`"size":100}]`), 1)
		}},
		"greater size": {kind: api.Unavailable, want: "the registry sent", change: func(h *hostile) {
			h.manifest = bytes.Replace(h.manifest, []byte(fmt.Sprintf(`"size":%d}]`, len(layerTar))), []byte(`"size":99999}]`), 1)
		}},
		"layer of another type": {kind: api.Unsupported, want: "not a tar archive", change: func(h *hostile) {
			h.manifest = bytes.Replace(h.manifest, []byte("application/vnd.oci.image.layer.v1.tar"), []byte("application/vnd.oci.image.config.v1+json"), 1)
		}},
		"another diff id": {kind: api.Corrupt, want: "expands to", change: func(h *hostile) {
			*h = *honest(layerTar)
			h.config = bytes.Replace(h.config, []byte(digestOf(layerTar)), []byte(digestOf(other)), 1)
			h.manifest = bytes.Replace(h.manifest, []byte(digestOf(honest(layerTar).config)), []byte(digestOf(h.config)), 1)
		}},
		"redirects without end": {kind: api.Unavailable, want: "redirects more than", change: func(h *hostile) {
			h.layer = func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }
		}},
		"error page": {kind: api.Unavailable, want: "cannot be reached", change: func(h *hostile) {
			h.layer = func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusInternalServerError)
				io.WriteString(w, strings.Repeat("<html>\n", 1000))
			}
		}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := honest(layerTar)
			c.change(h)
			srv := httptest.NewServer(h)
			t.Cleanup(srv.Close)
			root := t.TempDir()
			s := openAt(t, root, image.Options{Stall: 300 * time.Millisecond})
			_, err := s.Pull(t.Context(), strings.TrimPrefix(srv.URL, "http://")+"/app", image.PullOptions{})
			if c.kind == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			ok := false
			for want := range strings.SplitSeq(c.want, "|") {
				ok = ok || err != nil && strings.Contains(err.Error(), want)
			}
			if !api.IsKind(err, c.kind) || !ok {
				t.Errorf("got %s: %v; want %s: %q", api.KindOf(err), err, c.kind, c.want)
			}
			if err != nil && (strings.Contains(err.Error(), "\n") || len(err.Error()) > 500) {
				t.Errorf("not one line of decent length: %q", err)
			}
			if list, err := s.List(t.Context()); err != nil || len(list) != 0 {
				t.Errorf("an image appeared: %v, %v", list, err)
			}
		})
	}
}

// dockerConfig writes a config.json and returns its directory.
func dockerConfig(t *testing.T, cfg any) string {
	t.Helper()
	b, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// basicAuth lets only alice in, whose secret is s3cret.
func basicAuth(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, secret, ok := r.BasicAuth(); !ok || user != "alice" || secret != "s3cret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func TestCredentials(t *testing.T) {
	layerTar := rootfs(t, "f", "x")
	srv := httptest.NewServer(basicAuth(honest(layerTar)))
	t.Cleanup(srv.Close)
	host := strings.TrimPrefix(srv.URL, "http://")
	helper := t.TempDir()
	script := "#!/bin/sh\nread server\n[ \"$server\" = " + host + " ] || { echo credentials not found in native keychain; exit 1; }\necho '{\"ServerURL\":\"x\",\"Username\":\"alice\",\"Secret\":\"s3cret\"}'\n"
	if err := os.WriteFile(filepath.Join(helper, "docker-credential-berthtest"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", helper+":"+os.Getenv("PATH"))
	auth := func(s string) map[string]any {
		return map[string]any{"auths": map[string]any{host: map[string]any{"auth": base64.StdEncoding.EncodeToString([]byte(s))}}}
	}
	cases := map[string]struct {
		cfg  any
		opt  image.PullOptions
		kind api.ErrorKind
	}{
		"file":             {cfg: auth("alice:s3cret")},
		"helper":           {cfg: map[string]any{"credHelpers": map[string]any{host: "berthtest"}}},
		"store":            {cfg: map[string]any{"credsStore": "berthtest"}},
		"given":            {cfg: map[string]any{}, opt: image.PullOptions{Access: image.Access{Username: "alice", Secret: "s3cret"}}},
		"wrong":            {cfg: auth("alice:wrong"), kind: api.Denied},
		"none":             {cfg: map[string]any{}, kind: api.Denied},
		"missing helper":   {cfg: map[string]any{"credsStore": "berth-none"}, kind: api.Unavailable},
		"helper as a path": {cfg: map[string]any{"credsStore": "../../bin/sh"}, kind: api.Invalid},
		"damaged":          {cfg: auth("no colon"), kind: api.Invalid},
		"no JSON object":   {cfg: "x", kind: api.Invalid},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := openAt(t, t.TempDir(), image.Options{DockerConfig: dockerConfig(t, c.cfg)})
			_, err := s.Pull(t.Context(), host+"/app", c.opt)
			if api.KindOf(err) != c.kind {
				t.Errorf("got %s: %v", api.KindOf(err), err)
			}
			if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("the secret is in the error: %v", err)
			}
		})
	}
}

// TestCredentialsStayHome lets a registry try to have its user's credentials
// sent elsewhere.
func TestCredentialsStayHome(t *testing.T) {
	var stolen atomic.Value
	stolen.Store("")
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if all := r.Header.Get("Authorization") + string(body) + r.URL.RawQuery; strings.Contains(all, "s3cret") || strings.Contains(all, "Basic") || strings.Contains(all, "alice") {
			stolen.Store(all)
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="thief"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(thief.Close)
	// The same server under another name is another host.
	elsewhere := strings.Replace(thief.URL, "127.0.0.1", "localhost", 1)
	layerTar := rootfs(t, "f", "x")
	cases := map[string]struct {
		handler http.Handler
		kind    api.ErrorKind
		want    string
	}{
		"realm elsewhere": {kind: api.Denied, want: "another site; refused", handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+elsewhere+`/token",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		})},
		"realm is no URL": {kind: api.Denied, want: "which is no URL", handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="file:///etc/passwd",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		})},
		"redirect elsewhere": {kind: api.Denied, handler: func() http.Handler {
			h := honest(layerTar)
			h.layer = func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, elsewhere+"/blob", http.StatusTemporaryRedirect)
			}
			return basicAuth(h)
		}()},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(c.handler)
			t.Cleanup(srv.Close)
			host := strings.TrimPrefix(srv.URL, "http://")
			cfg := map[string]any{"auths": map[string]any{host: map[string]any{"username": "alice", "password": "s3cret"}}}
			s := openAt(t, t.TempDir(), image.Options{DockerConfig: dockerConfig(t, cfg), Stall: time.Second})
			_, err := s.Pull(t.Context(), host+"/app", image.PullOptions{})
			if !api.IsKind(err, c.kind) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %s: %v", api.KindOf(err), err)
			}
		})
	}
	if s := stolen.Load().(string); s != "" {
		t.Errorf("the thief got %q", s)
	}
}

func TestPlainHTTPOnlyWhereAllowed(t *testing.T) {
	// A name that resolves to loopback but does not say so is not trusted.
	s := open(t)
	_, err := s.Pull(t.Context(), "registry.invalid:5000/app", image.PullOptions{})
	if !api.IsKind(err, api.Unavailable) {
		t.Errorf("got %v", err)
	}
}
