package disk

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// maxVmlinux bounds an extracted kernel, in bytes: Debian's standard one has
// about 70 MiB, so a larger one is a bomb or no kernel.
const maxVmlinux = 512 << 20

// Offsets in the x86 boot protocol's setup header, from
// Documentation/arch/x86/boot.rst of the kernel. Multi-byte fields are little endian.
const (
	setupSects    = 0x1f1 // number of 512-byte setup sectors after the first
	headerMagic   = 0x202 // "HdrS"
	bootVersion   = 0x206 // payload fields exist since 2.08
	payloadOffset = 0x248 // from the start of the protected-mode code
	payloadLength = 0x24c
	headerEnd     = 0x250
)

// ExtractVmlinux writes the uncompressed kernel inside the x86-64 bzImage src
// to dst: an ELF file that a PVH loader starts without decompressing it in the
// guest. Payloads in gzip, xz, zstd and LZ4 are understood. Bytes after the ELF
// (the relocation table for KASLR) are left out: no PVH loader reads them.
func ExtractVmlinux(dst io.Writer, src io.ReaderAt) error {
	payload, err := bzImagePayload(src)
	if err != nil {
		return err
	}
	kernel, err := decompress(payload)
	if err != nil {
		return fmt.Errorf("bzImage payload: %w", err)
	}
	defer kernel.Close()

	// The section header table ends the ELF part, so its place tells the size.
	head := make([]byte, 64)
	if _, err := io.ReadFull(kernel, head); err != nil {
		return fmt.Errorf("bzImage payload: %w", err)
	}
	size, err := elfSize(head)
	if err != nil {
		return err
	}
	if _, err := dst.Write(head); err != nil {
		return err
	}
	rest := size - int64(len(head))
	if n, err := io.CopyN(dst, kernel, rest); err != nil {
		return fmt.Errorf("vmlinux ends after %d of %d bytes: %w", n+64, size, noEOF(err))
	}
	return nil
}

// bzImagePayload finds the compressed kernel in a bzImage.
func bzImagePayload(src io.ReaderAt) (*io.SectionReader, error) {
	head := make([]byte, headerEnd)
	if _, err := src.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("no bzImage: %w", noEOF(err))
	}
	if string(head[headerMagic:headerMagic+4]) != "HdrS" {
		return nil, errors.New("no bzImage: the boot header's magic is missing")
	}
	if v := binary.LittleEndian.Uint16(head[bootVersion:]); v < 0x208 {
		return nil, fmt.Errorf("bzImage of boot protocol %d.%02d has no payload fields", v>>8, v&0xff)
	}
	sects := int64(head[setupSects])
	if sects == 0 {
		sects = 4 // boot.rst: "for backwards compatibility, if the setup_sects field contains 0, the real value is 4"
	}
	start := (sects+1)*512 + int64(binary.LittleEndian.Uint32(head[payloadOffset:]))
	length := int64(binary.LittleEndian.Uint32(head[payloadLength:]))
	return io.NewSectionReader(src, start, length), nil
}

// decompress recognizes a payload by its first bytes, as scripts/extract-vmlinux
// of the kernel does.
func decompress(payload *io.SectionReader) (io.ReadCloser, error) {
	magic := make([]byte, 6)
	if _, err := payload.ReadAt(magic, 0); err != nil {
		return nil, noEOF(err)
	}
	switch {
	case bytes.HasPrefix(magic, []byte(elf.ELFMAG)):
		return io.NopCloser(payload), nil
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b, 0x08}):
		z, err := gzip.NewReader(payload)
		if err != nil {
			return nil, err
		}
		z.Multistream(false) // the size that follows the stream is no gzip member
		return z, nil
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(payload, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxVmlinux))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case bytes.HasPrefix(magic, []byte{0x02, 0x21, 0x4c, 0x18}):
		return io.NopCloser(newLZ4Legacy(payload)), nil
	case bytes.HasPrefix(magic, []byte(xzMagic)):
		z, err := newXZX86(payload)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(z), nil
	}
	return nil, fmt.Errorf("unknown compression (first bytes % x)", magic)
}

// elfSize reads an ELF header and returns the size of the file it heads.
func elfSize(head []byte) (int64, error) {
	if string(head[:4]) != elf.ELFMAG || elf.Class(head[elf.EI_CLASS]) != elf.ELFCLASS64 ||
		elf.Data(head[elf.EI_DATA]) != elf.ELFDATA2LSB || elf.Machine(binary.LittleEndian.Uint16(head[18:])) != elf.EM_X86_64 {
		return 0, errors.New("the bzImage holds no x86-64 ELF kernel")
	}
	shoff := binary.LittleEndian.Uint64(head[40:])
	shsize := uint64(binary.LittleEndian.Uint16(head[58:])) * uint64(binary.LittleEndian.Uint16(head[60:]))
	if shoff < 64 || shoff > maxVmlinux || shoff+shsize > maxVmlinux {
		return 0, fmt.Errorf("the kernel's section table at %d is outside any sane file", shoff)
	}
	return int64(shoff + shsize), nil
}

// CheckImage refuses what is no uncompressed arm64 Image, whose header has a magic
// number (Documentation/arch/arm64/booting.rst of the kernel): QEMU starts no other.
func CheckImage(kernel io.ReaderAt) error {
	const at, magic = 56, "ARM\x64"
	head := make([]byte, at+len(magic))
	if _, err := kernel.ReadAt(head, 0); err != nil {
		return fmt.Errorf("no arm64 Image: %w", noEOF(err))
	}
	if string(head[at:]) != magic {
		return errors.New("no arm64 Image: its header's magic is missing")
	}
	return nil
}

// HasPVH reports whether the vmlinux has the Xen note that PVH loaders jump
// through (XEN_ELFNOTE_PHYS32_ENTRY, xen/interface/elfnote.h). QEMU starts an
// uncompressed kernel only by it.
func HasPVH(vmlinux io.ReaderAt) bool {
	const phys32Entry = 18
	file, err := elf.NewFile(vmlinux)
	if err != nil {
		return false
	}
	defer file.Close()
	for _, prog := range file.Progs {
		if prog.Type != elf.PT_NOTE {
			continue
		}
		notes, err := io.ReadAll(io.LimitReader(prog.Open(), 1<<20))
		if err == nil && findNote(notes, "Xen\x00", phys32Entry) {
			return true
		}
	}
	return false
}

// findNote walks ELF notes: three words (name size, description size, type),
// then name and description, each padded to four bytes.
func findNote(notes []byte, name string, kind uint32) bool {
	pad := func(n uint32) uint64 { return (uint64(n) + 3) &^ 3 }
	for len(notes) >= 12 {
		nameSize := binary.LittleEndian.Uint32(notes)
		descSize := binary.LittleEndian.Uint32(notes[4:])
		whole := 12 + pad(nameSize) + pad(descSize)
		if whole > uint64(len(notes)) {
			return false
		}
		if binary.LittleEndian.Uint32(notes[8:]) == kind && string(notes[12:12+nameSize]) == name {
			return true
		}
		notes = notes[whole:]
	}
	return false
}

// noEOF makes an end that comes too early an error that says so.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
