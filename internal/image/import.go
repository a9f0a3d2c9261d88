package image

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image/layer"
)

// ImportOptions say how what is imported is to be named and run.
type ImportOptions struct {
	// Name is what the image is to be called. It may be empty where the archive
	// has names of its own; otherwise it takes their place.
	Name string
	// Config is for the archive of a root filesystem, which has none. Its
	// command defaults to /bin/sh.
	Config api.ImageConfig
	// Arch is for a root filesystem: its architecture, as GOARCH. Empty means the
	// host's.
	Arch string
	// Created is for a root filesystem. Zero means now.
	Created  time.Time
	Progress Progress
}

// ImportPath imports what stands at path: an archive in one of the forms of
// Import, or a directory in OCI image layout. It returns the names given.
func (s *Store) ImportPath(ctx context.Context, path string, opt ImportOptions) ([]string, error) {
	fail := func(kind api.ErrorKind, err error) ([]string, error) {
		return nil, api.E("import", kind, path, err)
	}
	f, err := os.Open(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fail(api.NotFound, errors.New("no such file; name a tar archive or an OCI layout directory"))
	case err != nil:
		return fail(api.Denied, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fail("", err)
	}
	if info.IsDir() {
		names, err := s.importLayout(ctx, path, opt)
		return names, api.E("import", "", path, err)
	}
	if opt.Name == "" {
		opt.Name = nameFromPath(path)
		names, err := s.importArchive(ctx, f, opt, true)
		return names, api.E("import", "", path, err)
	}
	names, err := s.importArchive(ctx, f, opt, false)
	return names, api.E("import", "", path, err)
}

// Import imports a tar archive, compressed or not: of a root filesystem
// (tar), of one or more images (docker save), or in OCI image layout. What it
// is is seen from its content. It returns the names given. After a failure
// nothing of it is left.
func (s *Store) Import(ctx context.Context, r io.Reader, opt ImportOptions) ([]string, error) {
	names, err := s.importArchive(ctx, r, opt, false)
	return names, api.E("import", "", opt.Name, err)
}

// nameFromPath makes a name for an archive that has none: debian-12 for
// Debian-12.tar.gz.
func nameFromPath(path string) string {
	base := strings.ToLower(filepath.Base(path))
	for _, ext := range []string{".gz", ".tgz", ".xz", ".zst", ".bz2", ".tar"} {
		base = strings.TrimSuffix(base, ext)
	}
	return strings.Trim(regexp.MustCompile(`[^a-z0-9._-]+`).ReplaceAllString(base, "-"), "-._")
}

// importArchive imports a stream. Where nameIsGuess, names in the archive win
// over opt.Name.
func (s *Store) importArchive(ctx context.Context, r io.Reader, opt ImportOptions, nameIsGuess bool) ([]string, error) {
	ctx, done, err := s.work(ctx)
	if err != nil {
		return nil, err
	}
	defer s.finish(ctx, done)

	counted := &layerReader{in: contextReader{ctx, r}, progress: func(n int64) { opt.Progress.report("archive", StageReading, n, 0) }}
	in := bufio.NewReaderSize(counted, 256<<10)
	head, err := in.Peek(peekLength)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(head) == 0 {
		return nil, api.E("", api.Corrupt, "", errors.New("it is empty; name a tar archive or an OCI layout directory"))
	}
	kind, first, err := peekArchive(in)
	if err != nil {
		return nil, err
	}
	if kind == rootfsArchive {
		return s.importRootfs(ctx, first, opt)
	}
	plain, err := decompress(first)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	a := &bundle{store: s, blobs: map[string]ocispec.Descriptor{}, links: map[string]string{}, docs: map[string][]byte{}}
	if err := a.read(ctx, plain); err != nil {
		return nil, err
	}
	if nameIsGuess {
		opt.Name = ""
	}
	return s.importBundle(ctx, a, opt)
}

// finish ends an operation's lease and takes what it left behind.
func (s *Store) finish(ctx context.Context, done func()) {
	done()
	_, _ = s.Collect(context.WithoutCancel(ctx)) // the next collection takes what this could not
}

type archiveKind int

const (
	rootfsArchive archiveKind = iota
	imageArchive
)

// bundleEntry matches the names that begin an archive of images: those of an
// OCI layout, and those docker, podman, skopeo and crane write, and those that call their
// first layer by that word.
var bundleEntry = regexp.MustCompile(`^(\./)?(blobs(/.*)?|oci-layout|index\.json|manifest\.json|repositories|layer\.tar(\.gz)?|(sha256:)?[0-9a-f]{64}(/.*|\.json|\.tar|\.tar\.gz)?)$`)

// peekWindow is how much of an archive is looked at to tell what it is.
const peekWindow = 128 << 10

// peekArchive tells what kind of archive r is, by the name of its first entry,
// and returns a reader of the whole.
func peekArchive(r *bufio.Reader) (archiveKind, io.Reader, error) {
	head, err := r.Peek(peekWindow)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, nil, err
	}
	plain, err := decompress(strings.NewReader(string(head)))
	if err != nil {
		return 0, nil, err
	}
	defer plain.Close()
	t := tar.NewReader(plain)
	for {
		h, err := t.Next()
		switch {
		case err == nil && (h.Typeflag == tar.TypeXGlobalHeader || path.Clean(h.Name) == "."):
			continue
		case err == nil && bundleEntry.MatchString(h.Name):
			return imageArchive, r, nil
		case errors.Is(err, tar.ErrHeader):
			return 0, nil, api.E("", api.Corrupt, "", errors.New("not a tar archive; name a tar archive or an OCI layout directory"))
		}
		return rootfsArchive, r, nil // and its reader tells what is wrong with it
	}
}

