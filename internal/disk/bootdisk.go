package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
)

// Type GUIDs of partitions as GPT stores them.
const (
	biosBoot   = "Hah!IdontNeedEFI"                                                 // 21686148-6449-6E6F-744E-656564454649: GRUB's second stage
	efiSystem  = "\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b" // C12A7328-F81F-11D2-BA4B-00A0C93EC93B
	linuxAMD64 = "\xe3\xbc\x68\x4f\xcd\xe8\xb1\x4d\x96\xe7\xfb\xca\xf9\x84\xb7\x09" // 4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709: the root of x86-64
)

// The layout of a BootDisk, in sectors. Partitions begin at whole MiB.
const (
	coreFirst = 2048
	espFirst  = 2 * 2048

	// ESPSize is the size of the EFI system partition, in bytes.
	ESPSize = 8 << 20
	// RootOffset is where the root partition begins, in bytes.
	RootOffset = espFirst*Sector + ESPSize
)

// RootSize is the size of the root partition on a BootDisk of size bytes.
func RootSize(size int64) int64 { return (size-RootOffset)/(1<<20)*(1<<20) - 1<<20 }

// BootDisk is a disk of amd64 that BIOS and UEFI start from:
//
//	MBR with GRUB's boot.img, GPT | core.img | EFI system partition | root | GPT
type BootDisk struct {
	Size int64  // bytes; whole MiB
	Boot []byte // GRUB's boot.img, of i386-pc
	Core []byte // its core.img, which finds the root partition by itself
	ESP  string // a file of ESPSize bytes
}

// The places in GRUB's images that its installer fills in: in boot.img the sector of
// core.img (grub-core/boot/i386/pc/boot.S, GRUB_BOOT_MACHINE_KERNEL_SECTOR), in its
// first sector that of the rest (diskboot.S, the last entry of the block list).
const (
	bootCode       = 440 // bytes of boot.img before the MBR's table
	bootKernel     = 0x5c
	coreBlockStart = Sector - 12
)

// Write writes all but the root partition to the disk, a new file that has that.
func (b *BootDisk) Write(file *os.File) error {
	if len(b.Boot) != Sector || len(b.Core) < 2*Sector || len(b.Core) > (espFirst-coreFirst)*Sector || RootSize(b.Size) < MinExt4 {
		return errors.New("no boot disk can be made of these parts")
	}
	sectors := b.Size / Sector
	table := make([]byte, MaxParts*gptEntry)
	rootFirst := int64(RootOffset / Sector)
	for i, p := range []struct {
		kind, name  string
		first, next int64
	}{
		{biosBoot, "grub", coreFirst, espFirst}, {efiSystem, "efi", espFirst, rootFirst},
		{linuxAMD64, "root", rootFirst, rootFirst + RootSize(b.Size)/Sector},
	} {
		if err := putEntry(table[i*gptEntry:], i, p.kind, p.name, p.first, p.next-1); err != nil {
			return err
		}
	}
	head, tail := gptEnds(table, sectors)
	copy(head, b.Boot[:bootCode])
	binary.LittleEndian.PutUint64(head[bootKernel:], coreFirst)
	core := append([]byte{}, b.Core...)
	binary.LittleEndian.PutUint64(core[coreBlockStart:], coreFirst+1)
	esp, err := os.ReadFile(b.ESP)
	if err != nil {
		return err
	}
	if len(esp) != ESPSize {
		return fmt.Errorf("%s: an EFI system partition of %d bytes and not of %d", b.ESP, len(esp), ESPSize)
	}
	for at, data := range map[int64][]byte{0: head, coreFirst * Sector: core, espFirst * Sector: esp, b.Size - int64(len(tail)): tail} {
		if _, err := file.WriteAt(data, at); err != nil {
			return err
		}
	}
	return nil
}
