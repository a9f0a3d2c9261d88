package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// mount is one mount of the host, in order.
type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

// boot makes a Debian host out of the initramfs and three disks.
func boot() error {
	early := []mount{
		{"proc", "/proc", "proc", 0, ""},
		{"sys", "/sys", "sysfs", 0, ""},
		{"dev", "/dev", "devtmpfs", 0, ""},
	}
	if err := mountAll(early); err != nil {
		return err
	}
	if err := loadModules("/modules"); err != nil {
		return err
	}
	disks, err := findDisks()
	if err != nil {
		return err
	}
	// The root is an overlay; overlayfs cannot keep its upper directory on
	// another overlay, so what berthd writes lives on /data itself.
	err = mountAll([]mount{
		{disks["root"], "/lower", "erofs", unix.MS_RDONLY, ""},
		{disks["data"], "/data", "ext4", 0, ""},
	})
	if err != nil {
		return err
	}
	for _, dir := range []string{"/data/root", "/data/work", "/data/berth"} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if err := os.Chmod("/data/root", 0o755); err != nil {
		return err
	}
	err = mountAll([]mount{
		{"root", "/new", "overlay", 0, "lowerdir=/lower,upperdir=/data/root,workdir=/data/work"},
		{disks["bin"], "/new/opt/berth", "erofs", unix.MS_RDONLY, ""},
		{"/data", "/new/data", "", unix.MS_BIND, ""},
		{"/data/berth", "/new/var/lib/berth", "", unix.MS_BIND, ""},
		{"proc", "/new/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sys", "/new/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"dev", "/new/dev", "devtmpfs", unix.MS_NOSUID, ""},
		{"pts", "/new/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "ptmxmode=0666,mode=0620"},
		{"shm", "/new/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"run", "/new/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
		{"tmp", "/new/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"cgroup", "/new/sys/fs/cgroup", "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "nsdelegate"},
		{"security", "/new/sys/kernel/security", "securityfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	})
	if err != nil {
		return err
	}
	self, err := os.ReadFile("/init")
	if err != nil {
		return err
	}
	if err := os.WriteFile("/new/run/rackhost", self, 0o755); err != nil { //nolint:gosec // a program
		return err
	}
	if err := switchRoot("/new"); err != nil {
		return err
	}
	return configure()
}

func mountAll(list []mount) error {
	for _, m := range list {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.source, m.target, err)
		}
	}
	return nil
}

// loadModules inserts the modules of a directory in the order of their names.
func loadModules(dir string) error {
	files, err := filepath.Glob(dir + "/*.ko")
	if err != nil {
		return err
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if err := unix.InitModule(data, ""); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	return nil
}

// findDisks returns the device of each virtio disk by the serial number that
// QEMU gave it.
func findDisks() (map[string]string, error) {
	files, err := filepath.Glob("/sys/block/vd*/serial")
	if err != nil {
		return nil, err
	}
	disks := map[string]string{}
	for _, name := range files {
		serial, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		disks[strings.TrimSpace(string(serial))] = "/dev/" + filepath.Base(filepath.Dir(name))
	}
	for _, want := range []string{"root", "data", "bin"} {
		if disks[want] == "" {
			return nil, fmt.Errorf("no disk %q among %v", want, disks)
		}
	}
	return disks, nil
}

// switchRoot makes dir the root of everything. The initramfs cannot be left by
// pivot_root (Documentation/filesystems/ramfs-rootfs-initramfs.rst), so the
// new root is moved over it.
func switchRoot(dir string) error {
	if err := unix.Chdir(dir); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the new root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Chdir("/")
}

// openKVM gives /dev/kvm to the group kvm, as udev's rules do.
func openKVM() error {
	groups, err := os.ReadFile("/etc/group")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(groups)) {
		f := strings.Split(line, ":")
		if len(f) < 3 || f[0] != "kvm" {
			continue
		}
		gid, err := strconv.Atoi(f[2])
		if err != nil {
			return err
		}
		return errors.Join(os.Chown("/dev/kvm", 0, gid), os.Chmod("/dev/kvm", 0o660))
	}
	return errors.New("no group kvm")
}

// configure gives the host its name and address.
func configure() error {
	if err := openKVM(); err != nil {
		return err
	}
	if err := os.Rename("/run/rackhost", "/run/init"); err != nil {
		return err
	}
	if err := os.Symlink("/run/init", "/sbin/rackhost"); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	name := parameter("rack.name")
	if err := unix.Sethostname([]byte(name)); err != nil {
		return err
	}
	if err := os.WriteFile("/etc/hostname", []byte(name+"\n"), 0o644); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	address, err := netlink.ParseAddr(parameter("rack.addr"))
	if err != nil {
		return err
	}
	if err := netlink.AddrReplace(eth0, address); err != nil {
		return err
	}
	return netlink.LinkSetUp(eth0)
}
