package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// Format is how a disk's content lies in a file. It is always stated by whoever
// brings the file, and never guessed: a guest writes what a raw disk holds.
type Format string

// The formats.
const (
	Raw   Format = "raw"
	Qcow2 Format = "qcow2"
	VMDK  Format = "vmdk"
	VHDX  Format = "vhdx"
	VDI   Format = "vdi"
)

// Formats lists them all.
func Formats() []Format { return []Format{Raw, Qcow2, VMDK, VHDX, VDI} }

// maxHeader bounds what CheckHeader reads of a file, in bytes.
const maxHeader = 64 << 10

// CheckHeader refuses a disk file of the format that is none, that leads to other
// files (a backing file, a data file, a parent, extents), or that ends before its
// content does, as far as its header tells. It returns the size of the disk in
// bytes. The reader may be hostile; QEMU, which reads the rest, is confined.
func CheckHeader(r io.ReaderAt, size int64, format Format) (int64, error) {
	if format == Raw {
		if size == 0 {
			return 0, errors.New("the file is empty")
		}
		return size, nil
	}
	check, known := map[Format]func(header) (uint64, error){Qcow2: qcow2Size, VMDK: vmdkSize, VHDX: vhdxSize, VDI: vdiSize}[format]
	if !known {
		return 0, fmt.Errorf("unknown disk format %q", format)
	}
	h := header{file: r, size: size, head: make([]byte, min(size, maxHeader))}
	if _, err := r.ReadAt(h.head, 0); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	h.head = append(h.head, make([]byte, maxHeader-len(h.head))...) // so that every field is there
	virtual, err := check(h)
	if err == nil && (virtual == 0 || virtual > math.MaxInt64) {
		err = fmt.Errorf("a disk of %d bytes is none", virtual)
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w", format, err)
	}
	return int64(virtual), nil
}

// header is the beginning of a file, filled up with zeros to maxHeader.
type header struct {
	file io.ReaderAt
	size int64
	head []byte
}

var (
	errMagic = errors.New("the file does not begin as one; name its real format")
	errOther = errors.New("it needs another file beside itself; flatten it first (qemu-img convert)")
	errShort = errors.New("the file ends before its content does; it is truncated")
)

// qcow2Size: docs/interop/qcow2.txt of QEMU. Numbers are big endian.
func qcow2Size(h header) (uint64, error) {
	be := binary.BigEndian
	version := be.Uint32(h.head[4:])
	if string(h.head[:4]) != qcow2Magic {
		return 0, errMagic
	}
	var features uint64
	if version == qcow2Version {
		features = be.Uint64(h.head[72:])
	}
	const corrupt, dataFile, known = 1 << 1, 1 << 2, 0x1f
	switch {
	case version != 2 && version != qcow2Version:
		return 0, fmt.Errorf("version %d is not 2 or 3", version)
	case be.Uint64(h.head[8:]) != 0 || features&dataFile != 0:
		return 0, errOther
	case be.Uint32(h.head[32:]) != 0:
		return 0, errors.New("it is encrypted; decrypt it first (qemu-img convert)")
	case features&corrupt != 0:
		return 0, errors.New("it is marked as corrupt; repair it first (qemu-img check -r)")
	case features&^known != 0:
		return 0, fmt.Errorf("it has features that are not known: %#x", features&^known)
	}
	return be.Uint64(h.head[24:]), nil
}

// vmdkSize: VMware's "Virtual Disk Format 5.0". Of its kinds only those in one
// file pass: the descriptor of the others is a text that names files, and QEMU
// takes the text inside a sparse file for one where the capacity is zero
// (vmdk_open_vmdk4 in QEMU's block/vmdk.c).
func vmdkSize(h header) (uint64, error) {
	le := binary.LittleEndian
	if bytes.HasPrefix(h.head, []byte("# Disk DescriptorFile")) {
		return 0, errOther
	}
	if string(h.head[:4]) != "KDMV" {
		return 0, errMagic
	}
	sectors := le.Uint64(h.head[12:])
	if sectors == 0 {
		return 0, errOther
	}
	// QEMU looks for a parent in 20 sectors from the second on.
	if bytes.Contains(h.head[Sector:21*Sector], []byte("parentFileNameHint")) {
		return 0, errOther
	}
	if sectors > math.MaxInt64/Sector {
		return 0, fmt.Errorf("%d sectors are too many", sectors)
	}
	return sectors * Sector, nil
}

// vdiSize: the header as VirtualBox's VDICore.h has it. Numbers are little endian.
func vdiSize(h header) (uint64, error) {
	le := binary.LittleEndian
	if le.Uint32(h.head[0x40:]) != 0xbeda107f {
		return 0, errMagic
	}
	none := make([]byte, 32)
	if !bytes.Equal(h.head[0x1a8:0x1c8], none) { // the UUIDs of a link and of a parent
		return 0, errOther
	}
	data, block, used := uint64(le.Uint32(h.head[0x158:])), uint64(le.Uint32(h.head[0x178:])), uint64(le.Uint32(h.head[0x184:]))
	if data+block*used > uint64(h.size) {
		return 0, errShort
	}
	return le.Uint64(h.head[0x170:]), nil
}

// The places of [MS-VHDX] 2.2: the region table, and in the metadata region the
// table of items. GUIDs are as they stand in the file.
const (
	vhdxRegions    = 192 << 10
	vhdxTable      = 64 << 10
	vhdxMetadata   = "\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e"
	vhdxParameters = "\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b"
	vhdxDiskSize   = "\x24\x42\xa5\x2f\x1b\xcd\x76\x48\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8"
)

// vhdxSize finds the size of the disk among the items of the metadata region.
func vhdxSize(h header) (uint64, error) {
	le := binary.LittleEndian
	if !bytes.HasPrefix(h.head, []byte("vhdxfile")) {
		return 0, errMagic
	}
	regions, err := h.read(vhdxRegions, vhdxTable)
	if err != nil {
		return 0, err
	}
	at := uint64(0)
	for entry := range rows(regions[16:], le.Uint32(regions[8:])) {
		if string(entry[:16]) == vhdxMetadata {
			at = le.Uint64(entry[16:])
		}
	}
	items, err := h.read(at, vhdxTable)
	if err != nil {
		return 0, err
	}
	item := func(entry []byte, length int) ([]byte, error) {
		return h.read(at+uint64(le.Uint32(entry[16:])), length)
	}
	var virtual uint64
	for entry := range rows(items[32:], uint32(le.Uint16(items[10:]))) {
		switch string(entry[:16]) {
		case vhdxParameters:
			value, err := item(entry, 8)
			if err != nil {
				return 0, err
			}
			if value[4]&2 != 0 { // HasParent
				return 0, errOther
			}
		case vhdxDiskSize:
			value, err := item(entry, 8)
			if err != nil {
				return 0, err
			}
			virtual = le.Uint64(value)
		}
	}
	return virtual, nil
}

// rows yields the entries of a table of VHDX, 32 bytes each, as many as it has room for.
func rows(table []byte, count uint32) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for range count {
			if len(table) < 32 || !yield(table[:32]) {
				return
			}
			table = table[32:]
		}
	}
}

// read returns bytes of the file from an offset on.
func (h header) read(at uint64, length int) ([]byte, error) {
	if h.size < int64(length) || at > uint64(h.size)-uint64(length) {
		return nil, errShort
	}
	b := make([]byte, length)
	if _, err := h.file.ReadAt(b, int64(at)); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b, nil
}
