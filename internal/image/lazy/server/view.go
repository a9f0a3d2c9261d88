package server

import (
	"bufio"
	"container/list"
	"context"
	"errors"
	"io"
	"os"
	"sort"
	"sync"

	"github.com/klauspost/compress/gzip"
)

// keep bounds the chunks that stay expanded, in bytes: the kernel reads on in what it has
// read, in pieces of 128 KiB.
const keep = 32 << 20

// view is the EROFS image of a layer, as far as somebody reads it. Its methods may be
// called concurrently.
type view struct {
	*contents
	blob    *blob
	outline *os.File
	cache   *cache
}

// readAt reads what the image has from an offset on, as much as p takes or the image has.
func (v *view) readAt(ctx context.Context, p []byte, off int64) (int, error) {
	p = p[:max(0, min(int64(len(p)), v.image-off))]
	for n := 0; n < len(p); {
		at := off + int64(n)
		i := sort.Search(len(v.chunks), func(i int) bool { return v.chunks[i].at+v.chunks[i].size > at })
		if i == len(v.chunks) || v.chunks[i].at > at {
			end := v.image
			if i < len(v.chunks) {
				end = v.chunks[i].at
			}
			k, err := v.outline.ReadAt(p[n:min(int64(len(p)), int64(n)+end-at)], at)
			if n += k; err != nil {
				return n, err
			}
			continue
		}
		c := &v.chunks[i]
		b, err := v.cache.get(c, func() ([]byte, error) { return v.expand(ctx, c) })
		if err != nil {
			return n, err
		}
		n += copy(p[n:], b[at-c.at:])
	}
	return len(p), nil
}

// expand fetches a chunk, where it is not here, and checks it.
func (v *view) expand(ctx context.Context, c *chunk) ([]byte, error) {
	b, err := v.expandOnce(ctx, c)
	if errors.Is(err, errDamaged) {
		// A crash has left less than there seems to be.
		v.blob.forget(c.offset, c.next)
		b, err = v.expandOnce(ctx, c)
	}
	if errors.Is(err, errDamaged) {
		v.blob.forget(c.offset, c.next)
	}
	return b, err
}

// errDamaged is that of a chunk with another content than the table of contents says.
var errDamaged = errors.New("what the registry sent is not what the table of contents says")

func (v *view) expandOnce(ctx context.Context, c *chunk) ([]byte, error) {
	if err := v.blob.fetch(ctx, c.offset, c.next); err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(io.NewSectionReader(v.blob.file, c.offset, c.next-c.offset), blockSize)
	zr, err := gzip.NewReader(in)
	if err != nil {
		return nil, errDamaged
	}
	defer zr.Close()
	if _, err := io.CopyN(io.Discard, zr, c.inner); err != nil {
		return nil, errDamaged
	}
	b := make([]byte, c.size)
	if _, err := io.ReadFull(zr, b); err != nil || c.digest.Algorithm().FromBytes(b) != c.digest {
		return nil, errDamaged
	}
	return b, nil
}

// cache keeps expanded chunks, and has each expanded once however many ask for it.
type cache struct {
	mu      sync.Mutex
	entries map[*chunk]*cached
	order   *list.List // of those that are expanded, the last used first
	size    int64
}

// cached is a chunk that is expanded, or just being so.
type cached struct {
	chunk *chunk
	done  chan struct{}
	bytes []byte
	err   error
	place *list.Element // in order; nil before it is done
}

func newCache() *cache { return &cache{entries: map[*chunk]*cached{}, order: list.New()} }

// get returns a chunk, which is not to be changed.
func (k *cache) get(c *chunk, expand func() ([]byte, error)) ([]byte, error) {
	k.mu.Lock()
	e := k.entries[c]
	if e != nil {
		if e.place != nil {
			k.order.MoveToFront(e.place)
		}
		k.mu.Unlock()
		<-e.done
		return e.bytes, e.err
	}
	e = &cached{chunk: c, done: make(chan struct{})}
	k.entries[c] = e
	k.mu.Unlock()
	e.bytes, e.err = expand()
	k.mu.Lock()
	defer k.mu.Unlock()
	close(e.done)
	if e.err != nil {
		delete(k.entries, c)
		return nil, e.err
	}
	e.place = k.order.PushFront(e)
	for k.size += c.size; k.size > keep && k.order.Len() > 1; {
		last := k.order.Remove(k.order.Back()).(*cached)
		delete(k.entries, last.chunk)
		k.size -= last.chunk.size
	}
	return e.bytes, nil
}
