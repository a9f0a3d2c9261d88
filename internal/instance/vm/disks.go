package vm

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/qemu"
)

// maxSerial is how long a virtio disk's serial number can be, in bytes.
const maxSerial = 20

// diskSerial is the serial number of a further disk, by which a guest finds it: its
// name, or where that is too long or one of Berth's own, a digest of it.
func diskSerial(name string) string {
	if len(name) <= maxSerial && !strings.HasPrefix(name, "berth-") {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:maxSerial/2])
}

// furtherDisks are the volumes that are disks, in the order of the mounts. They are raw,
// whatever a guest writes to their beginning.
func furtherDisks(p *instance.Prepared, chosen api.Machine) (disks []qemu.Disk, err error) {
	bus := qemu.DiskBus(chosen.DiskBus)
	for _, m := range p.Mounts {
		if m.Type != api.MountDisk {
			continue
		}
		if m.ReadOnly && bus != qemu.VirtioDisk {
			return nil, api.E("", "", p.Spec.Name, unsupported("the disk %s: one on %s cannot be read-only; leave readonly out, or choose --disk-bus virtio", m.Name, bus))
		}
		disks = append(disks, qemu.Disk{Path: m.Source, Bus: bus, Format: qemu.Raw, ReadOnly: m.ReadOnly, Serial: diskSerial(m.Name)})
	}
	return disks, nil
}