// contextReader ends a stream when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, api.E("", api.Canceled, "", err)
	}
	return r.r.Read(p)
}

// importRootfs makes an image with one layer of the archive of a root
// filesystem, in one pass over it.
func (s *Store) importRootfs(ctx context.Context, r io.Reader, opt ImportOptions) ([]string, error) {
	if opt.Name == "" {
		return nil, api.E("", api.Invalid, "", errors.New("the archive of a root filesystem has no name of its own; give one"))
	}
	name, err := tagName(opt.Name)
	if err != nil {
		return nil, err
	}
	packed, diffID, err := s.storeLayer(ctx, r, "archive", layer.Options{Root: true}, opt.Progress)
	if err != nil {
		return nil, err
	}
	config := imageConfig(opt, diffID)
	if err := s.writeImage(ctx, name, config, []ocispec.Descriptor{packed}, nil); err != nil {
		return nil, err
	}
	return []string{Familiar(name)}, nil
}

// storeLayer stores an archive both as it is and as an EROFS image, which progress calls
// part. What compression OCI does not know is taken off.
func (s *Store) storeLayer(ctx context.Context, r io.Reader, part string, opt layer.Options, progress Progress) (ocispec.Descriptor, digest.Digest, error) {
	fail := func(err error) (ocispec.Descriptor, digest.Digest, error) {
		return ocispec.Descriptor{}, "", err
	}
	in := bufio.NewReaderSize(r, 256<<10)
	head, _ := in.Peek(peekLength)
	mediaType := ocispec.MediaTypeImageLayer
	var from io.Reader = in
	switch c := detect(head); c {
	case none:
	case gzipped:
		mediaType = ocispec.MediaTypeImageLayerGzip
	case zstandard:
		mediaType = ocispec.MediaTypeImageLayerZstd
	default:
		plain, err := decompress(in)
		if err != nil {
			return fail(err)
		}
		defer plain.Close()
		from = plain
	}
	w, err := s.newBlob(ctx)
	if err != nil {
		return fail(err)
	}
	defer w.abandon()
	writing := newBeside(w)
	defer writing.end() // before w is abandoned
	counted := &layerReader{in: io.TeeReader(from, writing)}
	finish := func() (digest.Digest, error) {
		// Bytes after the end of a compressed stream belong to the blob all the same.
		if _, err := io.Copy(io.Discard, counted); err != nil {
			return "", err
		}
		err := writing.stop()
		return w.w.Digest(), err
	}
	image, diffID, err := s.toEROFS(ctx, counted, finish, opt)
	if err != nil {
		return fail(err)
	}
	if _, err := finish(); err != nil {
		return fail(err)
	}
	packed, err := w.commit(mediaType, map[string]string{erofsRefLabel: image.Digest.String()})
	if err != nil {
		return fail(err)
	}
	progress.report(part, StageDone, counted.count(), counted.count())
	return packed, diffID, nil
}

