package image

import "fmt"

// grubEarly is what GRUB does first, from either firmware; the root filesystem has
// the rest, where its user finds it: of the UUID, in the directory.
const grubEarly = `serial --unit=0 --speed=115200
terminal_input serial console
terminal_output serial console
search --no-floppy --fs-uuid --set=root %[1]s
set prefix=($root)%[2]s
configfile %[2]s/grub.cfg
`

// diskEarly are files that the kernel's package is installed with. The initramfs has
// the drivers of every disk that a machine of QEMU's can have, and those that the agent
// waits for: udev on an emulated processor takes its time. It has no others.
var diskEarly = map[string]string{
	"etc/initramfs-tools/conf.d/berth":          "MODULES=list\n",
	"usr/share/initramfs-tools/modules.d/berth": "virtio_pci\nvirtio_mmio\nvirtio_blk\nvirtio_scsi\nahci\nata_piix\nsd_mod\nsr_mod\nnvme\next4\nvirtio_net\nvirtio_console\n",
}

// menu is GRUB's configuration: it starts one kernel at once, with a serial console.
func (b *diskBuild) menu(kernel, initrd, args string) string {
	return fmt.Sprintf(`set timeout=0
menuentry "%[1]s" {
	linux %[1]s %[3]s console=tty0 console=ttyS0,115200 net.ifnames=0 quiet
	initrd %[2]s
}
`, kernel, initrd, args)
}

func (b *diskBuild) fstab() string {
	return fmt.Sprintf("UUID=%s / ext4 defaults,errors=remount-ro,x-systemd.growfs 0 1\n", b.uuid)
}

// growRootPartition is repart.d(5): the root partition takes what the disk has.
const growRootPartition = "[Partition]\nType=root\n"

// The agent as a service of systemd's.
const (
	agentUnit    = "etc/systemd/system/berth-agent.service"
	agentWanted  = "etc/systemd/system/sysinit.target.wants/berth-agent.service"
	agentService = `[Unit]
Description=Berth's guest agent
Documentation=https://github.com/berthcloud/berth
# As early as it can be told what the machine is to be.
DefaultDependencies=no
After=systemd-remount-fs.service systemd-udev-trigger.service local-fs.target
Before=network.target network-online.target shutdown.target
Conflicts=shutdown.target

[Service]
ExecStart=/usr/local/sbin/berth-agent
Restart=on-failure
RestartSec=5
# What berth exec runs lives on when the agent is replaced.
KillMode=process
OOMScoreAdjust=-900

[Install]
WantedBy=sysinit.target
`
)

// files are those of the root filesystem that make it this machine's. A content that
// begins with an arrow is a symbolic link.
func (b *diskBuild) files() map[string]string {
	return map[string]string{
		// The links /vmlinuz and /initrd.img follow the newest kernel: what upgrades
		// it need not know of GRUB.
		"boot/grub/grub.cfg":        b.menu("/vmlinuz", "/initrd.img", "root=UUID="+b.uuid+" ro"),
		"etc/fstab":                 b.fstab(),
		"etc/repart.d/50-root.conf": growRootPartition,
		"etc/machine-id":            "", // made at the first boot
		agentUnit:                   agentService,
		// It looks for snapshots of LVM, which is not here, for half a minute on an
		// emulated processor.
		"etc/systemd/system/e2scrub_reap.service": "-> /dev/null",
		agentWanted: "-> /" + agentUnit,
	}
}
