package image_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	ggcrname "github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/image/layer"
)

// firstBytes returns how a blob of a registry begins.
func firstBytes(t *testing.T, host, repo, d string) []byte {
	t.Helper()
	resp, err := http.Get("http://" + host + "/v2/" + repo + "/blobs/" + d) //nolint:noctx // a test's registry
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b := make([]byte, 4)
	if _, err := io.ReadFull(resp.Body, b); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestPushCompresses: layers that were made here travel compressed, with gzip or as it is
// said, once; the image is the same one on both sides, and is not converted again.
func TestPushCompresses(t *testing.T) {
	var seen counted
	host := newRegistry(t, seen.wrap)
	s := open(t)
	text := strings.Repeat("content ", 100_000)
	importAs(t, s, host+"/app:1", "f", text)
	before, err := s.Resolve(t.Context(), host+"/app:1")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		as        image.Compression
		mediaType string
		magic     string
		blobs     int // that are new
	}{
		{image.Compression{}, ocispec.MediaTypeImageLayerGzip, "\x1f\x8b", 2},
		{image.Compression{}, ocispec.MediaTypeImageLayerGzip, "\x1f\x8b", 0},
		{image.Compression{Format: "zstd"}, ocispec.MediaTypeImageLayerZstd, "\x28\xb5\x2f\xfd", 1},
		{image.Compression{}, ocispec.MediaTypeImageLayerZstd, "\x28\xb5\x2f\xfd", 0},
		{image.Compression{Format: "zstd"}, ocispec.MediaTypeImageLayerZstd, "\x28\xb5\x2f\xfd", 0},
		{image.Compression{Format: "zstd", Level: 19}, ocispec.MediaTypeImageLayerZstd, "\x28\xb5\x2f\xfd", 1},
		{image.Compression{Format: "gzip", Level: 1}, ocispec.MediaTypeImageLayerGzip, "\x1f\x8b", 1},
	} {
		seen.take("PUT blobs")
		if _, err := s.Push(t.Context(), host+"/app:1", image.PushOptions{Compression: c.as}); err != nil {
			t.Fatal(err)
		}
		if n := seen.take("PUT blobs"); n != c.blobs {
			t.Errorf("%+v: %d blobs were sent and not %d", c.as, n, c.blobs)
		}
		l := manifestOf(t, host, "app", "1").Layers[0]
		if b := firstBytes(t, host, "app", l.Digest.String()); l.MediaType != c.mediaType || !bytes.HasPrefix(b, []byte(c.magic)) || l.Size > 100_000 {
			t.Errorf("%+v: a layer of type %s and %d bytes that begins with %x", c.as, l.MediaType, l.Size, b)
		}
		other := open(t)
		if _, err := other.Pull(t.Context(), host+"/app:1", image.PullOptions{}); err != nil {
			t.Fatal(err)
		}
		a, errA := s.Resolve(t.Context(), host+"/app:1")
		b, errB := other.Resolve(t.Context(), host+"/app:1")
		if errA != nil || errB != nil || a.Digest != b.Digest || a.Layers[0].EROFS != before.Layers[0].EROFS || b.Layers[0].EROFS != before.Layers[0].EROFS {
			t.Errorf("%+v: pushed %+v and pulled %+v; %v, %v", c.as, a, b, errA, errB)
		}
	}
	if _, err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if found, faults := check(t, s, false); found.Broken != 0 {
		t.Errorf("%v", faults)
	}
}