// imageConfig makes the config of an image of one layer.
func imageConfig(opt ImportOptions, diffID digest.Digest) ocispec.Image {
	created := opt.Created
	if created.IsZero() {
		created = time.Now()
	}
	created = created.UTC()
	arch := opt.Arch
	if arch == "" {
		arch = runtime.GOARCH
	}
	c := opt.Config
	if len(c.Entrypoint) == 0 && len(c.Command) == 0 {
		c.Command = []string{"/bin/sh"}
	}
	if len(c.Env) == 0 {
		c.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	}
	img := ocispec.Image{
		Created:  &created,
		Platform: ocispec.Platform{OS: "linux", Architecture: arch},
		Config: ocispec.ImageConfig{
			User: c.User, Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Command,
			WorkingDir: c.WorkingDir, Labels: c.Labels, StopSignal: c.StopSignal,
			Volumes: set(c.Volumes), ExposedPorts: set(c.Ports),
		},
	}
	img.RootFS.Type = "layers"
	img.RootFS.DiffIDs = []digest.Digest{diffID}
	img.History = []ocispec.History{{Created: &created, CreatedBy: "berth"}}
	return img
}

func set(list []string) map[string]struct{} {
	if len(list) == 0 {
		return nil
	}
	m := map[string]struct{}{}
	for _, s := range list {
		m[s] = struct{}{}
	}
	return m
}

// writeImage stores a config and a manifest for layers that are stored, and
// gives them a name.
func (s *Store) writeImage(ctx context.Context, name string, config any, layers []ocispec.Descriptor, annotations map[string]string) error {
	configDesc, err := s.writeJSON(ctx, config, ocispec.MediaTypeImageConfig, nil)
	if err != nil {
		return err
	}
	return s.writeManifest(ctx, name, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: configDesc, Layers: layers, Annotations: annotations,
	})
}

func (s *Store) writeManifest(ctx context.Context, name string, m ocispec.Manifest) error {
	desc, err := s.writeJSON(ctx, m, ocispec.MediaTypeImageManifest, manifestLabels(m))
	if err != nil {
		return err
	}
	return s.setName(ctx, name, desc, nil)
}

// manifestLabels lead the garbage collector from a manifest to its content.
func manifestLabels(m ocispec.Manifest) map[string]string {
	labels := map[string]string{"containerd.io/gc.ref.content.config": m.Config.Digest.String()}
	for i, l := range m.Layers {
		labels[fmt.Sprintf("containerd.io/gc.ref.content.l.%d", i)] = l.Digest.String()
	}
	return labels
}

// setName makes name mean target, whatever it meant before. Labels may be nil.
func (s *Store) setName(ctx context.Context, name string, target ocispec.Descriptor, labels map[string]string) error {
	target = ocispec.Descriptor{MediaType: target.MediaType, Digest: target.Digest, Size: target.Size}
	rec := images.Image{Name: name, Target: target, Labels: labels}
	fields := []string{"target"}
	for key := range labels {
		fields = append(fields, "labels."+key)
	}
	_, err := s.images.Update(ctx, rec, fields...)
	if notFound(err) {
		_, err = s.images.Create(ctx, rec)
	}
	return err
}
