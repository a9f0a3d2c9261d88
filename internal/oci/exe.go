package oci

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/mount"
	"github.com/berthcloud/berth/internal/oci/program"
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
	return program.Sealed(func(fd int) error {
		dst, err := unix.Dup(fd) // for an os.File to close
		if err != nil {
			return os.NewSyscallError("dup", err)
		}
		f := os.NewFile(uintptr(dst), "memfd")
		defer f.Close()
		_, err = io.Copy(f, src)
		return err
	})
}
