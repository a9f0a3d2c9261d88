package guest

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/agent"
)

// growDisk has the machine use a disk that the host has made size bytes large. It
// waits for the kernel to learn of it.
func (m *machine) growDisk(size int64) error {
	device, err := tryDisk(agent.DiskSerial)
	if err != nil {
		return err
	}
	if err := awaitSize(device, size); err != nil {
		return err
	}
	if m.disk != nil {
		return growFilesystem(m.disk, device)
	}
	root, err := os.Open("/")
	if err != nil {
		return err
	}
	defer root.Close()
	return growRoot(root, device)
}

// growRoot has the filesystem that is mounted at root, and its partition, use all of the
// disk device.
func growRoot(root *os.File, device string) error {
	partition, number, err := partitionOf(root, device)
	if err != nil {
		return err
	}
	if number > 0 {
		if err := reachEnd(device, number); err != nil {
			return err
		}
	}
	return growFilesystem(root, partition)
}

// awaitSize returns when a device has at least size bytes.
func awaitSize(device string, size int64) error {
	deadline := time.NewTimer(discovery)
	defer deadline.Stop()
	for {
		have, err := sizeOf(device)
		if err != nil || have >= size {
			return err
		}
		select {
		case <-deadline.C:
			return fmt.Errorf("the guest's kernel sees %d bytes of %s, not %d: it learns of the rest at its next boot", have, device, size)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// sizeOf returns the bytes of a block device.
func sizeOf(device string) (int64, error) {
	text, err := os.ReadFile(filepath.Join("/sys/class/block", filepath.Base(device), "size"))
	if err != nil {
		return 0, err
	}
	sectors, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return sectors * sectorSize, err
}

// partitionOf returns the device that a directory's filesystem is on, and its number
// among the partitions of a disk; 0 where it is the disk itself.
func partitionOf(dir *os.File, disk string) (device string, number int, err error) {
	var info unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &info); err != nil {
		return "", 0, os.NewSyscallError("fstat", err)
	}
	// The link leads to ../../devices/…/vda, or …/vda/vda1.
	sys, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(info.Dev), unix.Minor(info.Dev)))
	name := filepath.Base(sys)
	switch {
	case err == nil && name == filepath.Base(disk):
		return disk, 0, nil
	case err != nil || filepath.Base(filepath.Dir(sys)) != filepath.Base(disk):
		return "", 0, errors.New("the disk is larger now, but the guest's root filesystem is on no partition of it: grow that in the guest")
	}
	text, err := os.ReadFile(filepath.Join("/sys/class/block", name, "partition"))
	if err != nil {
		return "", 0, err
	}
	number, err = strconv.Atoi(strings.TrimSpace(string(text)))
	return "/dev/" + name, number, err
}

// reachEnd has a partition reach to the end of its disk, in the table and for the
// kernel, which uses it.
func reachEnd(disk string, number int) error {
	file, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	size, err := sizeOf(disk)
	if err != nil {
		return err
	}
	start, length, err := growPartition(file, uint64(size)/sectorSize, number)
	if err != nil {
		return err
	}
	return resizePartition(file, number, int64(start)*sectorSize, int64(length)*sectorSize)
}

// Of ext4's superblock (Documentation/filesystems/ext4/super.rst), which is 1024 bytes
// in: where it counts its blocks.
const (
	ext4Super    = 1024
	ext4BlocksLo = 0x4
	ext4BlocksHi = 0x150
)

// growFilesystem has the filesystem that is mounted at dir use all of its device. One
// that does already stays untouched.
func growFilesystem(dir *os.File, device string) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	if fs.Type != unix.EXT4_SUPER_MAGIC {
		return errors.New("the disk and its partition are larger now, but the guest's root filesystem is no ext4: grow it with its own tools, by berth exec")
	}
	// Every boot comes here, and so makes plain system calls (see kernelModules).
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open "+device, err)
	}
	defer unix.Close(fd)
	size, err := unix.Seek(fd, 0, io.SeekEnd)
	if err != nil {
		return os.NewSyscallError("look for the end of "+device, err)
	}
	super := make([]byte, ext4BlocksHi+4)
	if n, err := unix.Pread(fd, super, ext4Super); n < len(super) {
		return fmt.Errorf("read the superblock of %s: %d of %d bytes: %w", device, n, len(super), cmp.Or(err, io.ErrUnexpectedEOF))
	}
	le := binary.LittleEndian
	have := uint64(le.Uint32(super[ext4BlocksLo:])) | uint64(le.Uint32(super[ext4BlocksHi:]))<<32
	if want := uint64(size) / uint64(fs.Bsize); want > have {
		return resizeExt4(dir, want)
	}
	return nil
}
