package server

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// siginfoChild is the beginning of siginfo_t for SIGCHLD on 64-bit machines
// (include/uapi/asm-generic/siginfo.h).
type siginfoChild struct {
	signo, errno, code, _ int32
	pid                   int32
	_                     [108]byte
}

// endedChild returns the pid of a child that has ended and was not reaped yet,
// or 0. It reaps nothing.
func endedChild() (int, error) {
	var info siginfoChild
	for {
		err := unix.Waitid(unix.P_ALL, 0, (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			return int(info.pid), err
		}
	}
}
