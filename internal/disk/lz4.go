package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// lz4Block is the uncompressed size of every block but the last in the legacy
// LZ4 frame (`lz4 -l`), the one the kernel build uses.
const lz4Block = 8 << 20

var errLZ4 = errors.New("corrupt LZ4 block")

// lz4Legacy reads the legacy LZ4 frame: a magic number, then blocks, each
// preceded by its compressed size in four little-endian bytes. The kernel build
// appends the uncompressed size, which stops the reader as a too short block would.
// Format: doc/lz4_Frame_format.md and doc/lz4_Block_format.md of the lz4 project.
type lz4Legacy struct {
	src   io.Reader
	begun bool
	in    []byte
	out   []byte // decoded block, reused
	left  []byte // part of out not read yet
}

func newLZ4Legacy(src io.Reader) *lz4Legacy { return &lz4Legacy{src: src} }

func (z *lz4Legacy) Read(p []byte) (int, error) {
	for len(z.left) == 0 {
		if err := z.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, z.left)
	z.left = z.left[n:]
	return n, nil
}

// next decodes one block.
func (z *lz4Legacy) next() error {
	var word [4]byte
	if !z.begun {
		if _, err := io.ReadFull(z.src, word[:]); err != nil {
			return noEOF(err)
		}
		z.begun = true
	}
	if _, err := io.ReadFull(z.src, word[:]); err != nil {
		return err
	}
	size := binary.LittleEndian.Uint32(word[:])
	// The worst case of LZ4 is one more byte in 255, and sixteen.
	if size == 0 || size > lz4Block+lz4Block/255+16 {
		return fmt.Errorf("%w: %d bytes", errLZ4, size)
	}
	if uint32(cap(z.in)) < size {
		z.in = make([]byte, size)
	}
	z.in = z.in[:size]
	if _, err := io.ReadFull(z.src, z.in); err != nil {
		return noEOF(err)
	}
	if z.out == nil {
		z.out = make([]byte, 0, lz4Block)
	}
	out, err := appendLZ4(z.out[:0], z.in)
	z.left = out
	return err
}

// appendLZ4 decodes one block behind dst, never beyond dst's capacity. A block is a row of sequences:
//
//	token | literal length… | literals | offset (2) | match length…
//
// The token's high four bits are the literal length, its low four bits the match
// length less 4; 15 means that bytes follow to be added, the last one below 255.
// The last sequence ends after its literals.
func appendLZ4(dst, src []byte) ([]byte, error) {
	for len(src) > 0 {
		token := src[0]
		literals, rest, err := lz4Length(int(token>>4), src[1:])
		if err != nil || literals > len(rest) || literals > cap(dst)-len(dst) {
			return nil, errLZ4
		}
		dst = append(dst, rest[:literals]...)
		src = rest[literals:]
		if len(src) == 0 {
			return dst, nil
		}
		if len(src) < 2 {
			return nil, errLZ4
		}
		offset := int(binary.LittleEndian.Uint16(src))
		match, rest, err := lz4Length(int(token&15), src[2:])
		match += 4
		if err != nil || offset == 0 || offset > len(dst) || match > cap(dst)-len(dst) {
			return nil, errLZ4
		}
		src = rest
		// A match may overlap what it makes: copy in pieces of what exists.
		for match > 0 {
			n := min(match, offset)
			start := len(dst) - offset
			dst = append(dst, dst[start:start+n]...)
			match -= n
		}
	}
	return dst, nil
}

// lz4Length reads the bytes that lengthen a length of 15.
func lz4Length(n int, src []byte) (int, []byte, error) {
	if n < 15 {
		return n, src, nil
	}
	for i, b := range src {
		n += int(b)
		if b < 255 {
			return n, src[i+1:], nil
		}
	}
	return 0, nil, errLZ4
}
