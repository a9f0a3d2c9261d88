package qemu

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Shown is a file or directory of the host that a confined program finds by name.
// Everything else reaches it as a descriptor, or not at all.
type Shown struct {
	Path string `json:"path"`           // of the host
	Name string `json:"name,omitempty"` // absolute, in the program's root, where it is not Path
	Mode string `json:"mode,omitempty"` // "" for reading, x for executing too, rw, dir for a directory whose files it makes, dev for a device
}

// name returns where the program finds it.
func (s Shown) name() string {
	if s.Name != "" {
		return s.Name
	}
	return s.Path
}

// attributes returns what the mount of something shown forbids.
func (s Shown) attributes() (uint64, error) {
	const always = unix.MOUNT_ATTR_NOSUID
	attributes, known := map[string]uint64{
		"":    always | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_RDONLY,
		"x":   always | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_RDONLY,
		"rw":  always | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC,
		"dir": always | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC,
		"dev": always | unix.MOUNT_ATTR_NOEXEC,
	}[s.Mode]
	if !known {
		return 0, fmt.Errorf("%s: unknown mode %q", s.Path, s.Mode)
	}
	return attributes, nil
}

// namespaces are those that a confined program has to itself, beside the pid
// namespace, which its keeper makes.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// newRoot enters namespaces of its own, and lays an empty tree over the root of the
// first. What has that root already, as this process, still sees the host below it,
// until enterRoot.
func newRoot() (root int, err error) {
	if err := unix.Unshare(namespaces); err != nil {
		return -1, os.NewSyscallError("unshare", err)
	}
	if err := unix.Sethostname([]byte("berth")); err != nil {
		return -1, os.NewSyscallError("sethostname", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return -1, os.NewSyscallError("make mounts private", err)
	}
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("fsopen tmpfs", err)
	}
	defer unix.Close(fs)
	// Names only: what a mount needs to stand on is an empty file.
	for _, option := range [][2]string{{"mode", "0755"}, {"size", "64k"}} {
		if err := unix.FsconfigSetString(fs, option[0], option[1]); err != nil {
			return -1, os.NewSyscallError("fsconfig "+option[0], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, os.NewSyscallError("fsconfig", err)
	}
	root, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("fsmount", err)
	}
	if err := unix.MoveMount(root, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		unix.Close(root)
		return -1, os.NewSyscallError("move_mount", err)
	}
	return root, nil
}

// show mounts something of the host in a root.
func show(root int, s Shown) error {
	attributes, err := s.attributes()
	if err != nil {
		return err
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, s.Path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: s.Path, Err: err}
	}
	defer unix.Close(tree)
	return attach(root, tree, s.name(), attributes)
}

// attach mounts a tree, and what is mounted in it, at a name of a root.
func attach(root, tree int, name string, attributes uint64) error {
	attr := unix.MountAttr{Attr_set: attributes}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return &os.PathError{Op: "mount_setattr", Path: name, Err: err}
	}
	var info unix.Stat_t
	if err := unix.Fstat(tree, &info); err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	// Nobody else has been in this root: it has no links that lead elsewhere.
	relative := strings.TrimPrefix(filepath.Clean(name), "/")
	if err := makePlace(root, relative, info.Mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
		return &os.PathError{Op: "make", Path: name, Err: err}
	}
	if err := unix.MoveMount(tree, "", root, relative, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: name, Err: err}
	}
	return nil
}

// makePlace makes what something can be mounted on, with the directories above it.
func makePlace(root int, name string, dir bool) error {
	for i, c := range name {
		if c == '/' {
			if err := unix.Mkdirat(root, name[:i], 0o755); err != nil && err != unix.EEXIST {
				return err
			}
		}
	}
	if dir {
		if err := unix.Mkdirat(root, name, 0o755); err != nil && err != unix.EEXIST {
			return err
		}
		return nil
	}
	fd, err := unix.Openat(root, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o444)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// enterRoot makes a root that newRoot made this process's own, and lets go of the
// host's. Nothing can be made in it any more.
func enterRoot(root int) error {
	defer unix.Close(root)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(root, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return os.NewSyscallError("mount_setattr", err)
	}
	if err := unix.Fchdir(root); err != nil {
		return os.NewSyscallError("fchdir", err)
	}
	// The old root lies on the new one then, and goes (pivot_root(2), "." twice).
	if err := unix.PivotRoot(".", "."); err != nil {
		return os.NewSyscallError("pivot_root", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return os.NewSyscallError("umount", err)
	}
	return os.NewSyscallError("chdir", unix.Chdir("/"))
}
