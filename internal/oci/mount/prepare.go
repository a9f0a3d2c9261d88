package mount

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Bind returns a detached clone of the host's mount at source, finished according
// to o. With an id map in o, userns is the user namespace to map through.
func Bind(source string, o Options, userns int) (fd int, dir bool, err error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if o.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err = unix.OpenTree(unix.AT_FDCWD, source, flags)
	if err != nil {
		return -1, false, &os.PathError{Op: "source", Path: source, Err: err}
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil {
		err = Finish(fd, o, userns)
	}
	if err != nil {
		unix.Close(fd)
		return -1, false, err
	}
	return fd, st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}

// Finish gives a detached mount its id map, attributes and propagation, private
// where nothing is said: the clone of a shared mount would otherwise pass mounts
// made in the container on to the host.
func Finish(fd int, o Options, userns int) error {
	if o.IDMap {
		err := idmap(fd, userns, o.RecIDMap)
		if err != nil && !(o.TryIDMap && errors.Is(err, unix.EINVAL)) {
			return err
		}
	}
	for _, c := range o.Changes() {
		if err := setattr(fd, c.Flags, &c.Attr); err != nil {
			return err
		}
	}
	return nil
}

// Change is what one call of mount_setattr(2) does to a mount.
type Change struct {
	Flags uint // AT_RECURSIVE or 0
	Attr  unix.MountAttr
}

// Changes returns what gives a mount the attributes and the propagation of o.
func (o *Options) Changes() []Change {
	prop := o.Prop
	if prop == 0 {
		prop = unix.MS_PRIVATE | unix.MS_REC
	}
	attr := MountAttr(o.Set, o.Clear)
	if !o.Recursive { // one mount: everything in one call
		attr.Attr_set |= o.RecSet
		attr.Attr_clr |= o.RecClear &^ o.RecSet
		attr.Propagation = prop &^ unix.MS_REC
		return []Change{{0, *attr}}
	}
	rec := MountAttr(o.RecSet, o.RecClear)
	if prop&unix.MS_REC != 0 {
		rec.Propagation = prop &^ unix.MS_REC
	} else {
		attr.Propagation = prop
		rec.Propagation = unix.MS_PRIVATE
	}
	changes := []Change{{unix.AT_RECURSIVE, *rec}}
	if *attr != (unix.MountAttr{}) {
		changes = append(changes, Change{0, *attr})
	}
	return changes
}

func setattr(fd int, flags uint, attr *unix.MountAttr) error {
	return os.NewSyscallError("mount_setattr", unix.MountSetattr(fd, "", flags|unix.AT_EMPTY_PATH, attr))
}

// idmap shifts the owners of a detached mount through a user namespace.
func idmap(fd, userns int, recursive bool) error {
	if userns < 0 {
		return errors.New(`idmap: the container has no user namespace to map through (config.md: "If there are no uidMappings and gidMappings specified and the container isn't using user namespaces, an error MUST be returned")`)
	}
	flags := uint(0)
	if recursive {
		flags = unix.AT_RECURSIVE
	}
	err := setattr(fd, flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns)})
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("idmap: the kernel cannot map ids on this filesystem (Linux 5.12 or newer for ext4 and xfs, 5.15 btrfs, 5.19 overlay and EROFS, 6.3 tmpfs): %w", err)
	}
	return err
}
