package stage

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// openPeer returns the other end of a terminal's master.
func openPeer(master int) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// installFilter gives this thread a seccomp filter.
func installFilter(filter []byte, flags uint) error {
	prog := unix.SockFprog{Len: uint16(len(filter) / unix.SizeofSockFilter), Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0]))}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(flags), uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	return nil
}

// setMemoryPolicy is set_mempolicy(2), which belongs to the thread and outlives execve.
func setMemoryPolicy(mode int, nodes []uint64) error {
	// The kernel takes one from the number of bits (get_nodes in mm/mempolicy.c).
	_, _, errno := unix.RawSyscall(unix.SYS_SET_MEMPOLICY, uintptr(mode), uintptr(unsafe.Pointer(unsafe.SliceData(nodes))), uintptr(len(nodes)*64+1))
	if errno != 0 {
		return errno
	}
	return nil
}

// image is a program to execute with everything allocated beforehand.
type image struct {
	fd         int // the program itself where path is empty
	path       *byte
	argv, envp []*byte
}

func newImage(path string, args, env []string) (*image, error) {
	p, err := syscall.BytePtrFromString(path)
	if err != nil {
		return nil, err
	}
	argv, err := syscall.SlicePtrFromStrings(args)
	if err != nil {
		return nil, err
	}
	envp, err := syscall.SlicePtrFromStrings(env)
	if err != nil {
		return nil, err
	}
	return &image{-1, p, argv, envp}, nil
}

// exec is one system call and nothing else: syscall.Exec would make further system calls,
// which the seccomp filter, already in force, may forbid.
func (g *image) exec() error {
	argv, envp := uintptr(unsafe.Pointer(&g.argv[0])), uintptr(unsafe.Pointer(&g.envp[0]))
	var errno syscall.Errno
	if g.fd >= 0 {
		_, _, errno = syscall.RawSyscall6(unix.SYS_EXECVEAT, uintptr(g.fd), uintptr(unsafe.Pointer(g.path)), argv, envp, unix.AT_EMPTY_PATH, 0)
	} else {
		_, _, errno = syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(g.path)), argv, envp)
	}
	return errno
}
