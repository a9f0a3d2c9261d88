package guest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// What a partition table begins with, and the parts of it that growing touches: the
// master boot record, and UEFI 2.10, 5.3.2 and 5.3.3.
const (
	sectorSize = 512

	mbrTable = 446 // four entries of 16 bytes
	mbrEntry = 16

	gptSignature  = "EFI PART"
	gptLeast      = 92 // bytes of a header
	gptMostTable  = 1 << 20
	gptLeastEntry = 128
	gptEntries    = 128 // that a table has room for at the least

	// alignment of a partition's end, in sectors: filesystems have blocks of 4 KiB.
	partAlign = 8
)

// table is a disk by its sectors.
type table interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// growPartition has a partition, counted from 1, reach to the end of a disk of so many
// sectors, and returns where it begins and how long it is. Nothing may lie behind it;
// one that reaches that far already stays as it is.
func growPartition(disk table, sectors uint64, number int) (start, length uint64, err error) {
	first := make([]byte, 2*sectorSize)
	if _, err := disk.ReadAt(first, 0); err != nil {
		return 0, 0, err
	}
	switch {
	case first[510] != 0x55 || first[511] != 0xaa:
		return 0, 0, errors.New("the disk has no partition table that is known")
	case bytes.HasPrefix(first[sectorSize:], []byte(gptSignature)):
		return growGPT(disk, first[:sectorSize], first[sectorSize:], sectors, number)
	}
	return growMBR(disk, first[:sectorSize], sectors, number)
}

// growMBR grows one of the four partitions of a master boot record.
func growMBR(disk table, record []byte, sectors uint64, number int) (start, length uint64, err error) {
	if number < 1 || number > 4 {
		return 0, 0, fmt.Errorf("partition %d is a logical one, which does not grow", number)
	}
	le := binary.LittleEndian
	entry := func(i int) []byte { return record[mbrTable+i*mbrEntry:] }
	own := entry(number - 1)
	start, length = uint64(le.Uint32(own[8:])), uint64(le.Uint32(own[12:]))
	for i := range 4 {
		if e := entry(i); e[4] != 0 && uint64(le.Uint32(e[8:])) > start {
			return 0, 0, behind(i+1, number)
		}
	}
	most := min(sectors, 1<<32-1) / partAlign * partAlign
	if own[4] == 0 || start == 0 || start+length > sectors {
		return 0, 0, errors.New("the disk's partition table contradicts itself")
	}
	if start+length >= most {
		return start, length, nil
	}
	length = most - start
	le.PutUint32(own[12:], uint32(length))
	if _, err := disk.WriteAt(record, 0); err != nil {
		return 0, 0, err
	}
	return start, length, disk.Sync()
}

func behind(other, number int) error {
	return fmt.Errorf("partition %d lies behind partition %d, which therefore cannot grow", other, number)
}

// growGPT grows a partition of a GPT, and moves the table's copy to the disk's new end.
// The copy is written first: whenever this is cut off, one of the two is whole.
func growGPT(disk table, record, header []byte, sectors uint64, number int) (start, length uint64, err error) {
	le := binary.LittleEndian
	entries, err := readGPT(disk, header)
	if err != nil {
		return 0, 0, err
	}
	size := int(le.Uint32(header[84:]))
	if number < 1 || number > len(entries)/size {
		return 0, 0, fmt.Errorf("the partition table has no partition %d", number)
	}
	own := entries[(number-1)*size:][:size]
	start = le.Uint64(own[32:])
	end := le.Uint64(own[40:]) + 1
	for at := 0; at+size <= len(entries); at += size {
		if e := entries[at:]; !bytes.Equal(e[:16], make([]byte, 16)) && le.Uint64(e[32:]) > start {
			return 0, 0, behind(at/size+1, number)
		}
	}
	tableSectors := uint64(len(entries)+sectorSize-1) / sectorSize
	if start < 2+tableSectors || end <= start || end > sectors || sectors < start+tableSectors+2+partAlign {
		return 0, 0, errors.New("the disk's partition table contradicts itself")
	}
	usable := sectors - 1 - tableSectors // the first sector of the copy
	if most := usable / partAlign * partAlign; most > end {
		end = most
	} else {
		return start, end - start, nil
	}
	le.PutUint64(own[40:], end-1)
	put := func(own, other, table uint64) []byte {
		h := bytes.Clone(header)
		le.PutUint64(h[24:], own)
		le.PutUint64(h[32:], other)
		le.PutUint64(h[48:], usable-1)
		le.PutUint64(h[72:], table)
		le.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
		le.PutUint32(h[16:], 0)
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:le.Uint32(h[12:])]))
		return h
	}
	place := le.Uint64(header[72:])
	for _, write := range []struct {
		data   []byte
		sector uint64
	}{
		{entries, usable}, {put(sectors-1, 1, usable), sectors - 1},
		{entries, place}, {put(1, sectors-1, place), 1},
		{protective(record, sectors), 0},
	} {
		if _, err := disk.WriteAt(write.data, int64(write.sector)*sectorSize); err != nil {
			return 0, 0, err
		}
		if err := disk.Sync(); err != nil {
			return 0, 0, err
		}
	}
	return start, end - start, nil
}

// readGPT checks a header and returns the table that it describes.
func readGPT(disk table, header []byte) ([]byte, error) {
	le := binary.LittleEndian
	broken := errors.New("the disk's partition table is broken")
	length := le.Uint32(header[12:])
	if length < gptLeast || length > sectorSize || le.Uint64(header[24:]) != 1 {
		return nil, broken
	}
	bare := bytes.Clone(header[:length])
	le.PutUint32(bare[16:], 0)
	count, size, place := uint64(le.Uint32(header[80:])), uint64(le.Uint32(header[84:])), le.Uint64(header[72:])
	if crc32.ChecksumIEEE(bare) != le.Uint32(header[16:]) || size < gptLeastEntry || count == 0 || count > gptMostTable/size || place < 2 || place > 1<<40 {
		return nil, broken
	}
	entries := make([]byte, count*size)
	if _, err := disk.ReadAt(entries, int64(place)*sectorSize); err != nil {
		return nil, err
	}
	if crc32.ChecksumIEEE(entries) != le.Uint32(header[88:]) {
		return nil, broken
	}
	return entries, nil
}

// protective is the master boot record of a GPT, whose one partition of type EE covers
// the disk.
func protective(record []byte, sectors uint64) []byte {
	record = bytes.Clone(record)
	if entry := record[mbrTable:]; entry[4] == 0xee {
		binary.LittleEndian.PutUint32(entry[12:], uint32(min(sectors-1, 1<<32-1)))
	}
	return record
}
