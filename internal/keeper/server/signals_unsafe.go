package server

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel's struct sigaction and its parts, as far as they are read here
// (include/uapi/asm-generic/signal.h). Room behind the handler holds flags,
// restorer and mask on every architecture.
type sigaction struct {
	handler uintptr
	_       [4]uint64
}

const (
	sigDefault  = 0
	sigIgnored  = 1
	lastSignal  = 64
	sigsetBytes = 8
)

// unignoreSignals gives every signal that this process was started with
// ignored its default action: a kept process would inherit it ignored. glibc's
// posix_spawn, which make uses, leaves its children signals 32 and 33 so; Go
// knows nothing of these two.
func unignoreSignals() {
	for sig := uintptr(1); sig <= lastSignal; sig++ {
		var now, want sigaction
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, 0, uintptr(unsafe.Pointer(&now)), sigsetBytes, 0, 0)
		if errno == 0 && now.handler == sigIgnored {
			want.handler = sigDefault
			_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&want)), 0, sigsetBytes, 0, 0)
		}
	}
}
