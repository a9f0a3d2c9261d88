// Package chunks cuts a disk into chunks by its content and puts it together again, so
// that two disks that differ a little have most of their chunks in common.
//
// Zeros that fill blocks of a disk are left out where there are many of them. What is
// between such holes is cut where a rolling sum over its bytes says so (FastCDC): a byte
// that is changed moves the ends of its own chunk and no others, and what was inserted or
// has moved is found again.
//
// The sum is go-cdc-chunkers's, whose algorithms have versions: another one would have
// every disk sent anew once. restic/chunker cuts as well, at 0.6 GB a second in the place
// of 2.1.
package chunks

import (
	"bytes"
	"errors"
	"io"
	"os"

	cdc "github.com/PlakarKorp/go-cdc-chunkers"
	"github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc"
	"golang.org/x/sys/unix"
)

const algorithm = "fastcdc-v1.0.0"

var _ cdc.ChunkerImplementation = (*fastcdc.FastCDC)(nil) // that is known by this name

// Bounds of what a disk is cut into.
const (
	MaxSize  = 64 << 20 // bytes of a chunk
	MaxCount = 20_000   // chunks of a disk: their manifest stays below 4 MiB, which every registry takes
)

// block is the least part of a disk that is left out, in bytes, and its alignment.
const block = 64 << 10

// sizes are the averages that chunks have, by what a disk holds: a few thousand are what a
// registry is asked for one by one. A chunk has a quarter of it at least, except before
// a hole, and twice as much at most.
var sizes = [...]struct{ upTo, average int64 }{{4 << 30, 2 << 20}, {32 << 30, 8 << 20}, {1 << 62, MaxSize / 2}}

// errTooMany ends an attempt to cut with chunks of one size.
var errTooMany = errors.New("the disk is in more pieces than an image can have; let its guest trim it, or export and import it again")

// Cut calls visit with the chunks of a disk of a size in bytes, in their order, where
// begins one that holds other bytes than zeros. What visit is given is the caller's until
// it returns. Where a disk of small chunks turns out to have too many, begin is called
// again, and all begins anew with larger ones.
func Cut(f *os.File, size int64, begin func(), visit func(offset int64, data []byte) error) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	var err error
	for _, s := range sizes {
		if st.Blocks*512 > s.upTo {
			continue
		}
		begin()
		if err = cut(f, size, s.average, visit); !errors.Is(err, errTooMany) {
			return err
		}
	}
	return err
}

func cut(f *os.File, size, average int64, visit func(offset int64, data []byte) error) error {
	r := &runs{f: f, size: size, gap: average}
	chunker, err := cdc.NewChunker(algorithm, r, &cdc.ChunkerOpts{MinSize: int(average / 4), NormalSize: int(average), MaxSize: int(average * 2)})
	if err != nil {
		return err
	}
	for count := 0; ; {
		offset, err := r.begin()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		chunker.Reset(r)
		for ended := false; !ended; {
			data, err := chunker.Next()
			if ended = errors.Is(err, io.EOF); err != nil && !ended {
				return err
			}
			if len(data) == 0 {
				continue
			}
			if count++; count > MaxCount {
				return errTooMany
			}
			if err := visit(offset, data); err != nil {
				return err
			}
			offset += int64(len(data))
		}
	}
}

// runs reads the parts of a disk that lie between holes, one after the other.
type runs struct {
	f    *os.File
	size int64
	gap  int64 // so many zeros are a hole

	next  int64 // block that was not looked at yet
	end   int64 // of what the file has in one piece around next
	block []byte
	found int64  // offset of the block, which is not all zeros, or -1
	rest  []byte // of the block, not read yet
	zeros int64  // to be read before it
	at    int64
}

// begin goes to the next part and returns its offset, or io.EOF.
func (r *runs) begin() (int64, error) {
	if r.block == nil {
		r.block = make([]byte, block)
		if err := r.seek(); err != nil {
			return 0, err
		}
	}
	if r.found < 0 {
		return 0, io.EOF
	}
	r.at, r.rest = r.found, r.block[:min(block, r.size-r.found)]
	return r.at, nil
}

// Read implements io.Reader for one part.
func (r *runs) Read(p []byte) (int, error) {
	switch {
	case r.zeros > 0:
		n := int(min(r.zeros, int64(len(p))))
		clear(p[:n])
		r.zeros -= int64(n)
		r.at += int64(n)
		return n, nil
	case len(r.rest) > 0:
		n := copy(p, r.rest)
		r.rest = r.rest[n:]
		r.at += int64(n)
		return n, nil
	}
	if r.found >= 0 && r.found < r.at {
		if err := r.seek(); err != nil {
			return 0, err
		}
	}
	if r.found < 0 || r.found-r.at >= r.gap {
		return 0, io.EOF
	}
	r.zeros, r.rest = r.found-r.at, r.block[:min(block, r.size-r.found)]
	return r.Read(p)
}

// seek finds the next block that is not all zeros.
func (r *runs) seek() error {
	for ; r.next < r.size; r.next += block {
		if r.next >= r.end {
			at, err := unix.Seek(int(r.f.Fd()), r.next, unix.SEEK_DATA)
			if errors.Is(err, unix.ENXIO) {
				break // the rest is a hole
			}
			if err == nil {
				r.end, err = unix.Seek(int(r.f.Fd()), at, unix.SEEK_HOLE)
			}
			if err != nil {
				return os.NewSyscallError("lseek", err)
			}
			r.next = max(r.next, at/block*block)
		}
		n, err := r.f.ReadAt(r.block[:min(block, r.size-r.next)], r.next)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		clear(r.block[n:])
		if !zero(r.block) {
			r.found = r.next
			r.next += block
			return nil
		}
	}
	r.found = -1
	return nil
}

var zeros [block]byte

func zero(b []byte) bool { return bytes.Equal(b, zeros[:len(b)]) }

// Put writes a chunk to its place in a file that is all hole there, and leaves out the
// blocks that hold zeros alone.
func Put(f io.WriterAt, offset int64, data []byte) error {
	for len(data) > 0 {
		piece := data[:min(int64(len(data)), block-offset%block)]
		if !zero(piece) {
			if _, err := f.WriteAt(piece, offset); err != nil {
				return err
			}
		}
		offset += int64(len(piece))
		data = data[len(piece):]
	}
	return nil
}
