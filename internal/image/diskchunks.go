package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image/chunks"
)

// A disk image travels in chunks (docs/disk-images.md): its first blob is their index, the
// others are the chunks, each compressed, in the order of their first places. So a
// registry that has a disk is sent of the next one what is new, and so a store gets it.
// The disk itself, which is made of them, is content of the store that the index leads to.
const (
	diskIndexType = "application/vnd.berth.disk.index.v1"
	diskChunkType = "application/vnd.berth.disk.chunk.v1+zstd"

	diskRefLabel = "containerd.io/gc.ref.content.disk" // on an index: digest of the disk
)

// inChunks reports whether the blobs of a disk image are chunks.
func inChunks(m *ocispec.Manifest) bool {
	return len(m.Layers) > 0 && m.Layers[0].MediaType == diskIndexType
}

// checkChunks refuses blobs that are not an index and chunks.
func checkChunks(layers []ocispec.Descriptor) error {
	if len(layers)-1 > chunks.MaxCount {
		return fmt.Errorf("it has %d chunks, more than %d", len(layers)-1, chunks.MaxCount)
	}
	for _, l := range layers[1:] {
		// What cannot be compressed grows by a header and by three bytes for each block.
		if l.MediaType != diskChunkType || l.Size > chunks.MaxSize+chunks.MaxSize>>10 {
			return fmt.Errorf("a chunk is of type %.80q and has %d bytes", l.MediaType, l.Size)
		}
	}
	return nil
}

// chunkIndex reads the index of a disk image, and checks it against the manifest.
func (s *Store) chunkIndex(ctx context.Context, m *ocispec.Manifest) (*chunks.Index, error) {
	c, err := s.diskConfigOf(ctx, m)
	if err != nil {
		return nil, err
	}
	b, err := s.readBlob(ctx, m.Layers[0], chunks.MaxIndex)
	if err != nil {
		return nil, err
	}
	x, err := chunks.Parse(b)
	if err == nil && x.Size != c.VirtualSize {
		err = fmt.Errorf("it is of a disk of %d bytes and not of %d", x.Size, c.VirtualSize)
	}
	if err == nil && len(x.Distinct()) != len(m.Layers)-1 {
		err = fmt.Errorf("it has %d chunks, and the manifest has %d", len(x.Distinct()), len(m.Layers)-1)
	}
	if err != nil {
		return nil, api.E("", api.Corrupt, "", fmt.Errorf("the disk image's index is not valid: %w", err))
	}
	return x, nil
}

// wholeDisk returns the digest of the disk of a disk image, which is made of its chunks
// where the store has it not yet.
func (s *Store) wholeDisk(ctx context.Context, m *ocispec.Manifest, progress Progress) (digest.Digest, error) {
	if !inChunks(m) {
		return m.Layers[0].Digest, nil
	}
	// One at a time: each has all processors busy, and the next may be of the same disk.
	s.joining.Lock()
	defer s.joining.Unlock()
	index, err := s.content.Info(ctx, m.Layers[0].Digest)
	if err != nil {
		return "", err
	}
	if d := digest.Digest(index.Labels[diskRefLabel]); d != "" && s.hasDisk(ctx, d) {
		return d, nil
	}
	ctx, done, err := s.work(ctx)
	if err != nil {
		return "", err
	}
	defer done()
	x, err := s.chunkIndex(ctx, m)
	if err != nil {
		return "", err
	}
	d := digest.NewDigestFromBytes(digest.SHA256, x.Sum[:])
	if !s.keep(ctx, d) || !s.hasDisk(ctx, d) {
		if err := s.join(ctx, x, m.Layers[1:], progress); err != nil {
			return "", err
		}
	}
	return d, s.setLabels(ctx, index.Digest, map[string]string{diskRefLabel: d.String()})
}

// hasDisk reports whether the store has a disk: its books may know a file that a damaged
// disk, or a hand, has lost.
func (s *Store) hasDisk(ctx context.Context, d digest.Digest) bool {
	info, err := s.content.Info(ctx, d)
	if err != nil {
		return false
	}
	file, err := os.Stat(s.blobPath(d.String()))
	return err == nil && file.Size() == info.Size
}

// join makes a disk of its chunks, which blobs has in the order of their first places.
func (s *Store) join(ctx context.Context, x *chunks.Index, blobs []ocispec.Descriptor, progress Progress) error {
	f, err := s.temp("disk-*")
	if err != nil {
		return err
	}
	err = f.Truncate(x.Size)
	if err == nil {
		err = s.fill(ctx, f, x, blobs, progress)
	}
	if err != nil {
		discard(f)
		return err
	}
	desc, err := seal(ctx, f, diskRawType)
	if err != nil {
		return err
	}
	if desc.Digest != digest.NewDigestFromBytes(digest.SHA256, x.Sum[:]) {
		discard(f)
		return api.E("", api.Corrupt, "", errors.New("its chunks make another disk than the image says; the image or the registry is damaged"))
	}
	return s.settle(ctx, f, desc, nil)
}

