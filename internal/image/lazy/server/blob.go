package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// source reads parts of a layer from where it is distributed.
type source interface {
	read(ctx context.Context, offset, length int64) (io.ReadCloser, error)
}

// blockSize is the unit in which a layer is fetched, in bytes: at 100 Mbit/s one takes as
// long as asking for it over 5 ms.
const blockSize = 64 << 10

// state is what there is of a block.
type state byte

const (
	absent state = iota
	wanted       // being fetched, because somebody waits for it
	behind       // being fetched behind
	here         // or was, before a crash: who shows it checks it
)

// blob is a layer as distributed, in a file with holes where it has not arrived. Its
// methods may be called concurrently.
type blob struct {
	*traffic
	file *os.File
	size int64
	from source

	// guarded by traffic.mu
	blocks  []state
	arrived int64     // bytes of blocks that are here
	next    int64     // where the last fetch for somebody who waited ended, and
	window  int64     // how many blocks it was at least
	down    time.Time // until then no fetch is tried for somebody who waits
	problem error     // why down, or why nothing is fetched behind
}

// newBlob returns a blob whose file may have parts of it from before.
func newBlob(t *traffic, file *os.File, size int64, from source) (*blob, error) {
	b := &blob{traffic: t, file: file, size: size, from: from, blocks: make([]state, (size+blockSize-1)/blockSize)}
	if err := file.Truncate(size); err != nil {
		return nil, err
	}
	return b, b.recall()
}

// recall finds the blocks that were fetched before, where the filesystem knows holes.
func (b *blob) recall() error {
	for at := int64(0); at < b.size; {
		start, err := unix.Seek(int(b.file.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look for data: %w", err)
		}
		end, err := unix.Seek(int(b.file.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("look for holes: %w", err)
		}
		for i := (start + blockSize - 1) / blockSize; i < int64(len(b.blocks)) && b.end(i) <= end; i++ {
			b.set(i, here)
		}
		at = end
	}
	return nil
}

// end returns the offset where a block ends.
func (b *blob) end(i int64) int64 { return min((i+1)*blockSize, b.size) }

// set changes what there is of a block. The caller holds mu, or is alone.
func (b *blob) set(i int64, s state) {
	length := b.end(i) - i*blockSize
	if b.blocks[i] == here {
		b.arrived -= length
	}
	if s == here {
		b.arrived += length
	}
	b.blocks[i] = s
}

// forget lets a part be fetched anew, which turned out to be something else.
func (b *blob) forget(offset, end int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := offset / blockSize; i*blockSize < end; i++ {
		if b.blocks[i] == here {
			b.set(i, absent)
		}
	}
}

// progress returns how many bytes are here, and why there will be no more for now.
func (b *blob) progress() (arrived int64, problem error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.arrived, b.problem
}

// fetch makes sure that a part is in the file. Somebody waits for it.
func (b *blob) fetch(ctx context.Context, offset, end int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := offset / blockSize; i*blockSize < end; {
		switch b.blocks[i] {
		case here:
			i++
		case wanted:
			b.changed.Wait()
		case behind:
			b.waiting++
			b.changed.Broadcast()
			b.changed.Wait()
			b.waiting--
		case absent:
			first := i
			upTo := max((end+blockSize-1)/blockSize, first+b.readAhead(first))
			for i++; i < min(upTo, int64(len(b.blocks))) && b.blocks[i] == absent; {
				i++
			}
			b.next = i
			if err := b.want(ctx, first, i); err != nil {
				return err
			}
		}
	}
	return nil
}

// mostAhead bounds how many blocks are fetched for somebody who has waited for those
// before them: who reads one file after the other would wait for the registry's answer at
// each.
const mostAhead = 16

// readAhead returns how many blocks to fetch at least for somebody who wants one. The
// caller holds mu.
func (b *blob) readAhead(first int64) int64 {
	if first == b.next {
		b.window = min(2*b.window, mostAhead)
	} else {
		b.window = 1
	}
	return b.window
}

// tries is how often a part is asked for, and pause how long is waited before the second
// time; then twice as long each.
const (
	tries = 3
	pause = 250 * time.Millisecond
	// rest is how long everybody is told at once that the registry does not answer, after
	// somebody has waited for that: a workload that reads a hundred files gets a hundred
	// errors, and does not hang a hundred times as long.
	rest = 5 * time.Second
)

// want fetches absent blocks, before what is fetched behind. The caller holds mu, which
// is not held meanwhile.
func (b *blob) want(ctx context.Context, first, last int64) error {
	if time.Now().Before(b.down) {
		return b.problem
	}
	for i := first; i < last; i++ {
		b.set(i, wanted)
	}
	b.wanted++
	b.mu.Unlock()
	var err error
	for try := range tries {
		if try > 0 && !sleep(ctx, pause<<(try-1)) {
			break
		}
		if err = b.stream(ctx, first, last, func(int64) bool { return true }, b.write); err == nil {
			break
		}
	}
	b.mu.Lock()
	b.wanted--
	for i := first; i < last; i++ {
		if err == nil {
			b.set(i, here)
		} else {
			b.set(i, absent)
		}
	}
	if b.problem = err; err != nil {
		b.down = time.Now().Add(rest)
	}
	b.changed.Broadcast()
	return err
}

// sleep waits, and reports whether the context still lasts.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// write puts a block into the file.
func (b *blob) write(i int64, p []byte) error {
	_, err := b.file.WriteAt(p, i*blockSize)
	return err
}

// stream fetches blocks one after the other, as long as more says so, and has take take
// each.
func (b *blob) stream(ctx context.Context, first, last int64, more func(i int64) bool, take func(i int64, p []byte) error) error {
	offset := first * blockSize
	r, err := b.from.read(ctx, offset, b.end(last-1)-offset)
	if err != nil {
		return err
	}
	defer r.Close()
	buf := make([]byte, blockSize)
	for i := first; i < last && more(i); i++ {
		p := buf[:b.end(i)-i*blockSize]
		if _, err := io.ReadFull(r, p); err != nil {
			return err
		}
		if err := take(i, p); err != nil {
			return err
		}
	}
	return nil
}
