package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/agent"
)

// mountPoint is one line of a mount table.
type mountPoint struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

const noSetuid = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// early is what the agent itself needs; all of it moves to the new root.
var early = []mountPoint{
	{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
	{"proc", "/proc", "proc", noSetuid, ""},
	{"sysfs", "/sys", "sysfs", noSetuid, ""},
}

// expected is the rest of what programs expect. It moves with what it is mounted in, so
// that a template has it already.
var expected = []mountPoint{
	{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666"},
	{"shm", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"mqueue", "/dev/mqueue", "mqueue", noSetuid, ""},
	{"cgroup2", "/sys/fs/cgroup", "cgroup2", noSetuid, "nsdelegate"},
}

// mountAll mounts a table, making the targets.
func mountAll(table []mountPoint) error {
	for _, m := range table {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
			return err
		}
	}
	return nil
}

// mount is mount(2) with an error that says what was mounted where.
func mount(source, target, kind string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", kind+" "+source, target, err)
	}
	return nil
}

// mountRoot stacks the image's layers under the writable disk and makes the
// stack the root. The agent's own initramfs stays below it, out of reach of
// any path; so does the disk, which is returned for rest.
func mountRoot(config *agent.Config, disks disks) (writable *os.File, trees trees, err error) {
	lower := make([]string, config.Layers)
	for i := range config.Layers {
		// Short names: those of 127 layers fit mount(2)'s one page of options.
		dir := "/l/" + strconv.Itoa(i)
		layer := mountPoint{disks.layers + strconv.Itoa(i+2), dir, "erofs", unix.MS_RDONLY, ""}
		if err := mountAll([]mountPoint{layer}); err != nil {
			return nil, nil, err
		}
		lower[config.Layers-1-i] = dir // overlayfs wants the top first
	}
	disk := mountPoint{"tmpfs", "/disk", "tmpfs", 0, "mode=0755"}
	if config.Disk {
		if disks.writable == "" {
			if disks.writable, err = findDisk(agent.DiskSerial, 0); err != nil {
				return nil, nil, err
			}
		}
		disk = mountPoint{disks.writable, "/disk", "ext4", unix.MS_NOATIME, ""}
	}
	if err := mountAll([]mountPoint{disk}); err != nil {
		return nil, nil, err
	}
	if writable, err = os.Open("/disk"); err != nil {
		return nil, nil, err
	}
	if config.Disk { // which may have become larger since
		if err := growFilesystem(writable, disks.writable); err != nil {
			return nil, nil, err
		}
	}
	for _, dir := range []string{"/disk/upper", "/disk/work"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, nil, err
		}
	}
	stack := mountPoint{"overlay", "/root", "overlay", 0,
		"lowerdir=" + strings.Join(lower, ":") + ",upperdir=/disk/upper,workdir=/disk/work"}
	if err := mountAll([]mountPoint{stack}); err != nil {
		return nil, nil, err
	}
	if trees, err = openTrees(config.Mounts, disks.layers); err != nil {
		return nil, nil, err
	}
	if err := switchRoot("/root"); err != nil {
		return nil, nil, err
	}
	return writable, trees, nil
}

// rest brings the writable disk to rest, so that the next boot finds nothing to
// repair, and hands what was written to shares to the host. No process of the
// user's is left.
func (m *machine) rest() {
	lasting := slices.ContainsFunc(m.config.Mounts, func(m agent.Mount) bool { return m.Tag != "" || m.Disk != "" })
	if m.config.Transient && !lasting {
		return // nobody will read what is not written yet
	}
	unix.Sync()
	for _, other := range m.config.Mounts {
		if other.Disk != "" && other.Target != "" {
			_ = unix.Mount("", other.Target, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}
	}
	// The disk has no path any more, but its descriptor is one.
	path := "/proc/self/fd/" + strconv.Itoa(int(m.disk.Fd()))
	_ = unix.Mount("", path, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
}

// switchRoot moves the early mounts below dir and dir over the root, as
// switch_root(8) does.
func switchRoot(dir string) error {
	for _, m := range early {
		target := filepath.Join(dir, m.target)
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		if err := mount(m.target, target, "", unix.MS_MOVE, ""); err != nil {
			return err
		}
	}
	if err := os.Chdir(dir); err != nil {
		return err
	}
	if err := mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return os.NewSyscallError("chroot", err)
	}
	return os.Chdir("/")
}

// mountShares mounts what the host shares, trees, and tmpfs, at their targets.
func mountShares(mounts []agent.Mount, trees trees) error {
	for _, m := range mounts {
		err := error(nil)
		if m.Part > 0 {
			err = trees[m.Part].attach(m.Target)
		} else {
			err = mountShare(m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// shareAside begins the names of directories that shares of single files are mounted on
// for a moment.
const shareAside = "/run/.berth-share-"

func mountShare(m agent.Mount) error {
	if m.Disk != "" {
		return mountDisk(m)
	}
	if m.Tag == "" {
		data := "mode=" + strconv.FormatUint(uint64(m.Mode), 8)
		if m.Size > 0 {
			data += ",size=" + strconv.FormatInt(m.Size, 10)
		}
		return mountAll([]mountPoint{{"tmpfs", m.Target, "tmpfs", unix.MS_NOSUID | unix.MS_NODEV | readOnly(m), data}})
	}
	if m.Path == "" {
		return mountAll([]mountPoint{{m.Tag, m.Target, "virtiofs", readOnly(m), ""}})
	}
	// A share of a single file is its directory, mounted aside; the file is
	// bound over the target.
	aside := shareAside + m.Tag
	if err := mountAll([]mountPoint{{m.Tag, aside, "virtiofs", readOnly(m), ""}}); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(m.Target), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(m.Target, os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return err
	}
	file.Close()
	if err := mount(filepath.Join(aside, m.Path), m.Target, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return os.NewSyscallError("umount", unix.Unmount(aside, unix.MNT_DETACH))
}

// mountDisk mounts the ext4 of a further disk, or gives the disk the name that udev
// would.
func mountDisk(m agent.Mount) error {
	device, err := findDisk(m.Disk, 0)
	if err != nil {
		return err
	}
	if m.Target != "" {
		return mountAll([]mountPoint{{device, m.Target, "ext4", unix.MS_NOATIME | readOnly(m), ""}})
	}
	const byID = "/dev/disk/by-id"
	if err := os.MkdirAll(byID, 0o755); err != nil {
		return err
	}
	bus := "virtio-"
	if strings.HasPrefix(device, "/dev/sd") {
		bus = "ata-QEMU_HARDDISK_"
	}
	err = os.Symlink("../../"+filepath.Base(device), filepath.Join(byID, bus+m.Disk))
	if errors.Is(err, os.ErrExist) { // udev's
		return nil
	}
	return err
}

func readOnly(m agent.Mount) uintptr {
	if m.ReadOnly {
		return unix.MS_RDONLY
	}
	return 0
}
