package oci

import (
	"time"

	"golang.org/x/sys/unix"
)

// lockPatience is how long a command waits for another one on the same container.
const lockPatience = 10 * time.Second

// flock takes the exclusive lock of an open directory within lockPatience.
func flock(fd int) error {
	deadline := time.Now().Add(lockPatience)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case err != unix.EWOULDBLOCK && err != unix.EINTR:
			return err
		case time.Now().After(deadline):
			return ErrBusy
		}
		time.Sleep(pause) //nolint:forbidigo // flock(2) knows no deadline
	}
}
