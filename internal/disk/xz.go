package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"

	"github.com/ulikunitz/xz/lzma"
)

// The parts of the .xz file format (version 1.2.0) that a kernel build uses:
// one block, the x86 filter, LZMA2, CRC-32.
const (
	xzMagic       = "\xfd7zXZ\x00"
	xzHeaderSize  = 12
	xzCheckCRC32  = 1
	xzFilterX86   = 0x04
	xzFilterLZMA2 = 0x21
	xzMaxDict     = 28 // 64 MiB, allocated at once
)

// newXZX86 reads an .xz stream whose data went through the x86 filter, as
// scripts/xz_wrap.sh of the kernel packs it. Package xz of ulikunitz knows no
// filter but LZMA2. The check at the end vouches for the result. What follows
// the first block is ignored.
func newXZX86(src *io.SectionReader) (io.Reader, error) {
	if src.Size() > maxVmlinux {
		return nil, fmt.Errorf("an xz stream of %d bytes", src.Size())
	}
	packed, err := io.ReadAll(src)
	if err != nil {
		return nil, err
	}
	if len(packed) < xzHeaderSize+1 || packed[7] != xzCheckCRC32 {
		return nil, errors.New("an xz stream without the check that kernels are packed with")
	}
	block := packed[xzHeaderSize:]
	headerSize := (int(block[0]) + 1) * 4 // 3.1.1
	if headerSize > len(block) {
		return nil, io.ErrUnexpectedEOF
	}
	dict, err := xzFilters(block[1 : headerSize-4])
	if err != nil {
		return nil, err
	}
	in := bytes.NewReader(block[headerSize:])
	z, err := lzma.Reader2Config{DictCap: dict}.NewReader2(in)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(z, maxVmlinux+1))
	if err != nil {
		return nil, noEOF(err)
	}
	if len(data) > maxVmlinux {
		return nil, fmt.Errorf("more than %d bytes", maxVmlinux)
	}
	unfilterX86(data)
	rest := block[headerSize:]
	at := (len(rest) - in.Len() + 3) &^ 3 // padded to four bytes: 3.3
	if at+4 > len(rest) {
		return nil, io.ErrUnexpectedEOF
	}
	if binary.LittleEndian.Uint32(rest[at:]) != crc32.ChecksumIEEE(data) {
		return nil, errors.New("an xz stream whose check does not fit its data")
	}
	return bytes.NewReader(data), nil
}

// xzFilters reads a block's header from its flags on and returns the size of
// LZMA2's dictionary.
func xzFilters(header []byte) (dict int, err error) {
	// Flags: two filters, no sizes. Then each filter's number, the size of its
	// properties, and these.
	if len(header) < 6 || header[0] != 1 || header[1] != xzFilterX86 || header[2] != 0 ||
		header[3] != xzFilterLZMA2 || header[4] != 1 || header[5] > xzMaxDict {
		return 0, errors.New("an xz stream with other filters than x86 and LZMA2, or a larger dictionary than xz -9 makes")
	}
	size := uint(header[5])
	dict = int(2|size&1) << (size/2 + 11) // 5.3.1
	return dict, nil
}

// unfilterX86 takes back what the x86 filter (BCJ) has done to make machine
// code compress better: it replaced the distance of each CALL (e8) and JMP
// (e9) by the target's address. An operand counts as one only where its highest
// byte is 00 or ff, and not where an opcode stands in the last bytes before it
// in a way that makes this one look like a part of that one's operand.
func unfilterX86(code []byte) {
	const operand = 4
	sign := func(b byte) bool { return b == 0 || b == 0xff }
	// recent has a bit for each of the three bytes before the present one, the
	// lowest for the nearest: set where it looked like an opcode and was not
	// converted.
	last, recent := -1, uint32(0)
	for i := 0; i+operand < len(code); i++ {
		if code[i]&0xfe != 0xe8 {
			continue
		}
		if distance := i - last; distance > 3 {
			recent = 0
		} else {
			recent = recent << (distance - 1) & 7
		}
		last = i
		// How far before the operand's last byte the nearest earlier one's is.
		nearest := bits.Len32(recent)
		if recent&(recent-1) != 0 || recent != 0 && sign(code[i+operand-nearest]) {
			recent = recent<<1 | 1
			continue
		}
		if !sign(code[i+operand]) {
			recent = recent<<1 | 1
			continue
		}
		at := code[i+1:]
		target := binary.LittleEndian.Uint32(at)
		from := uint32(i + 1 + operand)
		distance := target - from
		for recent != 0 {
			shift := nearest * 8
			if !sign(byte(distance >> (24 - shift))) {
				break
			}
			distance = (distance ^ (1<<(32-shift) - 1)) - from
		}
		distance &= 0x01ffffff
		distance |= 0 - distance&0x01000000
		binary.LittleEndian.PutUint32(at, distance)
		i += operand
	}
}
