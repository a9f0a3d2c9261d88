package agent

import (
	"encoding/json"
	"fmt"
)

// A disk that Berth has made of an image without a kernel has a kernel of Berth's, and an
// initramfs with the agent:
//
//	firmware ─▶ GRUB ─▶ kernel ─▶ agent ─▶ root filesystem ─▶ its init, or the image's command
const (
	// DiskArg is a variable that the kernel passes to process 1 there.
	DiskArg = "BERTH_DISK"
	// DiskFile is an encoded Disk, in the root of the initramfs.
	DiskFile = "disk.json"
	// SetDisk is the set of modules that such a machine loads.
	SetDisk = "disk"
	// BootDir is what such a disk has for GRUB: kernel, initramfs and configuration.
	BootDir = "/boot/berth"
)

// Disk is what is to be started of a disk.
type Disk struct {
	Root       string  `json:"root"`           // UUID of the ext4 filesystem
	Init       string  `json:"init,omitempty"` // the program that becomes process 1; "" for Process
	Process    Process `json:"process,omitzero"`
	StopSignal int     `json:"stop_signal,omitempty"` // to Process, when the machine is to end
}

// Encode returns the file.
func (d Disk) Encode() ([]byte, error) { return json.Marshal(d) }

// DecodeDisk reads the file.
func DecodeDisk(data []byte) (d Disk, err error) {
	if err := json.Unmarshal(data, &d); err != nil {
		return d, fmt.Errorf("what is to be started of the disk: %w", err)
	}
	return d, nil
}
