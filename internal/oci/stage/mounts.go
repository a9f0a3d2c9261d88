package stage

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/mount"
	"github.com/berthcloud/berth/internal/oci/wire"
)

// placeMounts puts every mount of the plan into the root, in order.
func (i *initStage) placeMounts() error {
	for n := range i.plan.Mounts {
		m := &i.plan.Mounts[n]
		if err := i.placeMount(m); err != nil {
			return fmt.Errorf("%s (%s): %w", m.Field, m.Dest, err)
		}
	}
	return nil
}

func (i *initStage) placeMount(m *wire.Mount) error {
	dest := filepath.Clean("/" + m.Dest)
	i.inheritMode(m, dest)
	mnt, err := i.take(m.File), error(nil)
	if m.Bind != nil {
		if mnt, m.Dir, err = mount.Bind(m.Source, *m.Bind, -1); err != nil {
			return err
		}
	}
	target, err := i.mountTarget(m, dest)
	if err != nil {
		wire.CloseAll([]int{mnt})
		return err
	}
	defer unix.Close(target)
	if mnt < 0 {
		if mnt, err = i.newFilesystem(m, target); err != nil {
			return err
		}
	}
	if err := mount.Place(mnt, target); err != nil {
		unix.Close(mnt)
		return fmt.Errorf("move_mount: %w", err)
	}
	switch {
	case m.Type == "devpts" && dest == "/dev/pts":
		i.devpts = mnt // kept open for the console
	case m.LateRO:
		i.late = append(i.late, mnt)
	default:
		unix.Close(mnt)
	}
	return nil
}

// inheritMode gives a tmpfs that names no mode that of the directory it hides, as
// runc does and "docker run --tmpfs /etc" relies on. Where there is none yet, the
// kernel's own default stands: 1777.
func (i *initStage) inheritMode(m *wire.Mount, dest string) {
	named := func(option string) bool { return strings.HasPrefix(option, "mode=") }
	if m.Type != "tmpfs" || slices.ContainsFunc(m.Data, named) {
		return
	}
	fd, err := i.root.Open(dest, unix.O_PATH, 0)
	if err != nil {
		return // mountTarget has the last word
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) == nil {
		m.Data = append(m.Data, fmt.Sprintf("mode=%o", st.Mode&0o7777))
	}
}

// mountTarget finds or makes the directory or file that the mount goes onto.
func (i *initStage) mountTarget(m *wire.Mount, dest string) (int, error) {
	target, err := i.root.Target(dest, m.Dir)
	if err != nil {
		return -1, err
	}
	if m.Type == "proc" || m.Type == "sysfs" {
		// Later steps trust these paths: an image must not lead them elsewhere by a
		// symbolic link (CVE-2019-19921).
		unix.Close(target)
		target, err = i.root.Open(dest, unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
		if err != nil {
			return -1, fmt.Errorf("must be a directory, not a symbolic link: %w", err)
		}
	}
	if m.Type == "proc" {
		return target, nil
	}
	if err := mount.Guard(target, dest); err != nil {
		unix.Close(target)
		return -1, err
	}
	return target, nil
}

func (i *initStage) newFilesystem(m *wire.Mount, target int) (int, error) {
	mnt, err := mount.Filesystem(m.Type, m.Source, m.Attr, m.Data)
	if err != nil {
		return -1, err
	}
	if m.CopyUp {
		err = mount.CopyUp(target, mnt)
	}
	if err == nil && m.Prop != 0 {
		err = mount.Finish(mnt, mount.Options{Prop: m.Prop}, -1)
	}
	if err != nil {
		unix.Close(mnt)
		return -1, err
	}
	return mnt, nil
}

// makeLinks makes the default symbolic links of /dev (config-linux.md, Default
// Devices). What the image has there stays.
func (i *initStage) makeLinks() error {
	for _, l := range i.plan.Links {
		dir, err := i.root.Dir(filepath.Dir(l.Path), 0o755)
		if err != nil {
			return err
		}
		err = unix.Symlinkat(l.Target, dir, filepath.Base(l.Path))
		unix.Close(dir)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("symbolic link %s: %w", l.Path, err)
		}
	}
	return nil
}

