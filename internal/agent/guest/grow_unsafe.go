package guest

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of ioctl(2): EXT4_IOC_RESIZE_FS of Linux's fs/ext4/ext4.h, and BLKPG of
// linux/blkpg.h.
const (
	ext4Resize = 0x40086610
	blkPart    = 0x1269
)

// resizeExt4 has a mounted ext4 grow to so many blocks.
func resizeExt4(dir *os.File, blocks uint64) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), ext4Resize, uintptr(unsafe.Pointer(&blocks))); errno != 0 {
		return os.NewSyscallError("grow the filesystem", errno)
	}
	return nil
}

// resizePartition tells the kernel how long a partition is, which may be in use. Start
// and length are in bytes.
func resizePartition(disk *os.File, number int, start, length int64) error {
	return os.NewSyscallError("grow the partition", tellPartition(int(disk.Fd()), unix.BLKPG_RESIZE_PARTITION, number, start, length))
}

// addPartition tells the kernel of a partition. Start and length are in bytes.
func addPartition(disk, number int, start, length int64) error {
	return os.NewSyscallError("add a partition", tellPartition(disk, unix.BLKPG_ADD_PARTITION, number, start, length))
}

func tellPartition(disk int, op int32, number int, start, length int64) error {
	part := unix.BlkpgPartition{Start: start, Length: length, Pno: int32(number)}
	arg := unix.BlkpgIoctlArg{Op: op, Datalen: int32(unsafe.Sizeof(part)), Data: (*byte)(unsafe.Pointer(&part))}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(disk), blkPart, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		return errno
	}
	return nil
}
