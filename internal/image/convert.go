package image

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image/layer"
	"github.com/berthcloud/berth/internal/image/lazy"
)

// Labels of blobs. The first leads the garbage collector from a layer to its
// EROFS image; the others say what a blob is.
const (
	erofsRefLabel = "containerd.io/gc.ref.content.erofs" // on a layer: digest of its EROFS image
	diffIDLabel   = "berth/erofs-of"                     // on an EROFS image: diff id of its layer
)

// MediaTypeEROFS is what EROFS images in the store are, should they ever leave it.
const MediaTypeEROFS = "application/vnd.erofs.layer.v1"

// conversion is one in progress, which others may wait for.
type conversion struct {
	done chan struct{}
	err  error
}

// convertAll makes sure that every layer has its EROFS image, several at a time.
func (s *Store) convertAll(ctx context.Context, layers []ocispec.Descriptor, diffIDs []digest.Digest, progress Progress) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, desc := range layers {
		g.Go(func() error {
			return s.convert(gctx, desc, diffIDs[i], progress)
		})
	}
	return g.Wait()
}

// convert makes sure that the layer desc, whose uncompressed digest is diffID,
// has an EROFS image. A conversion in progress is waited for and not repeated.
func (s *Store) convert(ctx context.Context, desc ocispec.Descriptor, diffID digest.Digest, progress Progress) error {
	part := short(desc.Digest)
	for {
		if _, err := s.erofsOf(ctx, desc.Digest); err == nil {
			progress.report(part, StageDone, desc.Size, desc.Size)
			return nil
		} else if !errdefs.IsNotFound(err) {
			return err
		}
		if _, err := s.content.Info(ctx, desc.Digest); notFound(err) && s.arriving(desc.Digest) != nil {
			return nil // it is used from where it arrives
		}
		s.mu.Lock()
		running := s.converting[string(diffID)]
		if running == nil {
			running = &conversion{done: make(chan struct{})}
			s.converting[string(diffID)] = running
			s.mu.Unlock()
			running.err = s.convertOnce(ctx, desc, diffID, progress)
			s.mu.Lock()
			delete(s.converting, string(diffID))
			s.mu.Unlock()
			close(running.done)
			return running.err
		}
		s.mu.Unlock()
		select {
		case <-running.done:
			// Its failure may be its own, as when its caller gave up: look again,
			// and try in its place.
		case <-ctx.Done():
			return api.E("", api.Canceled, "", ctx.Err())
		}
	}
}

// erofsOf returns the digest of a layer's EROFS image.
func (s *Store) erofsOf(ctx context.Context, layer digest.Digest) (content.Info, error) {
	info, err := s.content.Info(ctx, layer)
	if err != nil {
		return content.Info{}, err
	}
	d, ok := info.Labels[erofsRefLabel]
	if !ok {
		return content.Info{}, fmt.Errorf("layer %s has no EROFS image: %w", layer, errdefs.ErrNotFound)
	}
	image, err := s.content.Info(ctx, digest.Digest(d))
	if err != nil {
		return content.Info{}, err
	}
	// The books may know a file that a damaged disk, or a hand, has lost.
	if file, err := os.Stat(s.blobPath(d)); err != nil || file.Size() != image.Size {
		if err := s.content.Delete(ctx, image.Digest); err != nil && !errdefs.IsNotFound(err) {
			return content.Info{}, err
		}
		return content.Info{}, fmt.Errorf("the EROFS image of layer %s is lost: %w", layer, errdefs.ErrNotFound)
	}
	return image, nil
}

func (s *Store) convertOnce(ctx context.Context, desc ocispec.Descriptor, diffID digest.Digest, progress Progress) error {
	found, err := s.findConverted(ctx, diffID)
	if err != nil {
		return err
	}
	if found == "" || !s.keep(ctx, found) {
		ra, err := s.content.ReaderAt(ctx, desc)
		if err != nil {
			return err
		}
		defer ra.Close()
		part := short(desc.Digest)
		c := &layerReader{in: content.NewReader(ra), progress: func(n int64) { progress.report(part, StageConverting, n, ra.Size()) }}
		// The store has checked the blob's digest when it came.
		packed := func() (digest.Digest, error) { return desc.Digest, nil }
		made, got, err := s.toEROFS(ctx, c, packed, layer.Options{Absolute: true, Stargz: desc.Annotations[lazy.TOCAnnotation] != ""})
		if err != nil {
			return api.E("", "", "", fmt.Errorf("layer %s: %w", part, err))
		}
		if got != diffID {
			return api.E("", api.Corrupt, "", fmt.Errorf("layer %s expands to %s, but the image's config says %s", part, short(got), short(diffID)))
		}
		found = made.Digest
	}
	if err := s.setLabels(ctx, desc.Digest, map[string]string{erofsRefLabel: found.String()}); err != nil {
		return err
	}
	progress.report(short(desc.Digest), StageDone, desc.Size, desc.Size)
	return nil
}

