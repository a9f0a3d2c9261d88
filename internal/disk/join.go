package disk

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"
	"unicode/utf16"
)

// Sector is the unit of a disk's addresses, in bytes.
const Sector = 512

// MaxParts is how many partitions a joined disk can have: the size of the
// smallest partition table that every reader must accept (UEFI 2.10, 5.3.1).
const MaxParts = 128

const (
	gptEntry    = 128 // bytes of one partition entry
	gptEntries  = MaxParts * gptEntry / Sector
	partAlign   = 8 // sectors; EROFS and ext4 have blocks of 4 KiB
	headSectors = 40
	tailSectors = gptEntries + 1

	// linuxData is the type GUID 0FC63DAF-8483-4772-8E79-3D69D8477DE4, "Linux
	// filesystem data", as GPT stores it: its first three fields little endian.
	linuxData = "\xaf\x3d\xc6\x0f\x83\x84\x72\x47\x8e\x79\x3d\x69\xd8\x47\x7d\xe4"
)

// Part is one partition of a joined disk: a whole file that stays where it is.
type Part struct {
	Name string // label in the partition table, at most 36 UTF-16 units
	Path string // as the hypervisor is to open it
	Size int64  // of the file, in bytes
}

// Joined is a disk made of files: a GPT whose partitions are the parts, in order.
//
//	head (MBR, GPT) | part 1 | zeros | part 2 | zeros | … | hole | tail (backup GPT)
//
// Only head, tail and descriptor have to be written; the parts' data is not copied.
type Joined struct {
	Head       []byte
	Tail       []byte
	Hole       int64  // bytes that the tail's file has before Tail
	Descriptor string // VMDK descriptor that strings the extents together
}

// Join lays the parts out on one disk of a size in bytes, a multiple of Sector. headPath
// and tailPath are what the descriptor calls the two generated files. It is a pure
// function: the same parts give the same bytes.
func Join(parts []Part, size int64, headPath, tailPath string) (*Joined, error) {
	if len(parts) == 0 || len(parts) > MaxParts {
		return nil, fmt.Errorf("a joined disk has 1 to %d partitions, not %d", MaxParts, len(parts))
	}
	table := make([]byte, MaxParts*gptEntry)
	var extents strings.Builder
	if err := flatExtent(&extents, headSectors, headPath, 0); err != nil {
		return nil, err
	}
	at := int64(headSectors)
	for i, part := range parts {
		if part.Size <= 0 {
			return nil, fmt.Errorf("partition %s: %s is empty", part.Name, part.Path)
		}
		used := (part.Size + Sector - 1) / Sector
		whole := (used + partAlign - 1) / partAlign * partAlign
		if err := flatExtent(&extents, used, part.Path, 0); err != nil {
			return nil, err
		}
		if whole > used {
			// QEMU skips extents of the type ZERO without a word.
			if err := flatExtent(&extents, whole-used, headPath, headSectors); err != nil {
				return nil, err
			}
		}
		if err := putEntry(table[i*gptEntry:], i, linuxData, part.Name, at, at+whole-1); err != nil {
			return nil, err
		}
		at += whole
	}
	sectors := size / Sector
	if at+tailSectors > sectors {
		return nil, fmt.Errorf("the partitions take %d bytes, and the disk has %d", (at+tailSectors)*Sector, size)
	}
	if err := flatExtent(&extents, sectors-at, tailPath, 0); err != nil {
		return nil, err
	}
	j := &Joined{Hole: (sectors - at - tailSectors) * Sector, Descriptor: vmdkHead + extents.String() + vmdkTail}
	j.Head, j.Tail = gptEnds(table, sectors)
	return j, nil
}

// The descriptor's format: VMware's "Virtual Disk Format 5.0", and the subset
// of it that QEMU's block/vmdk.c reads: extents must say RW even on a disk
// that is attached read-only, and no empty line may stand before them, or its
// sscanf counts the extent after it twice.
const (
	vmdkHead = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"twoGbMaxExtentFlat\"\n"
	vmdkTail = "\nddb.adapterType = \"ide\"\n"
)

// flatExtent appends an extent line: sectors of the file at path from the
// offset, in sectors. A quote or line break in a path would
// end its field and let the path write lines of its own.
func flatExtent(b *strings.Builder, sectors int64, path string, offset int) error {
	if path == "" || len(path) > 500 || strings.ContainsAny(path, "\"\n\r\x00") {
		return fmt.Errorf("path %q cannot stand in a VMDK descriptor", path)
	}
	fmt.Fprintf(b, "RW %d FLAT \"%s\" %d\n", sectors, path, offset)
	return nil
}

// putEntry writes the i-th partition entry (UEFI 2.10, table 5.6). Kind is a type
// GUID as GPT stores it.
func putEntry(e []byte, i int, kind, name string, first, last int64) error {
	label := utf16.Encode([]rune(name))
	if len(label) > 36 {
		return fmt.Errorf("partition label %q is longer than 36 characters", name)
	}
	copy(e, kind)
	id := sha256.Sum256(fmt.Appendf(nil, "%d %s %d %d", i, name, first, last))
	copy(e[16:32], id[:])
	binary.LittleEndian.PutUint64(e[32:], uint64(first))
	binary.LittleEndian.PutUint64(e[40:], uint64(last))
	for k, unit := range label {
		binary.LittleEndian.PutUint16(e[56+2*k:], unit)
	}
	return nil
}

// gptEnds builds the first and the last sectors of a disk around its table.
func gptEnds(table []byte, sectors int64) (head, tail []byte) {
	head = make([]byte, (headSectors+partAlign)*Sector)
	tail = make([]byte, tailSectors*Sector)
	lastLBA := uint64(sectors - 1)

	// Protective MBR: one partition of type EE over the whole disk.
	mbr := head[446:]
	copy(mbr, []byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff})
	binary.LittleEndian.PutUint32(mbr[8:], 1)
	binary.LittleEndian.PutUint32(mbr[12:], uint32(min(lastLBA, 0xffffffff)))
	head[510], head[511] = 0x55, 0xaa

	disk := sha256.Sum256(table)
	putHeader := func(h []byte, own, other, entries uint64) {
		copy(h, "EFI PART\x00\x00\x01\x00")
		binary.LittleEndian.PutUint32(h[12:], 92)
		binary.LittleEndian.PutUint64(h[24:], own)
		binary.LittleEndian.PutUint64(h[32:], other)
		binary.LittleEndian.PutUint64(h[40:], headSectors)
		binary.LittleEndian.PutUint64(h[48:], uint64(sectors-tailSectors-1))
		copy(h[56:72], disk[:])
		binary.LittleEndian.PutUint64(h[72:], entries)
		binary.LittleEndian.PutUint32(h[80:], MaxParts)
		binary.LittleEndian.PutUint32(h[84:], gptEntry)
		binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(table))
		binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
	}
	putHeader(head[Sector:2*Sector], 1, lastLBA, 2)
	copy(head[2*Sector:], table)
	copy(tail, table)
	putHeader(tail[gptEntries*Sector:], lastLBA, 1, uint64(sectors-tailSectors))
	return head, tail
}
