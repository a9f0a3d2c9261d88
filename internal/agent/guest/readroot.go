package guest

import (
	"archive/tar"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/agent"
	"github.com/berthcloud/berth/internal/pack"
)

// Reading somebody's disk. It is this machine's kernel that meets what the disk has for
// a filesystem; the machine is there for nothing else, and ends afterwards.

// candidate is a partition, or a whole disk, that may hold the root filesystem.
type candidate struct {
	device string
	number int    // of the partition; 0 for the whole disk
	kind   string // filesystem, as mount(2) has it
	typed  bool   // the table says that it is the root of this architecture
	dir    string // where it is mounted
	init   string
}

// readRoot writes the root filesystem of the disk with a serial number.
func readRoot(serial string, w io.Writer) (agent.Root, error) {
	device, err := findDisk(serial, 0)
	if err != nil {
		return agent.Root{}, err
	}
	if err := loadDrivers(); err != nil {
		return agent.Root{}, err
	}
	if err := rescan(device); err != nil {
		return agent.Root{}, err
	}
	found, err := findRoot(device)
	if err != nil {
		return agent.Root{}, err
	}
	defer func() { _ = unix.Unmount(found.dir, unix.MNT_DETACH) }()
	fd, err := unix.Open(found.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return agent.Root{}, os.NewSyscallError("open the root filesystem", err)
	}
	defer unix.Close(fd)
	out := tar.NewWriter(w)
	if err := pack.Tree(context.Background(), out, fd, ".", pack.Options{Image: true, Leave: found.machineOnly, Empty: machineOwn}); err != nil {
		return agent.Root{}, err
	}
	return agent.Root{Partition: found.number, Filesystem: found.kind, Init: found.init}, out.Close()
}

// machineOnly tells what of a disk only the machine needs that starts from it: what
// Berth has put there for that, and what a filesystem has for its own repair.
func (c *candidate) machineOnly(name string) bool {
	switch name {
	case "./boot": // Berth's alone
		entries, err := os.ReadDir(filepath.Join(c.dir, name))
		return err == nil && len(entries) == 1 && "/boot/"+entries[0].Name() == agent.BootDir
	case "./lost+found", "." + agent.BootDir, "./var/lib/berth-agent", "./usr/local/sbin/berth-agent",
		"./etc/systemd/system/berth-agent.service", "./etc/systemd/system/sysinit.target.wants/berth-agent.service",
		"./etc/repart.d/50-root.conf", "./var/lib/systemd/random-seed":
		return true
	}
	return false
}

// machineOwn tells what each machine has of its own, or of its disk's partitions: the
// files stay, without their content.
func machineOwn(name string) bool {
	switch name {
	case "./etc/machine-id", "./var/lib/dbus/machine-id", "./etc/fstab":
		return true
	}
	return false
}

// loadDrivers loads the modules that the host has put beside the root filesystem.
func loadDrivers() error {
	order, err := os.ReadFile(filepath.Join(agent.DriversDir, agent.DriversOrder))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	dir, err := unix.Open(agent.DriversDir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open "+agent.DriversDir, err)
	}
	defer unix.Close(dir)
	modules := kernelModules{dir: dir}
	return modules.loadNamed(string(order))
}

// rescan has the kernel look for a disk's partitions: a disk is there a moment before
// they are. One that cannot have any has none.
func rescan(device string) error {
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open "+device, err)
	}
	defer unix.Close(fd)
	if err := unix.IoctlSetInt(fd, unix.BLKRRPART, 0); err != nil && !errors.Is(err, unix.EINVAL) {
		return os.NewSyscallError("look for partitions", err)
	}
	return nil
}

// findRoot mounts the root filesystem that a disk holds.
func findRoot(device string) (found *candidate, err error) {
	list, strange, err := candidates(device)
	if err != nil {
		return nil, err
	}
	var roots []*candidate
	for i := range list {
		c := &list[i]
		if err := c.mount(); err != nil {
			strange = append(strange, fmt.Sprintf("%s cannot be read: %v", c.name(), err))
			continue
		}
		if c.isRoot() {
			roots = append(roots, c)
			continue
		}
		_ = unix.Unmount(c.dir, unix.MNT_DETACH)
		strange = append(strange, fmt.Sprintf("%s (%s) has neither an init nor an os-release nor a shell", c.name(), c.kind))
	}
	if len(roots) > 1 {
		roots = typedAlone(roots)
	}
	switch {
	case len(roots) == 1:
		return roots[0], nil
	case len(roots) > 1:
		names := make([]string, len(roots))
		for i, c := range roots {
			names[i] = c.name()
		}
		return nil, api.E("", api.Unsupported, "", fmt.Errorf("%s each hold a system, and the partition table does not say which is the root: copy the one that is wanted to a disk of its own", strings.Join(names, " and ")))
	}
	return nil, api.E("", api.Unsupported, "", fmt.Errorf("no root filesystem is found on the disk: %s", strings.Join(strange, "; ")))
}

// typedAlone returns the one root that the partition table says is the root, or all. The
// others are unmounted.
func typedAlone(roots []*candidate) []*candidate {
	var typed []*candidate
	for _, c := range roots {
		if c.typed {
			typed = append(typed, c)
		}
	}
	if len(typed) != 1 {
		return roots
	}
	for _, c := range roots {
		if c != typed[0] {
			_ = unix.Unmount(c.dir, unix.MNT_DETACH)
		}
	}
	return typed
}

