package chunks

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Sum is a SHA-256.
type Sum = [sha256.Size]byte

// Chunk is one piece of a disk.
type Chunk struct {
	Offset, Length int64 // bytes
	Sum            Sum   // of its bytes, uncompressed
}

// Index says what a disk is made of. Bytes that no chunk has are zeros.
type Index struct {
	Size   int64 // bytes
	Sum    Sum   // of the whole disk
	Chunks []Chunk
}

// The form of an index, its numbers with the highest byte first: magic, size of 8
// bytes and sum of the disk, and of each chunk the offset of 8 bytes, the length of 4,
// and the sum.
const (
	magic  = "berthcdc"
	header = len(magic) + 8 + sha256.Size
	entry  = 8 + 4 + sha256.Size
)

// MaxIndex is how many bytes an index may have.
const MaxIndex = int64(header + MaxCount*entry)

// Encode returns an index as it is stored.
func (x *Index) Encode() []byte {
	b := make([]byte, 0, header+len(x.Chunks)*entry)
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint64(b, uint64(x.Size))
	b = append(b, x.Sum[:]...)
	for _, c := range x.Chunks {
		b = binary.BigEndian.AppendUint64(b, uint64(c.Offset))
		b = binary.BigEndian.AppendUint32(b, uint32(c.Length))
		b = append(b, c.Sum[:]...)
	}
	return b
}

// Parse reads an index that a stranger may have written: of chunks that lie in their
// order on the disk and share no byte.
func Parse(b []byte) (*Index, error) {
	if len(b) < header || string(b[:len(magic)]) != magic {
		return nil, errors.New("no index of chunks")
	}
	count := (len(b) - header) / entry
	if (len(b)-header)%entry != 0 || count > MaxCount {
		return nil, fmt.Errorf("an index of %d bytes", len(b))
	}
	x := &Index{Size: int64(binary.BigEndian.Uint64(b[len(magic):])), Chunks: make([]Chunk, count)}
	copy(x.Sum[:], b[len(magic)+8:])
	if x.Size < 0 {
		return nil, fmt.Errorf("a disk of %d bytes", x.Size)
	}
	end := int64(0)
	for i := range x.Chunks {
		e, c := b[header+i*entry:], &x.Chunks[i]
		c.Offset, c.Length = int64(binary.BigEndian.Uint64(e)), int64(binary.BigEndian.Uint32(e[8:]))
		copy(c.Sum[:], e[12:])
		if c.Length == 0 || c.Length > MaxSize || c.Offset < end || c.Offset > x.Size-c.Length {
			return nil, fmt.Errorf("chunk %d has %d bytes at %d, on a disk of %d bytes whose last chunk ends at %d", i, c.Length, c.Offset, x.Size, end)
		}
		end = c.Offset + c.Length
	}
	return x, nil
}

// Distinct returns one chunk of each content, in the order of their first places.
func (x *Index) Distinct() []Chunk {
	seen := make(map[Sum]bool, len(x.Chunks))
	return slices.DeleteFunc(slices.Clone(x.Chunks), func(c Chunk) bool {
		again := seen[c.Sum]
		seen[c.Sum] = true
		return again
	})
}