// fill writes the chunks to their places.
func (s *Store) fill(ctx context.Context, f *os.File, x *chunks.Index, blobs []ocispec.Descriptor, progress Progress) error {
	of := make(map[chunks.Sum]ocispec.Descriptor, len(blobs))
	for i, c := range x.Distinct() {
		of[c.Sum] = blobs[i]
	}
	unpack, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(chunks.MaxSize), zstd.WithDecoderLowmem(true))
	if err != nil {
		return err
	}
	defer unpack.Close()
	done := progress.counter("disk", StageConverting, x.Size)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, c := range x.Chunks {
		g.Go(func() error {
			desc := of[c.Sum]
			packed, err := s.readBlob(ctx, desc, desc.Size)
			if err != nil {
				return err
			}
			data, err := unpack.DecodeAll(packed, make([]byte, 0, c.Length))
			if err != nil || int64(len(data)) != c.Length || sha256.Sum256(data) != c.Sum {
				return api.E("", api.Corrupt, "", fmt.Errorf("chunk %s is not what the image's index says; the image or the registry is damaged", short(desc.Digest)))
			}
			done(c.Length)
			return chunks.Put(f, c.Offset, data)
		})
	}
	return g.Wait()
}

// chunked returns an image in the form in which it travels: of a disk that is kept whole,
// the name means from now on the one in chunks. A name with a digest keeps its meaning.
func (s *Store) chunked(ctx context.Context, rec images.Image, progress Progress) (images.Image, error) {
	if !images.IsManifestType(rec.Target.MediaType) || untagged(rec) {
		return rec, nil
	}
	_, m, err := s.manifest(ctx, rec.Target)
	if err != nil || m.ArtifactType != diskArtifact || inChunks(m) {
		return rec, err
	}
	if _, err := s.diskConfigOf(ctx, m); err != nil {
		return rec, err
	}
	layers, err := s.cut(ctx, m.Layers[0], progress)
	if err != nil {
		return rec, err
	}
	next := *m
	next.Layers = layers
	desc, err := s.writeJSON(ctx, next, ocispec.MediaTypeImageManifest, manifestLabels(next))
	if err != nil {
		return rec, err
	}
	rec.Target = desc
	return rec, s.setName(ctx, rec.Name, desc, nil)
}

// cut stores an index of a disk and its chunks, and returns them in that order.
func (s *Store) cut(ctx context.Context, whole ocispec.Descriptor, progress Progress) ([]ocispec.Descriptor, error) {
	f, err := os.Open(s.blobPath(whole.Digest.String()))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c, err := s.newCutter(ctx, progress.counter("disk", StageConverting, whole.Size))
	if err != nil {
		return nil, err
	}
	x := &chunks.Index{Size: whole.Size}
	if _, err := hex.Decode(x.Sum[:], []byte(whole.Digest.Encoded())); err != nil {
		return nil, err
	}
	if x.Chunks, err = c.cut(ctx, f, whole.Size); err != nil {
		return nil, err
	}
	index, err := s.writeBlob(ctx, bytes.NewReader(x.Encode()), diskIndexType, map[string]string{diskRefLabel: whole.Digest.String()})
	if err != nil {
		return nil, err
	}
	layers := []ocispec.Descriptor{index}
	for _, one := range x.Distinct() {
		layers = append(layers, c.have[one.Sum])
	}
	progress.report("disk", StageDone, whole.Size, whole.Size)
	return layers, nil
}

// cutter compresses the chunks of a disk that the store has not yet.
type cutter struct {
	s    *Store
	pack *zstd.Encoder
	done func(int64)

	mu   sync.Mutex
	have map[chunks.Sum]ocispec.Descriptor
}

// newCutter knows the chunks of all disks that are here in chunks, which stay as long as
// the lease in ctx.
func (s *Store) newCutter(ctx context.Context, done func(int64)) (*cutter, error) {
	c := &cutter{s: s, done: done, have: map[chunks.Sum]ocispec.Descriptor{}}
	recs, err := s.images.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, rec := range recs {
		desc, m, err := s.manifest(ctx, rec.Target)
		if err != nil || m.ArtifactType != diskArtifact || !inChunks(m) || !s.keep(ctx, desc.Digest) {
			continue
		}
		if x, err := s.chunkIndex(ctx, m); err == nil { // else it is no help
			for i, one := range x.Distinct() {
				c.have[one.Sum] = m.Layers[i+1]
			}
		}
	}
	c.pack, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)), zstd.WithEncoderLevel(zstd.SpeedDefault))
	return c, err
}

// cut returns the chunks of a disk, which are stored.
func (c *cutter) cut(ctx context.Context, f *os.File, size int64) (all []chunks.Chunk, err error) {
	g, ctx := errgroup.WithContext(ctx)
	room := semaphore.NewWeighted(chunks.MaxSize) // several small ones: they wait for the disk
	err = chunks.Cut(f, size, func() { all = all[:0] }, func(offset int64, data []byte) error {
		if err := ctx.Err(); err != nil {
			return api.E("", api.Canceled, "", err)
		}
		one := chunks.Chunk{Offset: offset, Length: int64(len(data)), Sum: sha256.Sum256(data)}
		all = append(all, one)
		if c.known(one.Sum) {
			c.done(one.Length)
			return nil
		}
		if err := room.Acquire(ctx, one.Length); err != nil {
			return api.E("", api.Canceled, "", err)
		}
		data = slices.Clone(data)
		g.Go(func() error {
			defer room.Release(one.Length)
			return c.store(ctx, one, data)
		})
		return nil
	})
	if failed := g.Wait(); failed != nil {
		err = failed // and what ended the cut is its consequence
	}
	return all, err
}

func (c *cutter) known(sum chunks.Sum) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.have[sum]
	return ok
}

// store makes a chunk a blob.
func (c *cutter) store(ctx context.Context, one chunks.Chunk, data []byte) error {
	packed := c.pack.EncodeAll(data, make([]byte, 0, len(data)/2))
	desc, err := c.s.writeBlob(ctx, bytes.NewReader(packed), diskChunkType, nil)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.have[one.Sum] = desc
	c.mu.Unlock()
	c.done(one.Length)
	return nil
}
