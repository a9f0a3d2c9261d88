// Package capability knows the names of Linux capabilities and what the kernel
// at hand has of them.
package capability

import "golang.org/x/sys/unix"

// Max is the highest number a capability can have here (a set has 64 bits; the
// kernel defines 41 as of Linux 6.18).
const Max = 63

// names are those of <linux/capability.h>, by number.
var names = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
	"CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE",
	"CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
	"CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
	"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
	"CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
	"CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// Names returns all known names, by number.
func Names() []string { return append([]string(nil), names[:]...) }

// Name returns the name of a capability.
func Name(c int) string {
	if c < 0 || c >= len(names) {
		return "unknown capability"
	}
	return names[c]
}

// Number returns the number of a name, or -1.
func Number(name string) int {
	for i, n := range names {
		if n == name {
			return i
		}
	}
	return -1
}

// Mask returns the set of the names. Unknown ones do not count: Filter has
// reported them before.
func Mask(list []string) uint64 {
	var set uint64
	for _, name := range list {
		if n := Number(name); n >= 0 {
			set |= 1 << n
		}
	}
	return set
}

// Bounding returns the bounding set of the calling process, without which no
// capability can be had.
func Bounding() uint64 {
	var set uint64
	for c := range len(names) {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0)
		if err != nil {
			break
		}
		if has == 1 {
			set |= 1 << c
		}
	}
	return set
}

// Filter drops from a list what is unknown or not available here, and returns
// what it dropped.
func Filter(list []string, available uint64) (kept, dropped []string) {
	for _, name := range list {
		if n := Number(name); n >= 0 && available&(1<<n) != 0 {
			kept = append(kept, name)
		} else {
			dropped = append(dropped, name)
		}
	}
	return kept, dropped
}
