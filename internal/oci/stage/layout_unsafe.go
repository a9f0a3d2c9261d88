package stage

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Where the kernel puts what is looked at, which differs between architectures.
const (
	sizeofStat   = unsafe.Sizeof(unix.Stat_t{})
	offsetMode   = unsafe.Offsetof(unix.Stat_t{}.Mode)
	offsetUID    = unsafe.Offsetof(unix.Stat_t{}.Uid)
	offsetRdev   = unsafe.Offsetof(unix.Stat_t{}.Rdev)
	sizeofStatfs = unsafe.Sizeof(unix.Statfs_t{})
	offsetType   = unsafe.Offsetof(unix.Statfs_t{}.Type)
	sizeofCPUSet = unsafe.Sizeof(unix.CPUSet{})
)
