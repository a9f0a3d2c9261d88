package disk

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// MinExt4 is the smallest size CreateExt4 takes, in bytes.
const MinExt4 = 16 << 20

// CreateExt4 makes a sparse raw disk of size bytes at path and an empty ext4 in
// it. The path must not exist; on an error nothing is left at it. A virtual
// machine may lose its power at any moment and has no fsck, so a filesystem that
// is to be used again needs a journal. It uses a quarter of a MiB of the
// host's disk for 10 GiB.
func CreateExt4(ctx context.Context, path string, size int64, journal bool) error {
	if size < MinExt4 {
		return fmt.Errorf("a disk of %d bytes is below ext4's least of %d", size, MinExt4)
	}
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		return errors.New("mkfs.ext4 is not installed: install the package e2fsprogs")
	}
	// Blocks reserved for growing are four MiB of zeros to write; without them
	// a filesystem grows by meta block groups. The seed makes the checksums
	// independent of the UUID, for CloneExt4.
	features, options := "^resize_inode,metadata_csum,metadata_csum_seed", []string{"-J", "size=4"}
	if !journal {
		features, options = features+",^has_journal", nil
	}
	return newFile(path, func(file *os.File) error {
		if err := file.Truncate(size); err != nil {
			return err
		}
		// Everything that can wait is left to the guest's kernel: inode tables are
		// zeroed lazily, and a new sparse file needs no discard.
		options = append(options, "-q", "-F", "-m", "0", "-O", features,
			"-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", "-L", "berth", path)
		out, err := exec.CommandContext(ctx, mkfs, options...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("mkfs.ext4: %w: %s", err, strings.TrimSpace(string(out)))
		}
		return nil
	})
}

// newFile makes the file at path, which must not exist, by fill. On an error
// nothing is left.
func newFile(path string, fill func(*os.File) error) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(fill(file), file.Close())
	if err != nil {
		os.Remove(path)
	}
	return err
}

// CloneExt4 makes a disk at path like the one at template, which CreateExt4 made
// and nobody has written to since: the same content, an identity of its own. It
// takes a tenth of the time. The path must not exist; on an error nothing is
// left at it. Durable says that the disk is to survive a crash of the host from
// now on.
func CloneExt4(path, template string, durable bool) error {
	from, err := os.Open(template)
	if err != nil {
		return err
	}
	defer from.Close()
	return newFile(path, func(to *os.File) error {
		if err := CopyFile(to, from); err != nil {
			return err
		}
		if err := renameExt4(to); err != nil {
			return fmt.Errorf("%s: %w", template, err)
		}
		if durable {
			return to.Sync()
		}
		return nil
	})
}

// CopyFile copies what a file has of data to the same places in a new file.
func CopyFile(to, from *os.File) error {
	info, err := from.Stat()
	if err != nil {
		return err
	}
	if err := to.Truncate(info.Size()); err != nil {
		return err
	}
	for at := int64(0); ; {
		at, err = from.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // the rest is a hole
		}
		if err != nil {
			return err
		}
		end, err := from.Seek(at, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := to.Seek(at, io.SeekStart); err != nil {
			return err
		}
		if _, err := from.Seek(at, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(to, from, end-at); err != nil {
			return noEOF(err)
		}
		at = end
	}
}

// The superblock and what makes a filesystem's identity in it
// (Documentation/filesystems/ext4/super.rst).
const (
	superblock    = 1024
	superMagic    = 0x38  // 0xef53
	superUUID     = 0x68  // 16 bytes
	superHashSeed = 0xec  // 16 bytes: who knows them can make names that collide
	superChecksum = 0x3fc // CRC32C of all before it
	superSize     = 0x400
)

// renameExt4 gives a filesystem a UUID and a hash seed of its own.
func renameExt4(file *os.File) error {
	super := make([]byte, superSize)
	if _, err := file.ReadAt(super, superblock); err != nil {
		return err
	}
	le := binary.LittleEndian
	if le.Uint16(super[superMagic:]) != 0xef53 {
		return errors.New("no ext4")
	}
	uuid := super[superUUID : superUUID+16]
	rand.Read(uuid)
	uuid[6], uuid[8] = uuid[6]&0x0f|0x40, uuid[8]&0x3f|0x80 // RFC 9562, version 4
	rand.Read(super[superHashSeed : superHashSeed+16])
	// Without the final complement.
	le.PutUint32(super[superChecksum:], ^crc32.Checksum(super[:superChecksum], crc32.MakeTable(crc32.Castagnoli)))
	_, err := file.WriteAt(super, superblock)
	return err
}
