package oci

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/mount"
)

// openExe opens this program for execution inside a container, such that nothing
// there can write to the file on the host through /proc/PID/exe (CVE-2019-5736).
//
// A detached, read-only clone of its mount does it for two system calls: the
// process runs from that mount, every way back to the file goes through it, and
// once our descriptor is closed it belongs to no namespace, so that mount_setattr
// cannot reach it. Where the kernel cannot clone (before Linux 5.12, or when we run
// from such a mount ourselves) a sealed copy in memory serves.
func openExe() (int, error) {
	const self = "/proc/self/exe"
	fd, err := unix.OpenTree(unix.AT_FDCWD, self, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err == nil {
		if err = mount.SetReadOnly(fd, false); err == nil {
			return fd, nil
		}
		unix.Close(fd)
	}
	fd, merr := sealedCopy(self)
	if merr != nil {
		return -1, fmt.Errorf("protecting the runtime's binary: %w", errors.Join(err, merr))
	}
	return fd, nil
}

// sealedCopy returns a copy of a file in memory that nobody can change any more.
func sealedCopy(path string) (int, error) {
	src, err := os.Open(path)
	if err != nil {
		return -1, err
	}
	defer src.Close()
	fd, err := unix.MemfdCreate("berth-oci", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, os.NewSyscallError("memfd_create", err)
	}
	dst := os.NewFile(uintptr(fd), "memfd")
	defer dst.Close()
	if _, err := io.Copy(dst, src); err != nil {
		return -1, err
	}
	seals := unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return -1, os.NewSyscallError("F_ADD_SEALS", err)
	}
	// execve refuses what anyone has open for writing: go on with another opening.
	return unix.Open("/proc/self/fd/"+strconv.Itoa(fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
}
