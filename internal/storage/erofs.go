package storage

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// layerFlags keep device nodes and setuid files of an image from having any
// effect on the host. An overlay on top of the layer has flags of its own.
const layerFlags = unix.MS_RDONLY | unix.MS_NODEV | unix.MS_NOSUID

// mountErofs mounts an image file: directly where the kernel can (Linux 6.12,
// commit fb176750266a, "erofs: add file-backed mount support"), else through a
// loop device. It fails with ENODEV where the kernel has no EROFS at all.
//
// Either way the image is read past the page cache where its disk can do that. The
// content of files is kept in their own pages; to keep it in the image's too would
// take twice the memory and a copy more (with a cold cache 0.65 of a plain file's
// speed, instead of 1.02).
func mountErofs(image, dir string) error {
	before := erofsBDIs()
	err := error(unix.EINVAL)
	if readsDirectly(image) {
		err = unix.Mount(image, dir, "erofs", layerFlags, "directio")
	}
	// The option is younger than such mounts (commit 6422cde1b0d5, Linux 6.15).
	if errors.Is(err, unix.EINVAL) {
		err = unix.Mount(image, dir, "erofs", layerFlags, "")
	}
	if errors.Is(err, unix.ENOTBLK) {
		return mountLoop(image, dir)
	}
	if err != nil {
		return fmt.Errorf("mount the EROFS image: %w", err)
	}
	readFarAhead(image, before)
	return nil
}

// loopAttempts bounds the race for a free loop device with other programs.
const loopAttempts = 16

// mountLoop mounts an image through a loop device, which the kernel frees with
// the mount (LO_FLAGS_AUTOCLEAR).
func mountLoop(image, dir string) error {
	file, err := os.Open(image)
	if err != nil {
		return err
	}
	defer file.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("this kernel mounts EROFS images through loop devices only, and there are none: %w", err)
	}
	defer control.Close()
	for range loopAttempts {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return fmt.Errorf("find a free loop device: %w", err)
		}
		err = mountOnLoop(file, fmt.Sprintf("/dev/loop%d", n), dir)
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	return errors.New("no loop device stayed free long enough; try again")
}

func mountOnLoop(file *os.File, device, dir string) error {
	loop, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer loop.Close()
	config := unix.LoopConfig{Fd: uint32(file.Fd()), Size: 4096}
	config.Info.Flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO
	copy(config.Info.File_name[:], file.Name())
	if err := unix.IoctlLoopConfigure(int(loop.Fd()), &config); err != nil {
		return err
	}
	if depth := readAhead(file.Name()); depth > 0 {
		// In sectors. It is but slower if the kernel refuses.
		_ = unix.IoctlSetInt(int(loop.Fd()), unix.BLKRASET, depth*2)
	}
	// With AUTOCLEAR a failed mount frees the device when it is closed.
	if err := unix.Mount(device, dir, "erofs", layerFlags, ""); err != nil {
		return fmt.Errorf("mount the EROFS image on %s: %w", device, err)
	}
	return nil
}
