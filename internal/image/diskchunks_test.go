package image_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/image/chunks"
	"github.com/berthcloud/berth/internal/testenv"
)

// traffic counts the bytes of blobs that a registry is sent and sends.
type traffic struct{ sent, got atomic.Int64 }

func (c *traffic) wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body != nil {
			r.Body = readCloser{io.TeeReader(r.Body, counter{&c.sent}), r.Body}
		}
		h.ServeHTTP(tee{w, counter{&c.got}}, r)
	})
}

type readCloser struct {
	io.Reader
	io.Closer
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) { c.n.Add(int64(len(p))); return len(p), nil }

type tee struct {
	http.ResponseWriter
	counter counter
}

func (t tee) Write(p []byte) (int, error) {
	n, err := t.ResponseWriter.Write(p)
	_, _ = t.counter.Write(p[:n])
	return n, err
}

// noise returns bytes that cannot be compressed, never the same for two seeds.
func noise(seed byte, size int) []byte {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// largeDisk is a disk of 64 MiB of which half is a hole.
func largeDisk() []byte {
	b := make([]byte, 64<<20)
	copy(b, noise(1, 24<<20))
	copy(b[48<<20:], noise(2, 8<<20))
	return b
}

// importRaw imports a disk under a name.
func importRaw(t testing.TB, s *image.Store, name string, raw []byte) {
	t.Helper()
	if _, err := s.ImportDisk(t.Context(), bytes.NewReader(raw), image.DiskOptions{Name: name, Format: disk.Raw}); err != nil {
		t.Fatal(err)
	}
}

// manifestOf reads the manifest that a name means at a registry.
func manifestOf(t testing.TB, host, repo, ref string) (m ocispec.Manifest) {
	t.Helper()
	resp, err := http.Get("http://" + host + "/v2/" + repo + "/manifests/" + ref) //nolint:noctx // a test's registry
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestPushChangedDisk: of a disk that was changed in one place its registry is sent, and
// the next store gets, the chunks that were changed. Holes stay holes, and the image has
// one digest everywhere.
func TestPushChangedDisk(t *testing.T) {
	testenv.Check(t)
	var wire traffic
	host := newRegistry(t, wire.wrap)
	s, other := open(t), open(t)
	raw := largeDisk()
	for tag, change := range []func(){func() {}, func() { copy(raw[10<<20:], noise(3, 1<<20)) }} {
		tag := string(rune('1' + tag))
		change()
		name := host + "/disk:" + tag
		importRaw(t, s, name, raw)
		wire.sent.Store(0)
		if _, err := s.Push(t.Context(), name, image.PushOptions{}); err != nil {
			t.Fatal(err)
		}
		sent := wire.sent.Load()
		wire.got.Store(0)
		if _, err := other.Pull(t.Context(), name, image.PullOptions{}); err != nil {
			t.Fatal(err)
		}
		got := wire.got.Load()
		pulled, err := other.Resolve(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if pushed, err := s.Resolve(t.Context(), name); err != nil || pushed.Digest != pulled.Digest {
			t.Errorf("pushed %s and pulled %s; %v", pushed.Digest, pulled.Digest, err)
		}
		if b, err := os.ReadFile(pulled.Disk.Path); err != nil || !bytes.Equal(b, raw) {
			t.Errorf("another disk came: %v", err)
		}
		var st syscall.Stat_t
		if err := syscall.Stat(pulled.Disk.Path, &st); err != nil || st.Blocks*512 > 33<<20 {
			t.Errorf("the disk takes %d bytes: its holes are gone; %v", st.Blocks*512, err)
		}
		if tag == "1" {
			continue
		}
		old, fresh := manifestOf(t, host, "disk", "1").Layers, int64(0)
		for _, l := range manifestOf(t, host, "disk", tag).Layers[1:] {
			if !slices.ContainsFunc(old, func(o ocispec.Descriptor) bool { return o.Digest == l.Digest }) {
				fresh += l.Size
			}
		}
		if fresh < 1<<20 || fresh > 10<<20 || sent > fresh*11/10 || got > fresh*11/10 {
			t.Errorf("%d bytes of chunks are new; %d were sent and %d came", fresh, sent, got)
		}
	}
}

// TestPulledDiskIsPushed: what was pulled goes on to another registry as it is, travels as
// an archive, and is found broken and mended.
func TestPulledDiskIsPushed(t *testing.T) {
	testenv.Check(t)
	host, next := newRegistry(t, nil), newRegistry(t, nil)
	s, root := open(t), t.TempDir()
	other, raw := openAt(t, root, image.Options{}), largeDisk()
	importRaw(t, s, host+"/disk:1", raw)
	if _, err := s.Push(t.Context(), host+"/disk:1", image.PushOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Pull(t.Context(), host+"/disk:1", image.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := other.Tag(t.Context(), host+"/disk:1", next+"/disk:1"); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Push(t.Context(), next+"/disk:1", image.PushOptions{}); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := other.Export(t.Context(), &archive, host+"/disk:1"); err != nil {
		t.Fatal(err)
	}
	third := open(t)
	if _, err := third.Import(t.Context(), &archive, image.ImportOptions{Name: "disk/archived"}); err != nil {
		t.Fatal(err)
	}
	img, err := third.Resolve(t.Context(), "disk/archived")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(img.Disk.Path); err != nil || !bytes.Equal(b, raw) {
		t.Errorf("another disk came out of the archive: %v", err)
	}

	chunk := manifestOf(t, host, "disk", "1").Layers[2].Digest.String()
	for _, broken := range []string{chunk, "sha256:" + filepath.Base(img.Disk.Path)} {
		path := filepath.Join(root, "content", "blobs", "sha256", strings.TrimPrefix(broken, "sha256:"))
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("another content"), 100); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if found, faults := check(t, other, false); found.Broken != 1 || faults[part(broken)] == "" {
			t.Errorf("%+v, %v", found, faults)
		}
		if found, faults := check(t, other, true); found.Repaired != 1 {
			t.Errorf("repair: %+v, %v", found, faults)
		}
		if found, faults := check(t, other, false); found.Broken != 0 {
			t.Errorf("after the repair: %+v, %v", found, faults)
		}
	}
	if again, err := other.Resolve(t.Context(), host+"/disk:1"); err != nil {
		t.Error(err)
	} else if b, err := os.ReadFile(again.Disk.Path); err != nil || !bytes.Equal(b, raw) {
		t.Errorf("another disk was mended: %v", err)
	}
}

// TestPullDiskGoesOn: a pull of a disk that breaks off fetches the rest the next time.
func TestPullDiskGoesOn(t *testing.T) {
	testenv.Check(t)
	var wire traffic
	var left atomic.Int64
	left.Store(1 << 30)
	host := newRegistry(t, func(h http.Handler) http.Handler {
		return wire.wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") && left.Add(-1) < 0 {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			h.ServeHTTP(w, r)
		}))
	})
	s, other, raw := open(t), open(t), largeDisk()
	importRaw(t, s, host+"/disk:1", raw)
	if _, err := s.Push(t.Context(), host+"/disk:1", image.PushOptions{}); err != nil {
		t.Fatal(err)
	}
	left.Store(8)
	if _, err := other.Pull(t.Context(), host+"/disk:1", image.PullOptions{}); !api.IsKind(err, api.Unavailable) {
		t.Fatalf("%s: %v", api.KindOf(err), err)
	}
	left.Store(1 << 30)
	first := wire.got.Load()
	if _, err := other.Pull(t.Context(), host+"/disk:1", image.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if rest := wire.got.Load() - first; first < 4<<20 || first+rest > 34<<20 {
		t.Errorf("%d bytes came, then %d", first, rest)
	}
}

// putBlob gives a registry a blob.
func putBlob(t testing.TB, host, repo, mediaType string, b []byte) ocispec.Descriptor {
	t.Helper()
	d := digest.FromBytes(b)
	put(t, "http://"+host+"/v2/"+repo+"/blobs/uploads/"+d.Encoded()+"?digest="+d.String(), "application/octet-stream", b)
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}
}

func put(t testing.TB, url, mediaType string, b []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		b, _ := io.ReadAll(resp.Body)
		t.Fatalf("PUT %s: %s: %s", url, resp.Status, b)
	}
}

