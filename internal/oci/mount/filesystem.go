package mount

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Filesystem makes a new filesystem of a type and returns it as a detached mount
// with the given attributes. It belongs to the namespaces of the caller.
func Filesystem(fstype, source string, attr uint64, data []string) (int, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		if err == unix.ENODEV {
			return -1, fmt.Errorf("type %q: the kernel does not know this filesystem", fstype)
		}
		return -1, os.NewSyscallError("fsopen "+fstype, err)
	}
	defer unix.Close(fs)
	if source != "" {
		if err := unix.FsconfigSetString(fs, "source", source); err != nil {
			return -1, fmt.Errorf("source %q: %w%s", source, err, kernelLog(fs))
		}
	}
	if err := configureData(fs, data); err != nil {
		return -1, err
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("type %s: %w%s", fstype, err, kernelLog(fs))
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, int(attr))
	if err != nil {
		return -1, fmt.Errorf("type %s: %w%s", fstype, os.NewSyscallError("fsmount", err), kernelLog(fs))
	}
	return fd, nil
}

// Clone returns a detached clone of the mount, or of the part of it, that fd names.
func Clone(fd int, recursive bool) (int, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	n, err := unix.OpenTree(fd, "", flags)
	return n, os.NewSyscallError("open_tree", err)
}

// SetReadOnly makes the mount that fd names read-only, with all below it if
// recursive.
func SetReadOnly(fd int, recursive bool) error {
	flags := uint(0)
	if recursive {
		flags = unix.AT_RECURSIVE
	}
	return setattr(fd, flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
}

// configureData hands "key=value" and "flag" options to a filesystem context.
func configureData(fs int, data []string) error {
	for _, d := range data {
		key, value, ok := strings.Cut(d, "=")
		var err error
		if ok {
			err = unix.FsconfigSetString(fs, key, value)
		} else {
			err = unix.FsconfigSetFlag(fs, key)
		}
		if err != nil {
			return fmt.Errorf("option %q: %w%s", d, err, kernelLog(fs))
		}
	}
	return nil
}

// kernelLog returns what the kernel has to say about a filesystem context, as
// " (text)", or "".
func kernelLog(fs int) string {
	var b [512]byte
	n, err := unix.Read(fs, b[:])
	if err != nil || n < 3 {
		return ""
	}
	return " (" + strings.TrimSpace(string(b[2:n])) + ")" // "e " or "w " comes first
}
