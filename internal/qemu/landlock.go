package qemu

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Rights over files that a domain of Landlock can take, by the version of the
// interface that brought them (landlock(7)).
const (
	landlockFiles = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_READ_FILE |
		unix.LANDLOCK_ACCESS_FS_READ_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG |
		unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK |
		unix.LANDLOCK_ACCESS_FS_MAKE_SYM
	landlockTCP   = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	landlockScope = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
)

// landlockRules is a domain of Landlock, as far as a version of the interface has it.
type landlockRules struct {
	Files, TCP, Scope uint64
}

// newLandlockRules takes everything that a version knows. It is a pure function.
func newLandlockRules(version int) landlockRules {
	r := landlockRules{Files: landlockFiles}
	if version >= 2 {
		r.Files |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if version >= 3 {
		r.Files |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if version >= 4 {
		r.TCP = landlockTCP
	}
	if version >= 5 {
		r.Files |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if version >= 6 {
		r.Scope = landlockScope
	}
	return r
}

// landlockAccess is what a program may do with what it is shown.
func landlockAccess(mode string) uint64 {
	switch mode {
	case "x":
		return unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_EXECUTE
	case "rw":
		return unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	case "dir":
		return landlockAccess("rw") | unix.LANDLOCK_ACCESS_FS_READ_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE
	case "dev":
		return unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	return unix.LANDLOCK_ACCESS_FS_READ_FILE
}

// landlock leaves this thread, and what it executes, only what is shown, whatever
// becomes of its root; and it can connect to no abstract socket and signal nobody
// outside. A kernel without Landlock has the other walls alone. Descriptors that are
// open stay as they are.
func landlock(shown []Shown) error {
	version, err := landlockVersion()
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil // not built in, or not switched on at boot
	}
	if err != nil {
		return os.NewSyscallError("landlock_create_ruleset", err)
	}
	rules := newLandlockRules(version)
	set, err := landlockCreate(version, rules)
	if err != nil {
		return os.NewSyscallError("landlock_create_ruleset", err)
	}
	defer unix.Close(set)
	for _, s := range shown {
		if err := landlockAllow(set, s, rules.Files); err != nil {
			return &os.PathError{Op: "landlock_add_rule", Path: s.name(), Err: err}
		}
	}
	return os.NewSyscallError("landlock_restrict_self", landlockRestrict(set))
}

// landlockAllow lets the domain do with something shown what its mode says, and the
// version knows.
func landlockAllow(set int, s Shown, known uint64) error {
	fd, err := unix.Open(s.name(), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return landlockAddPath(set, fd, landlockAccess(s.Mode)&known)
}
