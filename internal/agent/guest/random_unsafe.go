package guest

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of random(4).
const (
	rndAddEntropy = 0x40085203
	rndReseedCRNG = 0x5207 // Linux 4.17
)

// randPoolInfo is struct rand_pool_info of linux/random.h.
type randPoolInfo struct {
	bits, bytes int32
	data        [64]byte
}

// stir mixes a seed into the kernel's random number generator and makes it forget
// what it would have said without: writing to /dev/urandom alone changes its output
// only minutes later.
func stir(seed []byte) error {
	fd, err := unix.Open("/dev/urandom", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open /dev/urandom", err)
	}
	defer unix.Close(fd)
	var pool randPoolInfo
	n := copy(pool.data[:], seed)
	pool.bits, pool.bytes = int32(n*8), int32(n)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), rndAddEntropy, uintptr(unsafe.Pointer(&pool))); errno != 0 {
		return os.NewSyscallError("add entropy", errno)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), rndReseedCRNG, 0); errno != 0 {
		return os.NewSyscallError("reseed the random number generator", errno)
	}
	return nil
}
