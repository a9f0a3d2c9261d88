package listener

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// syscallInfo is struct ptrace_syscall_info of ptrace(2), as far as it is about the
// beginning and the end of a call. It is the same on every architecture.
type syscallInfo struct {
	op    uint8 // syscallEntry …
	_     [3]uint8
	_     uint32    // architecture
	_     [2]uint64 // instruction and stack pointer
	union [8]uint64 // entry: number, arguments; exit: result, whether it is an error
}

// Values of op: PTRACE_SYSCALL_INFO_ENTRY and _EXIT.
const (
	syscallEntry = 1
	syscallExit  = 2
)

func (i *syscallInfo) number() uint64 { return i.union[0] }
func (i *syscallInfo) result() int64  { return int64(i.union[0]) }
func (i *syscallInfo) failed() bool   { return *(*uint8)(unsafe.Pointer(&i.union[1])) != 0 }

// syscallInfoOf asks where the stopped process is.
func syscallInfoOf(pid int, info *syscallInfo) error {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(pid), unsafe.Sizeof(*info), uintptr(unsafe.Pointer(info)), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
