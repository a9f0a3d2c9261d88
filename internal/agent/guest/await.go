package guest

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// devicePatience bounds the wait for a device's node.
const devicePatience = 10 * time.Second

// awaitDevice calls try until it fails with another error than missing, or not at
// all. A driver finds some devices at once and others, as disks on AHCI, a moment
// after it was loaded: each new node in /dev is worth another try.
func awaitDevice(try func() error, missing error) error {
	if err := try(); !errors.Is(err, missing) {
		return err
	}
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("inotify", err)
	}
	defer unix.Close(watch)
	if _, err := unix.InotifyAddWatch(watch, "/dev", unix.IN_CREATE); err != nil {
		return os.NewSyscallError("inotify", err)
	}
	deadline := time.Now().Add(devicePatience)
	buffer := make([]byte, 4096)
	for {
		err := try()
		left := time.Until(deadline)
		if !errors.Is(err, missing) || left <= 0 {
			return err
		}
		ready := []unix.PollFd{{Fd: int32(watch), Events: unix.POLLIN}}
		if n, _ := unix.Poll(ready, int(left.Milliseconds())); n > 0 {
			_, _ = unix.Read(watch, buffer)
		}
	}
}
