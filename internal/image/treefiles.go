package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/agent"
	"github.com/berthcloud/berth/internal/disk"
)

// agentName is the file of the guest agent, wherever it lies.
const agentName = "berth-agent"

// cutLink returns the target of a content that stands for a symbolic link.
func cutLink(content string) (target string, link bool) { return strings.CutPrefix(content, "-> ") }

// files are what a disk has beside the image's own files, as diskBuild.files are.
func (b *treeDisk) files(ctx context.Context) (map[string]string, error) {
	files := map[string]string{}
	program := b.store.opt.Agents[b.Base.Arch]
	if b.ownKernel() {
		b.own(files)
		if b.has.systemd {
			agent, err := os.ReadFile(program)
			if err != nil {
				return nil, fmt.Errorf("the guest agent is not installed: %w", err)
			}
			files["usr/local/sbin/"+agentName] = string(agent)
		}
	} else if err := b.lent(ctx, files, program); err != nil {
		return nil, err
	}
	if !b.startsInit() {
		return files, nil
	}
	files["etc/machine-id"] = "" // made at the first boot
	if !b.has.fstab {
		files["etc/fstab"] = b.fstab()
	}
	if b.has.systemd {
		files["etc/repart.d/50-root.conf"] = growRootPartition
	}
	return files, nil
}

// own are the files of a disk that starts the image's kernel.
func (b *treeDisk) own(files map[string]string) {
	files[bootFile("grub.cfg")] = b.menu(b.has.kernel, b.has.initrd, "root=UUID="+b.uuid+" rw")
	if b.has.systemd {
		files[agentUnit], files[agentWanted] = agentService, "-> /"+agentUnit
	}
}

// lent are the files of a disk that starts Berth's kernel, with the agent in front of
// what it is for.
func (b *treeDisk) lent(ctx context.Context, files map[string]string, program string) error {
	start := agent.Disk{Root: b.uuid}
	if b.startsInit() {
		if start.Init = b.has.init; start.Init == "" {
			return api.E("", api.Invalid, "", errors.New("it has no init that a disk could start: leave --init out, and it starts the image's command"))
		}
	} else {
		var err error
		if start.Process, start.StopSignal, err = b.Process(); err != nil {
			return err
		}
	}
	k, err := b.Kernel(ctx)
	if err != nil {
		return err
	}
	if k.Vmlinuz == "" {
		return api.E("", api.Conflict, k.Name, errors.New("it was made before it could be put on a disk: make it anew with berth kernel bootstrap"))
	}
	kernel, err := os.ReadFile(k.Vmlinuz)
	if err != nil {
		return err
	}
	told, err := start.Encode()
	if err != nil {
		return err
	}
	modules, err := disk.OpenModules(os.DirFS(k.Modules))
	if err != nil {
		return err
	}
	var initrd bytes.Buffer
	err = disk.Initramfs{
		Agent: program, Modules: modules, Sets: []disk.ModuleSet{{Name: agent.SetDisk, Names: diskDrivers}},
		Dirs: []string{"root"}, Files: map[string][]byte{agent.DiskFile: told},
	}.Write(&initrd)
	if err != nil {
		return err
	}
	files[bootFile("vmlinuz")], files[bootFile("initrd")] = string(kernel), initrd.String()
	files[bootFile("grub.cfg")] = b.menu(agent.BootDir+"/vmlinuz", agent.BootDir+"/initrd", agent.DiskArg+"=1 panic=10")
	return nil
}

// diskDrivers are the modules of a machine that starts Berth's kernel from a disk:
// whatever bus that is on, wherever it runs. Those in brackets a kernel may lack.
var diskDrivers = []string{
	"[virtio_pci]", "[virtio_mmio]", "virtio_blk", "[virtio_scsi]", "[ahci]", "[ata_piix]", "[nvme]", "[sd_mod]", "[sr_mod]",
	"[crc32c_generic]", "ext4", "virtio_net", "[e1000]", "[e1000e]", "[virtio_console]", "[virtio_rng]",
	"[vfat]", "[nls_cp437]", "[nls_ascii]", "[nls_iso8859_1]", "[nls_utf8]", "[virtiofs]",
}

// bootFile is the name of a file in agent.BootDir.
func bootFile(name string) string { return path.Join(strings.TrimPrefix(agent.BootDir, "/"), name) }
