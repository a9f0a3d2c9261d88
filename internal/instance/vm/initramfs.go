package vm

import (
	"errors"
	"io"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/disk"
)

// drivers are what of a machine its guest's initramfs depends on.
type drivers struct {
	full bool
	disk api.DiskBus
	nic  api.NICModel
	show string // the display's, or ""

	watched, watchdog bool // it tells of a panic; it has a watchdog
}

func driversOf(m api.Machine) drivers {
	d := drivers{full: m.Virtualization == api.VirtFull, disk: m.DiskBus, nic: m.NICModel}
	if m.Graphics {
		d.show = displayModules[m.Type]
	}
	d.watched, d.watchdog = m.OnCrash != "", m.Watchdog
	return d
}

// virtual reports whether all devices are virtio.
func (d drivers) virtual() bool {
	return !d.full && d.disk == api.DiskVirtio && d.nic == api.NICVirtio
}

// modules of devices, by what a user calls them.
var (
	diskModules = map[api.DiskBus][]string{
		api.DiskVirtio: {"virtio_blk"}, api.DiskAHCI: {"ahci", "sd_mod"}, api.DiskIDE: {"ata_piix", "sd_mod"},
	}
	nicModules = map[api.NICModel][]string{
		api.NICVirtio: {"virtio_net"}, api.NICE1000: {"e1000"}, api.NICE1000E: {"e1000e"}, api.NICRTL8139: {"8139cp"},
	}
)

// crash are what tells of a crash.
func (d drivers) crash() (names []string) {
	if d.watched {
		names = append(names, "pvpanic_pci")
	}
	if d.watchdog {
		names = append(names, "i6300esb")
	}
	return names
}

// displayModules are what shows text on a board's display. The kernel's own VGA
// console needs what only a BIOS's boot sector tells it.
var displayModules = map[api.MachineType]string{api.MachineQ35: "bochs", api.MachinePC: "bochs", api.MachineVirt: "virtio_gpu"}

// sets returns the modules of a guest with the drivers.
func (d drivers) sets() []disk.ModuleSet {
	// libcrc32c, which erofs and ext4 need, asks the kernel for crc32c by a name
	// that nobody here looks up.
	sets := []disk.ModuleSet{
		{Name: "pci", Names: []string{"[virtio_pci]"}},
		{Name: "boot", Names: append([]string{"virtio_mmio", "virtio_console", "[crc32c_generic]", "erofs", "overlay", "ext4"}, diskModules[d.disk]...)},
		{Name: "net", Names: nicModules[d.nic]},
		{Name: "share", Names: []string{"[virtiofs]"}},
		{Name: "late", Names: []string{"[virtio_rng]", "[virtio_balloon]"}},
	}
	if d.full { // nothing virtio
		sets[0].Names, sets[3].Names, sets[4].Names = nil, nil, nil
		sets[1].Names = sets[1].Names[2:]
	}
	if d.show != "" {
		sets[4].Names = append(sets[4].Names, d.show)
	}
	// They are on PCI, and wanted before anything can crash.
	sets[0].Names = append(sets[0].Names, d.crash()...)
	return sets
}

// writeInitramfs writes the file system that a guest starts from.
func writeInitramfs(w io.Writer, agentPath string, modules *disk.Modules, d drivers) error {
	err := disk.Initramfs{Agent: agentPath, Modules: modules, Sets: d.sets(), Dirs: []string{"l", "disk", "root"}}.Write(w)
	if missing, ok := errors.AsType[*disk.MissingModuleError](err); ok {
		return unsupported("it has no driver %s, which the machine needs: name another with --kernel, as kernel/debian-standard", missing.Name)
	}
	return err
}