// hostileDisk is a disk image of two chunks as a stranger may make it.
type hostileDisk struct {
	size   int64 // as the config says
	index  []byte
	chunks [][]byte // compressed
	typ    string   // of chunks
	raw    bool     // in the form of one blob
}

// push puts it into a registry.
func (d *hostileDisk) push(t *testing.T, host, repo string) {
	t.Helper()
	config, err := json.Marshal(map[string]any{"architecture": "amd64", "firmware": "bios", "format": "raw", "virtual_size": d.size})
	if err != nil {
		t.Fatal(err)
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.berth.disk.v1",
		Config: putBlob(t, host, repo, "application/vnd.berth.disk.config.v1+json", config),
	}
	if d.raw {
		m.Layers = []ocispec.Descriptor{putBlob(t, host, repo, "application/vnd.berth.disk.content.v1.raw", d.index)}
	} else {
		m.Layers = []ocispec.Descriptor{putBlob(t, host, repo, "application/vnd.berth.disk.index.v1", d.index)}
	}
	for _, c := range d.chunks {
		m.Layers = append(m.Layers, putBlob(t, host, repo, d.typ, c))
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	put(t, "http://"+host+"/v2/"+repo+"/manifests/1", m.MediaType, b)
}

// TestHostileChunks: whatever a registry says that a disk is made of, it becomes the disk
// that the image promises, or one line, and nothing is left of it.
func TestHostileChunks(t *testing.T) {
	pack, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	packed := func(b []byte) []byte { return pack.EncodeAll(b, nil) }
	const size = 4 << 20
	a, b, whole := noise(1, 1<<20), noise(2, 1<<20), make([]byte, size)
	copy(whole, a)
	copy(whole[2<<20:], b)
	for name, c := range map[string]struct {
		change func(*hostileDisk, *chunks.Index)
		kind   api.ErrorKind // "" is a disk
		says   string
	}{
		"sound":            {func(*hostileDisk, *chunks.Index) {}, "", ""},
		"in one blob":      {func(d *hostileDisk, _ *chunks.Index) { d.raw, d.index, d.chunks = true, whole, nil }, "", ""},
		"overlapping":      {func(_ *hostileDisk, x *chunks.Index) { x.Chunks[1].Offset = 1 << 19 }, api.Corrupt, "index is not valid"},
		"beyond its end":   {func(_ *hostileDisk, x *chunks.Index) { x.Chunks[1].Offset = size - 512 }, api.Corrupt, "index is not valid"},
		"another size":     {func(d *hostileDisk, _ *chunks.Index) { d.size = 1 << 30 }, api.Corrupt, "of a disk of 4194304 bytes and not of"},
		"too large":        {func(d *hostileDisk, x *chunks.Index) { d.size, x.Size = 1<<40, 1<<40 }, api.Invalid, "a disk of 1099511627776 bytes"},
		"no index":         {func(d *hostileDisk, _ *chunks.Index) { d.index = []byte("{}") }, api.Corrupt, "index is not valid"},
		"a huge index":     {func(d *hostileDisk, _ *chunks.Index) { d.index = make([]byte, 1<<20) }, api.Invalid, "more than"},
		"a chunk less":     {func(d *hostileDisk, _ *chunks.Index) { d.chunks = d.chunks[:1] }, api.Corrupt, "2 chunks, and the manifest has 1"},
		"another type":     {func(d *hostileDisk, _ *chunks.Index) { d.typ = "application/json" }, api.Invalid, "a chunk is of type"},
		"another place":    {func(_ *hostileDisk, x *chunks.Index) { x.Chunks[1].Offset += 512 }, api.Corrupt, "make another disk"},
		"another sum":      {func(_ *hostileDisk, x *chunks.Index) { x.Chunks[1].Sum[0]++ }, api.Corrupt, "is not what the image's index says"},
		"another chunk":    {func(d *hostileDisk, _ *chunks.Index) { d.chunks[1] = packed(noise(3, 1<<20)) }, api.Corrupt, "is not what the image's index says"},
		"a longer chunk":   {func(d *hostileDisk, _ *chunks.Index) { d.chunks[1] = packed(append(bytes.Clone(b), 1)) }, api.Corrupt, "is not what the image's index says"},
		"not compressed":   {func(d *hostileDisk, _ *chunks.Index) { d.chunks[1] = b }, api.Corrupt, "is not what the image's index says"},
		"a bomb":           {func(d *hostileDisk, _ *chunks.Index) { d.chunks[1] = packed(make([]byte, 1<<27)) }, api.Corrupt, "is not what the image's index says"},
		"the whole's sum":  {func(_ *hostileDisk, x *chunks.Index) { x.Sum[0]++ }, api.Corrupt, "make another disk"},
		"not even a chunk": {func(d *hostileDisk, x *chunks.Index) { d.chunks, x.Chunks = nil, nil }, api.Corrupt, "make another disk"},
	} {
		t.Run(name, func(t *testing.T) {
			host, root := newRegistry(t, nil), t.TempDir()
			s := openAt(t, root, image.Options{})
			d := &hostileDisk{size: size, chunks: [][]byte{packed(a), packed(b)}, typ: "application/vnd.berth.disk.chunk.v1+zstd"}
			x := &chunks.Index{Size: size, Sum: sha256.Sum256(whole), Chunks: []chunks.Chunk{
				{Offset: 0, Length: 1 << 20, Sum: sha256.Sum256(a)}, {Offset: 2 << 20, Length: 1 << 20, Sum: sha256.Sum256(b)},
			}}
			if c.change(d, x); d.index == nil {
				d.index = x.Encode()
			}
			d.push(t, host, "disk")
			_, err := s.Pull(t.Context(), host+"/disk:1", image.PullOptions{})
			if c.kind == "" {
				img, rerr := s.Resolve(t.Context(), host+"/disk:1")
				if err != nil || rerr != nil {
					t.Fatal(err, rerr)
				}
				if got, err := os.ReadFile(img.Disk.Path); err != nil || !bytes.Equal(got, whole) {
					t.Errorf("another disk came: %v", err)
				}
				return
			}
			if !api.IsKind(err, c.kind) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v", api.KindOf(err), err)
			}
			if left := files(t, filepath.Join(root, "content", "blobs")); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			if left := files(t, filepath.Join(root, "tmp")); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// TestPushDiskFull: a disk that has no room for its chunks is not pushed, and is as it was.
func TestPushDiskFull(t *testing.T) {
	testenv.Check(t)
	host, root := newRegistry(t, nil), smallDisk(t)
	s, err := image.Open(root, image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	importRaw(t, s, host+"/disk:1", noise(1, 4<<20))
	before, err := s.Resolve(t.Context(), host+"/disk:1")
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Push(t.Context(), host+"/disk:1", image.PushOptions{})
	if !api.IsKind(err, api.Exhausted) || !strings.Contains(err.Error(), "no space left") || strings.Contains(err.Error(), "\n") {
		t.Errorf("%s: %v", api.KindOf(err), err)
	}
	if after, err := s.Resolve(t.Context(), host+"/disk:1"); err != nil || after.Digest != before.Digest {
		t.Errorf("%+v, %v", after, err)
	}
}