// findConverted looks for the EROFS image of another layer with the same
// content, as when it was compressed in another way.
func (s *Store) findConverted(ctx context.Context, diffID digest.Digest) (found digest.Digest, err error) {
	err = s.content.Walk(ctx, func(info content.Info) error {
		found = info.Digest
		return nil
	}, fmt.Sprintf(`labels."%s"==%s`, diffIDLabel, diffID))
	return found, err
}

// toEROFS converts the layer that r holds, possibly compressed, and stores the
// EROFS image. It returns the digest of what r holds uncompressed, too; where r
// is not compressed, that is packed's, and is not computed again.
func (s *Store) toEROFS(ctx context.Context, r *layerReader, packed func() (digest.Digest, error), opt layer.Options) (ocispec.Descriptor, digest.Digest, error) {
	fail := func(err error) (ocispec.Descriptor, digest.Digest, error) {
		return ocispec.Descriptor{}, "", diskFull(err)
	}
	plain, err := decompress(r)
	if err != nil {
		return fail(err)
	}
	defer plain.Close()
	f, err := s.temp("layer-*.erofs")
	if err != nil {
		return fail(err)
	}
	opt.Limits = s.opt.Limits
	in := plain.Reader
	if plain.compression != none {
		opt.Archived = r.count
		hash := digest.Canonical.Digester()
		sum := newBeside(hash.Hash())
		defer sum.end()
		in = io.TeeReader(plain, sum)
		packed = func() (digest.Digest, error) {
			err := sum.stop()
			return hash.Digest(), err
		}
	}
	if _, err := layer.Convert(ctx, f, in, opt); err != nil {
		discard(f)
		return fail(err)
	}
	diffID, err := packed()
	if err != nil {
		discard(f)
		return fail(err)
	}
	desc, err := s.place(ctx, f, MediaTypeEROFS, map[string]string{diffIDLabel: diffID.String()})
	if err != nil {
		return fail(err)
	}
	return desc, diffID, nil
}

// short is how a digest is shown in progress and errors.
func short(d digest.Digest) string {
	hex := d.Encoded()
	return hex[:min(12, len(hex))]
}

// beside writes to another writer in a goroutine of its own: hashing, writing
// and converting take about as long, and there is more than one core.
type beside struct {
	to   io.Writer
	full chan []byte // to be written
	free chan []byte // to be filled
	buf  []byte
	done chan struct{}
	err  error // of to; to be read when done is closed
}

const besideChunk = 256 << 10

func newBeside(to io.Writer) *beside {
	b := &beside{to: to, full: make(chan []byte, 4), free: make(chan []byte, 4), done: make(chan struct{})}
	for range cap(b.free) {
		b.free <- make([]byte, 0, besideChunk)
	}
	full := b.full // stop clears the field
	go func() {
		defer close(b.done)
		for buf := range full {
			if b.err == nil {
				_, b.err = b.to.Write(buf)
			}
			b.free <- buf[:0]
		}
	}()
	return b
}

// Write implements io.Writer. What becomes of it is known after stop.
func (b *beside) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if b.buf == nil {
			b.buf = <-b.free
		}
		k := min(len(p), cap(b.buf)-len(b.buf))
		b.buf = append(b.buf, p[:k]...)
		p = p[k:]
		if len(b.buf) == cap(b.buf) {
			b.full <- b.buf
			b.buf = nil
		}
	}
	return n, nil
}

// end is stop for a writer whose result nobody wants any more.
func (b *beside) end() { _ = b.stop() }

// stop ends the goroutine when everything is written, and returns the error of
// a write. It may be called twice.
func (b *beside) stop() error {
	if b.full != nil {
		if len(b.buf) > 0 {
			b.full <- b.buf
		}
		close(b.full)
		b.full, b.buf = nil, nil
	}
	<-b.done
	return b.err
}
