package server

import (
	"context"
	"io"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// ahead is how many blocks are being fetched behind at a time, as others see it: who
// wants one of them waits for it, and who wants another one fetches that himself.
const ahead = 16

// patience is how long at most is waited before what is to be fetched behind is asked for
// again.
const patience = 30 * time.Second

// fetchBehind fetches all that is absent before the offset end, in order, until it is here
// or the context ends. It asks for as long as it takes: instances use the layer.
func (b *blob) fetchBehind(ctx context.Context, end int64) {
	wait := pause
	for ctx.Err() == nil {
		first, last := b.gap(end)
		if first == last {
			return
		}
		b.yield()
		err := b.claimed(ctx, first, last)
		b.mu.Lock()
		b.problem = err
		b.mu.Unlock()
		if err == nil {
			wait = pause
			continue
		}
		sleep(ctx, wait)
		wait = min(2*wait, patience)
	}
}

// gap returns the first blocks that are absent before an offset, none when all are here.
func (b *blob) gap(end int64) (first, last int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min((end+blockSize-1)/blockSize, int64(len(b.blocks)))
	for {
		first = 0
		for first < n && b.blocks[first] != absent {
			first++
		}
		if first < n || !slices.Contains(b.blocks[:n], wanted) {
			break
		}
		b.changed.Wait() // it may fail
	}
	for last = first; last < n && b.blocks[last] == absent; {
		last++
	}
	return first, last
}

// claimed fetches blocks behind, and passes over those that somebody else fetches
// meanwhile. Where those are many it ends early, without an error.
func (b *blob) claimed(ctx context.Context, first, last int64) error {
	claimed := first
	more := func(i int64) bool {
		b.yield()
		if i < claimed {
			return true
		}
		claimed = min(i+ahead, last)
		return b.claim(i, claimed)
	}
	take := func(i int64, p []byte) error {
		b.mu.Lock()
		mine := b.blocks[i] == behind // the only one who claims
		b.mu.Unlock()
		if !mine {
			return nil
		}
		if err := b.write(i, p); err != nil {
			return err
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.set(i, here)
		b.changed.Broadcast()
		return nil
	}
	err := b.stream(ctx, first, last, more, take)
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := first; i < claimed; i++ {
		if b.blocks[i] == behind {
			b.set(i, absent)
		}
	}
	b.changed.Broadcast()
	return err
}

// claim marks those of some blocks that are absent, and reports whether there are any.
func (b *blob) claim(first, last int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	found := false
	for i := first; i < last; i++ {
		if b.blocks[i] == absent {
			b.set(i, behind)
			found = true
		}
	}
	return found
}

// sound reports whether the file has the layer's digest, when all of it is here.
func (b *blob) sound(want digest.Digest) (bool, error) {
	hash := want.Algorithm().Digester()
	if _, err := io.Copy(hash.Hash(), io.NewSectionReader(b.file, 0, b.size)); err != nil {
		return false, err
	}
	return hash.Digest() == want, nil
}
