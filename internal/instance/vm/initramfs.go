package vm

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/disk"
)

// moduleSet are kernel modules that agent/guest loads at one time. A module in
// brackets may be missing from a kernel.
type moduleSet struct {
	name  string
	names []string
}

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
func (d drivers) sets() []moduleSet {
	// libcrc32c, which erofs and ext4 need, asks the kernel for crc32c by a name
	// that nobody here looks up.
	sets := []moduleSet{
		{"pci", []string{"[virtio_pci]"}},
		{"boot", append([]string{"virtio_mmio", "virtio_console", "[crc32c_generic]", "erofs", "overlay", "ext4"}, diskModules[d.disk]...)},
		{"net", nicModules[d.nic]},
		{"share", []string{"[virtiofs]"}},
		{"late", []string{"[virtio_rng]", "[virtio_balloon]"}},
	}
	if d.full { // nothing virtio
		sets[0].names, sets[3].names, sets[4].names = nil, nil, nil
		sets[1].names = sets[1].names[2:]
	}
	if d.show != "" {
		sets[4].names = append(sets[4].names, d.show)
	}
	// They are on PCI, and wanted before anything can crash.
	sets[0].names = append(sets[0].names, d.crash()...)
	return sets
}

// writeInitramfs writes the file system a guest starts from: the agent as
// /init, the modules, and the directories the agent mounts on. It is not
// compressed: unpacking would cost the guest more than reading.
func writeInitramfs(w io.Writer, agentPath string, modules *disk.Modules, d drivers) error {
	agent, err := os.Open(agentPath)
	if err != nil {
		return err
	}
	defer agent.Close()
	info, err := agent.Stat()
	if err != nil {
		return err
	}
	c := disk.NewCpio(w)
	for _, dir := range []string{"dev", "proc", "sys", "l", "disk", "root", "modules"} {
		c.Dir(dir, 0o755)
	}
	// The kernel opens it for process 1 before there is a devtmpfs.
	c.Char("dev/console", 0o600, 5, 1)
	c.File("init", 0o755, agent, info.Size())
	written := map[string]bool{}
	for _, set := range d.sets() {
		var wanted []string
		for _, name := range set.names {
			optional := strings.HasPrefix(name, "[")
			name = strings.Trim(name, "[]")
			switch {
			case modules.Has(name):
				wanted = append(wanted, name)
			case !optional:
				return unsupported("it has no driver %s, which the machine needs: name another with --kernel, as kernel/debian-standard", name)
			}
		}
		order, err := modules.Order(wanted...)
		if err != nil {
			return fmt.Errorf("guest kernel: %w", err)
		}
		var list bytes.Buffer
		for _, module := range order {
			fmt.Fprintln(&list, module.Name)
			if !written[module.Name] {
				written[module.Name] = true
				c.File("modules/"+module.Name+".ko", 0o644, bytes.NewReader(module.Data), int64(len(module.Data)))
			}
		}
		c.File("modules/"+set.name, 0o644, &list, int64(list.Len()))
	}
	return c.Close()
}
