package server

import "golang.org/x/sys/unix"

// openPeer opens the slave of the terminal whose master is fd, without making
// it anybody's controlling terminal. The ioctl's argument is a set of open
// flags (ioctl_tty(2), TIOCGPTPEER).
func openPeer(fd int) (int, error) {
	slave, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return -1, errno
	}
	return int(slave), nil
}
