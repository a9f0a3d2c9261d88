package image

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
)

// Bounds of the documents that describe images, in bytes. Registries refuse
// manifests beyond 4 MiB; configs of real images stay far below 1 MiB.
const (
	maxManifest = 4 << 20
	maxConfig   = 4 << 20
)

// readBlob returns a whole small blob, whose digest was checked when it came.
func (s *Store) readBlob(ctx context.Context, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	ra, err := s.content.ReaderAt(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer ra.Close()
	if ra.Size() > limit {
		return nil, api.E("", api.Invalid, "", fmt.Errorf("%s has %d bytes, more than %d", desc.Digest, ra.Size(), limit))
	}
	b := make([]byte, ra.Size())
	if _, err := ra.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b, nil
}

// writeBlob stores what r has, of any digest, and returns its descriptor.
// Labels may be nil. It is no error if the store has it already.
func (s *Store) writeBlob(ctx context.Context, r io.Reader, mediaType string, labels map[string]string) (ocispec.Descriptor, error) {
	fail := func(err error) (ocispec.Descriptor, error) { return ocispec.Descriptor{}, diskFull(err) }
	ref := "blob-" + rand.Text() // never one that an interrupted operation left half-written
	w, err := s.content.Writer(ctx, content.WithRef(ref))
	if err != nil {
		return fail(err)
	}
	n, err := io.CopyBuffer(onlyWriter{w}, r, make([]byte, 1<<20))
	if err != nil {
		return fail(errors.Join(err, s.abort(ctx, w, ref)))
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: w.Digest(), Size: n}
	err = w.Commit(ctx, n, desc.Digest, content.WithLabels(labels))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fail(errors.Join(err, s.abort(ctx, w, ref)))
	}
	return desc, s.setLabels(ctx, desc.Digest, labels)
}

func (s *Store) abort(ctx context.Context, w content.Writer, ref string) error {
	w.Close()
	err := s.content.Abort(context.WithoutCancel(ctx), ref)
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// writeJSON stores a document.
func (s *Store) writeJSON(ctx context.Context, doc any, mediaType string, labels map[string]string) (ocispec.Descriptor, error) {
	b, err := json.Marshal(doc)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return s.writeBlob(ctx, bytes.NewReader(b), mediaType, labels)
}

// setLabels adds labels to a blob. A blob that is new has them already.
func (s *Store) setLabels(ctx context.Context, d digest.Digest, labels map[string]string) error {
	if len(labels) == 0 {
		return nil
	}
	info, err := s.content.Info(ctx, d)
	if err != nil {
		return err
	}
	update := content.Info{Digest: d, Labels: labels}
	var fields []string
	for k, v := range labels {
		if info.Labels[k] != v {
			fields = append(fields, "labels."+k)
		}
	}
	if len(fields) == 0 {
		return nil
	}
	_, err = s.content.Update(ctx, update, fields...)
	return err
}

// place makes the finished file f, which came from temp, a blob of the store
// without copying it. It closes f. The file's bytes are on the disk before its
// name is.
func (s *Store) place(ctx context.Context, f *os.File, mediaType string, labels map[string]string) (ocispec.Descriptor, error) {
	desc, err := seal(ctx, f, mediaType)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return desc, s.settle(ctx, f, desc, labels)
}

// seal brings a temporary file to the disk, and returns its descriptor. After an error the
// file is gone.
func seal(ctx context.Context, f *os.File, mediaType string) (ocispec.Descriptor, error) {
	fail := func(err error) (ocispec.Descriptor, error) {
		discard(f)
		return ocispec.Descriptor{}, diskFull(err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fail(err)
	}
	synced := make(chan error, 1)
	go func() { synced <- f.Sync() }()
	hash := digest.Canonical.Digester()
	_, err = io.CopyBuffer(onlyWriter{hash.Hash()}, contextReader{ctx, io.NewSectionReader(f, 0, size)}, make([]byte, 1<<20))
	if err := errors.Join(<-synced, err); err != nil {
		return fail(err)
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: hash.Digest(), Size: size}, nil
}

// settle is place for a file whose bytes are on the disk and have the descriptor's digest.
func (s *Store) settle(ctx context.Context, f *os.File, desc ocispec.Descriptor, labels map[string]string) error {
	s.placing.RLock()
	defer s.placing.RUnlock()
	path := s.blobPath(desc.Digest.String())
	err := f.Chmod(0o400)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		discard(f)
		return diskFull(err)
	}
	f.Close()
	// The store finds the file and takes it into its books.
	w, err := s.content.Writer(ctx, content.WithRef("place-"+rand.Text()), content.WithDescriptor(desc))
	if err == nil {
		err = w.Commit(ctx, desc.Size, desc.Digest, content.WithLabels(labels))
		w.Close()
	}
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	return s.setLabels(ctx, desc.Digest, labels)
}

// usage returns the bytes of all content.
func (s *Store) usage(ctx context.Context) (int64, error) {
	var sum int64
	err := s.content.Walk(ctx, func(info content.Info) error {
		sum += s.allocated(info)
		return nil
	})
	return sum, err
}

// diskFull gives the one error that every write can meet its kind and a way out.
func diskFull(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return api.E("", api.Exhausted, "", fmt.Errorf("no space left on the disk of the image store; free some (berth system prune) and try again: %w", err))
	}
	return err
}

// onlyWriter hides other methods, so that io.CopyBuffer uses its buffer.
type onlyWriter struct{ io.Writer }

// blobWriter is a blob that is written while its content passes by for another
// purpose.
type blobWriter struct {
	s   *Store
	ctx context.Context // of the operation, as long as the writer lives
	ref string
	w   content.Writer
	n   int64
}

func (s *Store) newBlob(ctx context.Context) (*blobWriter, error) {
	ref := "blob-" + rand.Text()
	w, err := s.content.Writer(ctx, content.WithRef(ref))
	if err != nil {
		return nil, diskFull(err)
	}
	return &blobWriter{s: s, ctx: ctx, ref: ref, w: w}, nil
}

func (b *blobWriter) Write(p []byte) (int, error) {
	n, err := b.w.Write(p)
	b.n += int64(n)
	return n, diskFull(err)
}

// commit makes the blob visible.
func (b *blobWriter) commit(mediaType string, labels map[string]string) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: b.w.Digest(), Size: b.n}
	err := b.w.Commit(b.ctx, b.n, desc.Digest, content.WithLabels(labels))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return ocispec.Descriptor{}, diskFull(err)
	}
	b.w.Close()
	b.w = nil
	return desc, b.s.setLabels(b.ctx, desc.Digest, labels)
}

// abandon removes what was written, unless it was committed.
func (b *blobWriter) abandon() {
	if b.w != nil {
		_ = b.s.abort(b.ctx, b.w, b.ref) // what is left expires with its lease
		b.w = nil
	}
}

func notFound(err error) bool { return errdefs.IsNotFound(err) }