// candidates lists what on a disk has a filesystem that this machine reads, and says of
// what else it has.
func candidates(device string) (list []candidate, strange []string, err error) {
	partitions, err := partitionsOf(device)
	if err != nil {
		return nil, nil, err
	}
	if len(partitions) == 0 {
		partitions = []candidate{{device: device}}
	}
	for _, c := range partitions {
		if c.kind, err = probe(c.device); err != nil {
			return nil, nil, err
		}
		switch way, odd := containers[c.kind]; {
		case odd:
			strange = append(strange, c.name()+" "+way)
		case c.kind == "":
			strange = append(strange, c.name()+" has no ext4, XFS or btrfs")
		default:
			list = append(list, c)
		}
	}
	return list, strange, nil
}

// partitionsOf lists a disk's partitions as the kernel has found them, with what a GPT
// says they are for.
func partitionsOf(device string) ([]candidate, error) {
	name := filepath.Base(device)
	types := gptTypes(device)
	var list []candidate
	for number := 1; number <= gptEntries; number++ {
		dir := filepath.Join("/sys/class/block", name, name+strconv.Itoa(number))
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		list = append(list, candidate{device: "/dev/" + filepath.Base(dir), number: number, typed: rootTypes[types[number]]})
	}
	return list, nil
}

// rootTypes are the types of partitions that hold the root of x86-64 and arm64, as GPT
// stores them (The Discoverable Partitions Specification).
var rootTypes = map[string]bool{
	"\xe3\xbc\x68\x4f\xcd\xe8\xb1\x4d\x96\xe7\xfb\xca\xf9\x84\xb7\x09": true, // 4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709
	"\x45\xb0\x21\xb9\xf0\x1d\xc3\x41\xaf\x44\x4c\x6f\x28\x0d\x3f\xae": true, // B921B045-1DF0-41C3-AF44-4C6F280D3FAE
}

// gptTypes returns the types of a GPT's partitions by their numbers; none without one.
func gptTypes(device string) map[int]string {
	types := map[int]string{}
	file, err := os.Open(device)
	if err != nil {
		return types
	}
	defer file.Close()
	header := make([]byte, sectorSize)
	if _, err := file.ReadAt(header, sectorSize); err != nil || !strings.HasPrefix(string(header), gptSignature) {
		return types
	}
	entries, err := readGPT(file, header)
	if err != nil {
		return types
	}
	size := int(binary.LittleEndian.Uint32(header[84:]))
	for i := 0; (i+1)*size <= len(entries); i++ {
		types[i+1] = string(entries[i*size:][:16])
	}
	return types
}

// magics are how filesystems, and what is none, begin.
var magics = []struct {
	at         int
	text, kind string
}{
	{0, "XFSB", "xfs"}, {1080, "\x53\xef", "ext4"}, {65600, "_BHRfS_M", "btrfs"},
	{0, "LUKS\xba\xbe", "luks"}, {512, "LABELONE", "lvm"}, {0, "LABELONE", "lvm"}, {1024, "LABELONE", "lvm"}, {4096, "\xfc\x4e\x2b\xa9", "md"},
}

// containers are what has filesystems in it that this machine does not look for.
var containers = map[string]string{
	"luks": "is encrypted (LUKS)",
	"lvm":  "belongs to LVM, whose volumes are not looked for: copy the root volume to a partition of a disk of its own",
	"md":   "belongs to a RAID of Linux, which is not put together",
}

// probe returns what a device begins as, "" where that is unknown.
func probe(device string) (string, error) {
	file, err := os.Open(device)
	if err != nil {
		return "", err
	}
	defer file.Close()
	head := make([]byte, 68<<10)
	n, err := io.ReadFull(file, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return "", err
	}
	for _, m := range magics {
		if strings.HasPrefix(string(head[min(m.at, n):n]), m.text) {
			return m.kind, nil
		}
	}
	return "", nil
}

func (c *candidate) name() string {
	if c.number == 0 {
		return "the disk"
	}
	return "partition " + strconv.Itoa(c.number)
}

// mount mounts the candidate read-only, out of any path that the disk could lead to.
func (c *candidate) mount() error {
	dir, err := os.MkdirTemp("/", "disk-")
	if err != nil {
		return err
	}
	c.dir = dir
	err = unix.Mount(c.device, dir, c.kind, unix.MS_RDONLY|noSetuid, "")
	switch {
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES):
		// A journal to be replayed, for which the disk would have to be written to.
		return errors.New("it was not unmounted: start a machine from the disk, stop it, and convert what berth commit makes of it")
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("the guest's kernel knows no %s", c.kind)
	}
	return os.NewSyscallError("mount", err)
}

// inits are where kernels and people look for the first program.
var inits = []string{"sbin/init", "usr/sbin/init", "etc/init", "bin/init", "lib/systemd/systemd", "usr/lib/systemd/systemd"}

// isRoot reports whether the mounted filesystem is one that a system starts from, and
// finds its init. A link that leads out of it leads into this machine, which has neither.
func (c *candidate) isRoot() bool {
	has := func(name string) bool {
		_, err := os.Lstat(filepath.Join(c.dir, name))
		return err == nil
	}
	for _, name := range inits {
		if has(name) {
			c.init = "/" + name
			return true
		}
	}
	return has("etc/os-release") || has("usr/lib/os-release") || has("bin/sh") || has("usr/bin/sh")
}
