package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/image/layer"
)

// twoLayers makes an image with another implementation.
func twoLayers(t testing.TB) v1.Image {
	t.Helper()
	img := empty.Image
	for i := range 2 {
		var err error
		img, err = mutate.AppendLayers(img, static.NewLayer(rootfs(t, fmt.Sprintf("f%d", i), fmt.Sprint(i)), types.OCIUncompressedLayer))
		if err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg.OS, cfg.Architecture = "linux", "amd64"
	cfg.Config = v1.Config{Entrypoint: []string{"/f0"}, Env: []string{"A=b"}, User: "7:8", WorkingDir: "/w", Volumes: map[string]struct{}{"/v": {}}, StopSignal: "SIGINT",
		ExposedPorts: map[string]struct{}{"80/tcp": {}}, Labels: map[string]string{"l": "m"}, Healthcheck: &v1.HealthConfig{Test: []string{"CMD", "x"}, Retries: 2}}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	return img
}

// compressors are those an archive may come in.
var compressors = map[string]func(io.Writer) (io.WriteCloser, error){
	"plain": func(w io.Writer) (io.WriteCloser, error) { return nopCloser{w}, nil },
	"gzip":  func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
	"zstd":  func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
	"xz":    func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) },
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func compress(t testing.TB, how string, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := compressors[how](&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func dockerArchive(t testing.TB, img v1.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	ref, err := name.NewTag("docker-app:7")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.Write(ref, img, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// ociLayout writes an OCI layout directory; tarDir makes an OCI archive of it.
func ociLayout(t testing.TB, img v1.Image) string {
	t.Helper()
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(img, layout.WithAnnotations(map[string]string{"io.containerd.image.name": "docker.io/library/oci-app:7"})); err != nil {
		t.Fatal(err)
	}
	return dir
}

func tarDir(t testing.TB, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestImportForms imports the same image in every form and compression: what
// it is is seen from its content.
func TestImportForms(t *testing.T) {
	img := twoLayers(t)
	dir := ociLayout(t, img)
	want := api.ImageConfig{
		Entrypoint: []string{"/f0"}, Env: []string{"A=b"}, User: "7:8", WorkingDir: "/w", StopSignal: "SIGINT", Volumes: []string{"/v"},
		Ports: []string{"80/tcp"}, Labels: map[string]string{"l": "m"}, Health: &api.HealthCheck{Test: []string{"CMD", "x"}, Retries: 2},
	}
	check := func(t *testing.T, s *image.Store, names []string, err error, wantName string) {
		t.Helper()
		if err != nil || len(names) != 1 || names[0] != wantName {
			t.Fatalf("%v, %v; want %s", names, err, wantName)
		}
		got, err := s.Resolve(t.Context(), names[0])
		if err != nil || len(got.Layers) != 2 {
			t.Fatalf("%+v, %v", got, err)
		}
		if d := cmp.Diff(want, got.Config); d != "" {
			t.Error(d)
		}
	}
	for how := range compressors {
		t.Run(how, func(t *testing.T) {
			s := open(t)
			docker := compress(t, how, dockerArchive(t, img))
			names, err := s.Import(t.Context(), bytes.NewReader(docker), image.ImportOptions{})
			check(t, s, names, err, "docker-app:7")
			oci := compress(t, how, tarDir(t, dir))
			names, err = s.Import(t.Context(), bytes.NewReader(oci), image.ImportOptions{})
			check(t, s, names, err, "oci-app:7")
			names, err = s.Import(t.Context(), bytes.NewReader(oci), image.ImportOptions{Name: "mine"})
			check(t, s, names, err, "mine:latest")
			root := compress(t, how, rootfs(t, "etc/", "", "f", "x"))
			names, err = s.Import(t.Context(), bytes.NewReader(root), image.ImportOptions{Name: "root"})
			if err != nil || len(names) != 1 {
				t.Fatal(names, err)
			}
			if got, err := s.Resolve(t.Context(), "root"); err != nil || len(got.Layers) != 1 {
				t.Fatalf("%+v, %v", got, err)
			}
		})
	}
	t.Run("directory", func(t *testing.T) {
		s := open(t)
		names, err := s.ImportPath(t.Context(), dir, image.ImportOptions{})
		check(t, s, names, err, "oci-app:7")
	})
	t.Run("name from the file", func(t *testing.T) {
		s := open(t)
		path := filepath.Join(t.TempDir(), "My Root_fs.tar.gz")
		if err := os.WriteFile(path, compress(t, "gzip", rootfs(t, "f", "x")), 0o600); err != nil {
			t.Fatal(err)
		}
		names, err := s.ImportPath(t.Context(), path, image.ImportOptions{})
		if err != nil || names[0] != "my-root_fs:latest" {
			t.Error(names, err)
		}
	})
}

// TestImportLayerFirst imports an archive that begins with a layer of a name of its own,
// and is no root filesystem for that.
func TestImportLayerFirst(t *testing.T) {
	layer := rootfs(t, "f", "x")
	config := fmt.Sprintf(`{"os":"linux","architecture":"amd64","config":{"Cmd":["/f"]},"rootfs":{"type":"layers","diff_ids":["sha256:%x"]}}`, sha256.Sum256(layer))
	archive := rootfs(t, "layer.tar", string(layer), "config.json", config,
		"manifest.json", `[{"Config":"config.json","RepoTags":["first:1"],"Layers":["layer.tar"]}]`)
	s := open(t)
	names, err := s.Import(t.Context(), bytes.NewReader(archive), image.ImportOptions{})
	if err != nil || len(names) != 1 || names[0] != "first:1" {
		t.Fatal(names, err)
	}
	if got, err := s.Resolve(t.Context(), "first:1"); err != nil || len(got.Layers) != 1 || got.Config.Command[0] != "/f" {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestExportRoundTrip exports to a second store and to another implementation.
func TestExportRoundTrip(t *testing.T) {
	s := open(t)
	if _, err := s.Import(t.Context(), bytes.NewReader(dockerArchive(t, twoLayers(t))), image.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "out.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Export(t.Context(), f, "docker-app:7"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	other := open(t)
	names, err := other.ImportPath(t.Context(), path, image.ImportOptions{})
	if err != nil || len(names) != 1 || names[0] != "docker-app:7" {
		t.Fatal(names, err)
	}
	a, _ := s.Resolve(t.Context(), "docker-app:7")
	b, err := other.Resolve(t.Context(), "docker-app:7")
	if err != nil || a.Digest != b.Digest {
		t.Errorf("digest %s became %s, %v", a.Digest, b.Digest, err)
	}
	tag, _ := name.NewTag("docker.io/library/docker-app:7")
	img, err := tarball.ImageFromPath(path, &tag)
	if err != nil {
		t.Fatalf("as docker load reads it: %v", err)
	}
	if layers, err := img.Layers(); err != nil || len(layers) != 2 {
		t.Errorf("%d layers, %v", len(layers), err)
	}
}

// TestExportSeveral exports images that share a layer as one archive, or none of them.
func TestExportSeveral(t *testing.T) {
	s := open(t)
	shared := rootfs(t, "shared", strings.Repeat("x", 100_000))
	for name, img := range map[string]v1.Image{"a:1": build(t, runtime.GOARCH, shared), "b:1": build(t, runtime.GOARCH, shared, rootfs(t, "own", "y"))} {
		dir := ociLayout(t, img)
		if _, err := s.ImportPath(t.Context(), dir, image.ImportOptions{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if err := s.Export(t.Context(), &out, "a:1", "b:1"); err != nil {
		t.Fatal(err)
	}
	if out.Len() > 150_000 {
		t.Errorf("%d bytes: the shared layer is in it twice", out.Len())
	}
	other := open(t)
	names, err := other.Import(t.Context(), &out, image.ImportOptions{})
	slices.Sort(names)
	if err != nil || !slices.Equal(names, []string{"a:1", "b:1"}) {
		t.Fatal(names, err)
	}
	for _, name := range names {
		if img, err := other.Resolve(t.Context(), name); err != nil || len(img.Layers) == 0 {
			t.Errorf("%s: %+v, %v", name, img, err)
		}
	}
	out.Reset()
	if err := s.Export(t.Context(), &out, "a:1", "none:1"); !api.IsKind(err, api.NotFound) || out.Len() > 0 {
		t.Errorf("%v, after %d bytes", err, out.Len())
	}
}

// huge is the beginning of an archive with an entry of a size.
func huge(size int64) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Name: "oci-layout", Mode: 0o644, Size: 2})
	_, _ = w.Write([]byte("{}"))
	_ = w.WriteHeader(&tar.Header{Name: "blobs/sha256/x", Mode: 0o644, Size: size})
	return b.Bytes()
}

// archiveOf makes a tar archive of names and contents.
func archiveOf(t testing.TB, files ...string) []byte { return rootfs(t, files...) }

func TestHostileBundles(t *testing.T) {
	good := dockerArchive(t, twoLayers(t))
	layerTar := rootfs(t, "f", "x")
	config := string(honest(layerTar).config)
	hex := func(b []byte) string { return strings.TrimPrefix(digestOf(b), "sha256:") }
	index := func(d string) string {
		return fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":5,"annotations":{"org.opencontainers.image.ref.name":"a:b"}}]}`, d)
	}
	cases := map[string]struct {
		in   []byte
		opt  image.ImportOptions
		kind api.ErrorKind
		want string
	}{
		"empty":                 {in: nil, kind: api.Corrupt, want: "it is empty"},
		"no archive":            {in: bytes.Repeat([]byte("text\n"), 500), kind: api.Corrupt, want: "not a tar archive"},
		"damaged gzip":          {in: append([]byte("\x1f\x8b\x08"), bytes.Repeat([]byte{7}, 600)...), kind: api.Corrupt},
		"truncated gzip":        {in: half(compress(t, "gzip", layerTar)), opt: image.ImportOptions{Name: "x"}, kind: api.Corrupt, want: "truncated"},
		"truncated zstd":        {in: half(compress(t, "zstd", layerTar)), opt: image.ImportOptions{Name: "x"}, kind: api.Corrupt, want: "truncated"},
		"truncated docker":      {in: good[:len(good)/2], kind: api.Corrupt},
		"missing layer":         {in: archiveOf(t, hex([]byte(config))+".json", config, "manifest.json", `[{"Config":"`+hex([]byte(config))+`.json","RepoTags":["a:b"],"Layers":["../../etc/passwd"]}]`), kind: api.Corrupt, want: "is missing"},
		"config outside":        {in: archiveOf(t, "manifest.json", `[{"Config":"/etc/passwd","RepoTags":["a:b"],"Layers":[]}]`), kind: api.Corrupt, want: "is missing"},
		"bad tag":               {in: archiveOf(t, "manifest.json", `[{"Config":"c","RepoTags":["../x"],"Layers":[]}]`, "c", config), kind: api.Invalid, want: "no image name"},
		"no images":             {in: archiveOf(t, "manifest.json", `[]`), kind: api.Corrupt, want: "lists 0 images"},
		"manifest is no JSON":   {in: archiveOf(t, "manifest.json", `[{`), kind: api.Corrupt, want: "not valid"},
		"no manifest":           {in: archiveOf(t, "repositories", `{}`), kind: api.Corrupt, want: "neither"},
		"wrong blob name":       {in: archiveOf(t, "oci-layout", `{"imageLayoutVersion":"1.0.0"}`, "blobs/sha256/"+hex(layerTar), "other"), kind: api.Corrupt, want: "the archive is damaged"},
		"missing manifest":      {in: archiveOf(t, "oci-layout", `{"imageLayoutVersion":"1.0.0"}`, "index.json", index(digestOf(layerTar))), kind: api.Corrupt, want: "incomplete"},
		"digest as a path":      {in: archiveOf(t, "oci-layout", `{"imageLayoutVersion":"1.0.0"}`, "index.json", index("sha256:../../../x")), kind: api.Corrupt, want: "no SHA-256 digest"},
		"unknown layout":        {in: archiveOf(t, "oci-layout", `{"imageLayoutVersion":"9"}`, "index.json", index(digestOf(layerTar))), kind: api.Unsupported, want: "OCI layout of version"},
		"config is a bomb":      {in: archiveOf(t, "blobs/c", strings.Repeat(" ", 5<<20), "manifest.json", `[{"Config":"blobs/c","RepoTags":["a:b"],"Layers":[]}]`), kind: api.Invalid, want: "more than"},
		"document is a bomb":    {in: archiveOf(t, "manifest.json", strings.Repeat(" ", 5<<20)), kind: api.Invalid, want: "more than"},
		"root without a name":   {in: layerTar, opt: image.ImportOptions{}, kind: api.Invalid, want: "give one"},
		"name is a digest":      {in: layerTar, opt: image.ImportOptions{Name: "a@" + digestOf(layerTar)}, kind: api.Invalid, want: "a digest cannot be chosen"},
		"entry of an exabyte":   {in: huge(1 << 60), kind: api.Exhausted, want: "more than 1024 GiB"},
		"entry beyond the size": {in: rootfs(t, "f", strings.Repeat("x", 2<<20)), opt: image.ImportOptions{Name: "x"}, kind: api.Exhausted, want: "expands beyond"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			s := openAt(t, root, image.Options{Limits: layer.Limits{Size: 1 << 20}})
			before := files(t, root)
			_, err := s.Import(t.Context(), bytes.NewReader(c.in), c.opt)
			if !api.IsKind(err, c.kind) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %s: %v; want %s: %q", api.KindOf(err), err, c.kind, c.want)
			}
			if d := cmp.Diff(before, files(t, root)); d != "" {
				t.Errorf("left behind: %s", d)
			}
		})
	}
}

func half(b []byte) []byte { return b[:len(b)/2] }

// TestSymlinkedLayers is how docker before 25 saved images that share layers.
func TestSymlinkedLayers(t *testing.T) {
	layerTar := rootfs(t, "f", "x")
	config := fmt.Sprintf(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[%q,%q]}}`, digestOf(layerTar), digestOf(layerTar))
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	id := strings.Repeat("a", 64)
	for _, e := range []struct {
		h       tar.Header
		content string
	}{
		{tar.Header{Name: id + "/layer.tar", Typeflag: tar.TypeReg}, string(layerTar)},
		{tar.Header{Name: "second/layer.tar", Typeflag: tar.TypeSymlink, Linkname: "../" + id + "/layer.tar"}, ""},
		{tar.Header{Name: "c.json", Typeflag: tar.TypeReg}, config},
		{tar.Header{Name: "manifest.json", Typeflag: tar.TypeReg}, `[{"Config":"c.json","RepoTags":["old:1"],"Layers":["` + id + `/layer.tar","second/layer.tar"]}]`},
	} {
		e.h.Size, e.h.Mode = int64(len(e.content)), 0o644
		if err := w.WriteHeader(&e.h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, e.content)
	}
	w.Close()
	s := open(t)
	if _, err := s.Import(t.Context(), &b, image.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	img, err := s.Resolve(t.Context(), "old:1")
	if err != nil || len(img.Layers) != 2 || img.Layers[0].Path != img.Layers[1].Path {
		t.Errorf("%+v, %v", img, err)
	}
}

// TestHostileConfig is row 10 of the attack classes.
func TestHostileConfig(t *testing.T) {
	layerTar := rootfs(t, "f", "x")
	cases := map[string]struct {
		config map[string]any
		want   string
	}{
		"volume outside":      {map[string]any{"Volumes": map[string]any{"/../../etc": map[string]any{}}}, "volume at"},
		"volume relative":     {map[string]any{"Volumes": map[string]any{"etc": map[string]any{}}}, "volume at"},
		"uid overflow":        {map[string]any{"User": "4294967296"}, "out of range"},
		"uid just too large":  {map[string]any{"User": "2147483648:0"}, "out of range"},
		"gid overflow":        {map[string]any{"User": "0:99999999999999999999"}, "out of range"},
		"negative uid":        {map[string]any{"User": "-1"}, "out of range"},
		"relative workdir":    {map[string]any{"WorkingDir": "proc/self/fd/8"}, "not absolute"},
		"NUL in env":          {map[string]any{"Env": []string{"A=b\x00c"}}, "NUL"},
		"huge string":         {map[string]any{"Env": []string{"A=" + strings.Repeat("x", 200_000)}}, "a string of"},
		"many strings":        {map[string]any{"Env": make([]string, 20_000)}, "a list of"},
		"negative health":     {map[string]any{"Healthcheck": map[string]any{"Test": []string{"CMD"}, "Interval": -1}}, "negative"},
		"wrong type":          {map[string]any{"Env": "A=b"}, "not valid"},
		"more diffs than are": {nil, "the manifest has 1 layers, the config 2"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			diffs := []string{digestOf(layerTar)}
			if c.config == nil {
				diffs = append(diffs, diffs[0])
			}
			config, err := json.Marshal(map[string]any{"os": "linux", "architecture": "amd64", "config": c.config, "rootfs": map[string]any{"type": "layers", "diff_ids": diffs}})
			if err != nil {
				t.Fatal(err)
			}
			archive := archiveOf(t, strings.Repeat("a", 64)+".json", string(config), "l.tar", string(layerTar), "manifest.json", `[{"Config":"`+strings.Repeat("a", 64)+`.json","RepoTags":["evil:1"],"Layers":["l.tar"]}]`)
			s := open(t)
			_, err = s.Import(t.Context(), bytes.NewReader(archive), image.ImportOptions{})
			if k := api.KindOf(err); k != api.Invalid && k != api.Corrupt || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %s: %v; want %q", k, err, c.want)
			}
		})
	}
}

// TestCanceled gives up in the middle of an import.
func TestCanceled(t *testing.T) {
	root := t.TempDir()
	s := openAt(t, root, image.Options{})
	before := files(t, root)
	archive := rootfs(t, "a", strings.Repeat("x", 100_000), "b", "y")
	r, w := io.Pipe()
	go func() {
		w.Write(archive[:50_000])
		w.CloseWithError(fmt.Errorf("the client has gone: %w", errors.ErrUnsupported))
	}()
	if _, err := s.Import(t.Context(), r, image.ImportOptions{Name: "a"}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("got %v", err)
	}
	if d := cmp.Diff(before, files(t, root)); d != "" {
		t.Error(d)
	}
}

// FuzzImport feeds arbitrary bytes to the whole import: no panic, and an error
// is one line of decent length.
func FuzzImport(f *testing.F) {
	img := twoLayers(f)
	f.Add(dockerArchive(f, img))
	f.Add(tarDir(f, ociLayout(f, img)))
	f.Add(rootfs(f, "etc/", "", "f", "x"))
	for how := range compressors {
		f.Add(compress(f, how, rootfs(f, "manifest.json", `[{"Config":"c","RepoTags":["a:b"],"Layers":["l"]}]`, "c", "{}", "l", "")))
	}
	s := openAt(f, f.TempDir(), image.Options{Limits: layer.Limits{Size: 1 << 20, Entries: 100}})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := s.Import(t.Context(), bytes.NewReader(b), image.ImportOptions{Name: "x"})
		if err != nil && (strings.ContainsAny(err.Error(), "\n\r") || len(err.Error()) > 2000) {
			t.Errorf("%q", err)
		}
	})
}