// maskPaths hides files under /dev/null and directories under one empty,
// read-only tmpfs.
func (i *initStage) maskPaths() error {
	empty := -1 // a placed mount of the tmpfs, to clone
	defer func() { wire.CloseAll([]int{empty}) }()
	for _, path := range i.plan.Masked {
		target, err := i.root.Open(path, unix.O_PATH, 0)
		if missing(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("linux.maskedPaths: %s: %w", path, err)
		}
		err = i.maskPath(target, &empty)
		unix.Close(target)
		if err != nil {
			return fmt.Errorf("linux.maskedPaths: %s: %w", path, err)
		}
	}
	return nil
}

func (i *initStage) maskPath(target int, empty *int) error {
	var st unix.Stat_t
	if err := unix.Fstat(target, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		null, err := mount.Clone(i.hostNull, false)
		if err != nil {
			return err
		}
		defer unix.Close(null)
		if err := checkNull(null); err != nil {
			return err
		}
		return mount.Place(null, target)
	}
	if *empty >= 0 {
		again, err := mount.Clone(*empty, false)
		if err != nil {
			return err
		}
		defer unix.Close(again)
		return mount.Place(again, target)
	}
	mnt, err := mount.Filesystem("tmpfs", "tmpfs", unix.MOUNT_ATTR_RDONLY, []string{"nr_inodes=1", "mode=000"})
	if err != nil {
		return err
	}
	*empty = mnt
	return mount.Place(mnt, target)
}

// readOnlyPaths covers each path with a read-only bind mount of itself.
func (i *initStage) readOnlyPaths() error {
	for _, path := range i.plan.ReadOnly {
		target, err := i.root.Open(path, unix.O_PATH, 0)
		if missing(err) {
			continue
		}
		if err == nil {
			err = coverReadOnly(target)
			unix.Close(target)
		}
		if err != nil {
			return fmt.Errorf("linux.readonlyPaths: %s: %w", path, err)
		}
	}
	return nil
}

func coverReadOnly(target int) error {
	mnt, err := mount.Clone(target, true)
	if err != nil {
		return err
	}
	defer unix.Close(mnt)
	if err := mount.SetReadOnly(mnt, true); err != nil {
		return err
	}
	return mount.Place(mnt, target)
}

// lateReadOnly makes read-only what had to take mount points first.
func (i *initStage) lateReadOnly() error {
	for _, mnt := range i.late {
		err := mount.SetReadOnly(mnt, false)
		unix.Close(mnt)
		if err != nil {
			return err
		}
	}
	if i.plan.RootRO && !i.plan.Chroot {
		if err := mount.SetReadOnly(i.root.FD, false); err != nil {
			return fmt.Errorf("root.readonly: %w", err)
		}
	}
	return nil
}

// missing reports whether a path does not exist; a file where a directory should
// be counts too, since nothing can be below it.
func missing(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) }

// makeDevices creates device nodes, or places those of the host where the user
// namespace forbids mknod.
func (i *initStage) makeDevices() error {
	for n := range i.plan.Devices {
		d := &i.plan.Devices[n]
		var err error
		if d.File != wire.None {
			err = i.bindDevice(d)
		} else {
			err = i.makeDevice(d)
		}
		if err != nil {
			return fmt.Errorf("%s (%s): %w", d.Field, d.Path, err)
		}
	}
	return nil
}

func (i *initStage) bindDevice(d *wire.Device) error {
	target, err := i.root.File(d.Path)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	if err := mount.Guard(target, d.Path); err != nil {
		return err
	}
	fd := i.take(d.File)
	defer unix.Close(fd)
	return mount.Place(fd, target)
}

func (i *initStage) makeDevice(d *wire.Device) error {
	dir, err := i.root.Dir(filepath.Dir(d.Path), 0o755)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	kind := map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}[d.Type]
	dev := 0
	if kind != unix.S_IFIFO {
		dev = int(unix.Mkdev(uint32(d.Major), uint32(d.Minor)))
	}
	name := filepath.Base(strings.TrimRight(d.Path, "/"))
	if err := unix.Mknodat(dir, name, kind|d.Mode, dev); err != nil {
		if !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("mknod: %w", err)
		}
		return checkNode(dir, name, kind, uint64(dev))
	}
	return unix.Fchownat(dir, name, int(d.UID), int(d.GID), unix.AT_SYMLINK_NOFOLLOW)
}

// checkNode accepts a node that the image brings only if it is the wanted device.
func checkNode(dir int, name string, kind uint32, dev uint64) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != kind || kind != unix.S_IFIFO && st.Rdev != dev {
		return fmt.Errorf(`the image has another file there (config-linux.md: "If a file already exists at path that does not match the requested device, the runtime MUST generate an error")`)
	}
	return nil
}