// TestPushCompressesIndex: of an index each image is compressed, and what is stated of one is
// stated of the new one.
func TestPushCompressesIndex(t *testing.T) {
	host := newRegistry(t, nil)
	ref, err := ggcrname.ParseReference(host + "/app:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, attested(t, `{"predicateType": "https://spdx.dev/Document", "predicate": {"spdxVersion": "SPDX-2.3"}}`)); err != nil {
		t.Fatal(err)
	}
	s, other := open(t), open(t)
	if _, err := s.Pull(t.Context(), host+"/app:1", image.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Tag(t.Context(), host+"/app:1", host+"/app:2"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Push(t.Context(), host+"/app:2", image.PushOptions{Compression: image.Compression{Format: "zstd"}}); err != nil {
		t.Fatal(err)
	}
	ref, err = ggcrname.ParseReference(host + "/app:2")
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(ref)
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil || len(m.Manifests) != 2 || m.Manifests[1].Annotations["vnd.docker.reference.digest"] != m.Manifests[0].Digest.String() || m.Manifests[0].Platform.Architecture != "amd64" {
		t.Fatalf("%+v, %v", m, err)
	}
	if l := manifestOf(t, host, "app", m.Manifests[0].Digest.String()).Layers[0]; l.MediaType != ocispec.MediaTypeImageLayerZstd {
		t.Errorf("a layer of type %s", l.MediaType)
	}
	if _, err := other.Pull(t.Context(), host+"/app:2", image.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if sbom, err := other.SBOM(t.Context(), host+"/app:2"); err != nil || sbom.Format != "spdx" {
		t.Errorf("%+v, %v", sbom, err)
	}
	if img, err := s.Inspect(t.Context(), host+"/app:1"); err != nil || img.Layers[0].Digest == manifestOf(t, host, "app", m.Manifests[0].Digest.String()).Layers[0].Digest.String() {
		t.Errorf("another name has changed, too: %+v, %v", img, err)
	}
}

// TestPushCompressionRefused: what makes no sense is refused, and so are layers that others
// have pushed here for another platform and that are not what their image says, or expand
// too far.
func TestPushCompressionRefused(t *testing.T) {
	host := newRegistry(t, nil)
	s := openAt(t, t.TempDir(), image.Options{Limits: layer.Limits{Size: 1 << 20}})
	importAs(t, s, host+"/app:1", "f", "x")
	for _, c := range []struct {
		name string
		as   image.Compression
		says string
	}{
		{host + "/app:1", image.Compression{Format: "lz4"}, "choose gzip or zstd"},
		{host + "/app:1", image.Compression{Level: 3}, "without a format"},
		{host + "/app:1", image.Compression{Format: "gzip", Level: 10}, "from 1 to 9"},
		{host + "/app:1", image.Compression{Format: "zstd", Level: -1}, "from 1 to 22"},
	} {
		_, err := s.Push(t.Context(), c.name, image.PushOptions{Compression: c.as})
		if !api.IsKind(err, api.Invalid) || !strings.Contains(fmt.Sprint(err), c.says) || strings.Contains(fmt.Sprint(err), "\n") {
			t.Errorf("%+v: %s: %v", c.as, api.KindOf(err), err)
		}
	}
	img, err := s.Resolve(t.Context(), host+"/app:1")
	if err != nil || img.Layers[0].Packed < 1024 {
		t.Errorf("the layer is another one: %+v, %v", img, err)
	}

	r := repositories(t, s)
	defer r.Close()
	bomb := make([]byte, 2<<20)
	for _, c := range []struct {
		tag   string
		plain []byte
		says  string
	}{{"other", []byte("another tar"), "but the image's config says"}, {"bomb", bomb, "expands beyond"}} {
		name := host + "/" + c.tag + ":1"
		pushForeign(t, r, "localhost/"+c.tag, c.plain, digest.FromBytes(bomb))
		if err := s.Tag(t.Context(), "localhost/"+c.tag+":1", name); err != nil {
			t.Fatal(err)
		}
		_, err := s.Push(t.Context(), name, image.PushOptions{Compression: image.Compression{Format: "zstd"}})
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", c.tag, err)
		}
	}
}

// pushForeign pushes an image of one layer for arm64, whose tar has a digest as it says.
func pushForeign(t *testing.T, r *image.Repositories, repo string, plain []byte, diffID digest.Digest) {
	t.Helper()
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, err := w.Write(plain)
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	config, err := upload(t.Context(), r, repo, fmt.Appendf(nil, `{"architecture":"arm64","os":"linux","rootfs":{"type":"layers","diff_ids":[%q]}}`, diffID))
	if err != nil {
		t.Fatal(err)
	}
	l, err := upload(t.Context(), r, repo, packed.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	config.MediaType, l.MediaType = ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageLayerGzip
	if _, _, err := r.PutManifest(t.Context(), repo, "1", ocispec.MediaTypeImageManifest, artifact(config, l)); err != nil {
		t.Fatal(err)
	}
}

// TestPullZstdChunked pulls a layer in the form that podman calls zstd:chunked: zstd with
// frames that every reader skips, and a table of contents in them.
func TestPullZstdChunked(t *testing.T) {
	host := newRegistry(t, nil)
	pack, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	plain := rootfs(t, "f", "content", "g", strings.Repeat("more ", 1000))
	toc := bytes.Repeat([]byte("table of contents"), 100)
	skipped := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, 0x184D2A50), uint32(len(toc)))
	half := len(plain) / 2
	packed := slices.Concat(pack.EncodeAll(plain[:half], nil), pack.EncodeAll(plain[half:], nil), skipped, toc)
	img, err := mutate.Append(empty.Image, mutate.Addendum{
		Layer:       zstdLayer{static.NewLayer(packed, types.OCILayerZStd), plain},
		Annotations: map[string]string{"io.github.containers.zstd-chunked.manifest-position": "1:2:3:1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg.OS, cfg.Architecture = "linux", "amd64"
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	ref, err := ggcrname.ParseReference(host + "/app:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	s := open(t)
	if _, err := s.Pull(t.Context(), host+"/app:1", image.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	// Compressed in another way, it is no zstd:chunked any more, and does not say so.
	if _, err := s.Push(t.Context(), host+"/app:1", image.PushOptions{Compression: image.Compression{Format: "gzip"}}); err != nil {
		t.Fatal(err)
	}
	if l := manifestOf(t, host, "app", "1").Layers[0]; l.MediaType != ocispec.MediaTypeImageLayerGzip || len(l.Annotations) != 0 {
		t.Errorf("%+v", l)
	}
}

// zstdLayer is a layer of which the uncompressed tar is known.
type zstdLayer struct {
	v1.Layer
	plain []byte
}

// DiffID implements v1.Layer.
func (l zstdLayer) DiffID() (v1.Hash, error) {
	hash, _, err := v1.SHA256(bytes.NewReader(l.plain))
	return hash, err
}
