package qemu

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// MachineType is a board that QEMU emulates.
type MachineType string

// The boards in use.
const (
	// MicroVM has virtio-mmio devices and no PCI: the fastest start.
	MicroVM MachineType = "microvm"
	// Q35 has PCI: any number of devices, kernels without virtio-mmio.
	Q35 MachineType = "q35"
)

// maxMMIO is how many devices a microvm takes: some of its 24 virtio-mmio
// slots have interrupts that Linux 6.1 does not get.
const maxMMIO = 16

// Machine is a wanted virtual machine. Paths are the host's.
type Machine struct {
	QEMU    string // the program
	Name    string // shown in the process list
	Type    MachineType
	KVM     bool
	CPUs    int
	Memory  int64 // bytes
	Kernel  string
	Initrd  string
	Cmdline string

	Disks  []Disk
	Ports  []Port
	NICs   []NIC
	Shares []Share

	// MaxFile is how large a file QEMU may make, in bytes: what a guest writes
	// to a port with a file would fill the host's disk else.
	MaxFile int64

	QMP string // socket that the machine is driven by
	UID uint32 // that QEMU runs as; 0 for root
}

// DiskFormat says how a disk's file is to be read. There is no "auto".
type DiskFormat string

// The formats of a disk.
const (
	Raw  DiskFormat = "raw"
	VMDK DiskFormat = "vmdk" // a descriptor whose extents are named by ExtentName
)

// Disk is a virtio block device.
type Disk struct {
	Path     string
	Format   DiskFormat
	ReadOnly bool
	Serial   string   // by which the guest finds it, at most 20 bytes
	Extents  []string // VMDK: the files of the descriptor, by their number
}

// ExtentName is what the descriptor of the disk with the given number calls
// its i-th extent: the set of descriptors in which QEMU finds the opened file.
func ExtentName(disk, i int) string { return "/dev/fdset/" + strconv.Itoa(extentSet(disk, i)) }

func extentSet(disk, i int) int { return (disk+1)*1000 + i }

// Port is a virtio-serial port. Exactly one of Socket and File is set.
type Port struct {
	Number int
	Name   string
	Socket string // the host side listens here
	File   string // existing; what the guest writes is appended
}

// NIC is a virtio network interface on an existing tap device.
type NIC struct {
	Tap string
	MAC string
}

// Share is a virtiofs directory, served by virtiofsd on a socket.
type Share struct {
	Tag    string
	Socket string
}

// Plan is what Launch carries out. It is plain data that golden tests hold and
// that travels as JSON.
type Plan struct {
	Args    []string `json:"args"`
	Files   []File   `json:"files"`
	Sockets []Socket `json:"sockets"`
	Connect []Socket `json:"connect,omitempty"`
	Taps    []Tap    `json:"taps,omitempty"`
	UID     uint32   `json:"uid,omitempty"`
	MaxFile int64    `json:"max_file,omitempty"` // RLIMIT_FSIZE, 0 for no limit of its own
	Devices []string `json:"devices,omitempty"`  // QEMU opens them itself and so joins their groups
}

// File is opened for QEMU.
type File struct {
	FD   int    `json:"fd"`
	Path string `json:"path"`
	Mode string `json:"mode"` // r, a (append) or rw
}

// Socket is a unix socket: one of Plan.Sockets is made and listens, one of
// Plan.Connect exists and is connected to.
type Socket struct {
	FD   int    `json:"fd"`
	Path string `json:"path"`
}

// Tap is a tap device, attached for QEMU.
type Tap struct {
	FD   int    `json:"fd"`
	Name string `json:"name"`
}

// firstFD is the lowest descriptor handed over; the launcher's own are below it.
const firstFD = 20

// NewPlan plans a machine. It is a pure function.
func NewPlan(m Machine) (*Plan, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	b := builder{m: m, next: firstFD, plan: &Plan{UID: m.UID, MaxFile: m.MaxFile}}
	b.board()
	b.boot()
	b.monitor()
	b.ports()
	b.disks()
	b.nics()
	b.shares()
	b.helpers()
	return b.plan, nil
}

// Encode returns the plan as Launch reads it.
func (p *Plan) Encode() ([]byte, error) { return json.MarshalIndent(p, "", "  ") }

// check refuses what QEMU would misread: a comma ends an option's value.
func (m *Machine) check() error {
	texts := []string{m.Name, m.QMP}
	for _, d := range m.Disks {
		if d.Format != Raw && d.Format != VMDK {
			return fmt.Errorf("disk %s: the format %q is not raw or vmdk", d.Path, d.Format)
		}
		if len(d.Serial) > 20 {
			return fmt.Errorf("disk %s: the serial number %s is longer than 20 bytes", d.Path, d.Serial)
		}
		texts = append(texts, d.Serial)
	}
	for _, p := range m.Ports {
		if (p.Socket == "") == (p.File == "") {
			return fmt.Errorf("port %s: needs a socket or a file", p.Name)
		}
		texts = append(texts, p.Name)
	}
	for _, n := range m.NICs {
		texts = append(texts, n.MAC, n.Tap)
	}
	for _, s := range m.Shares {
		texts = append(texts, s.Tag, s.Socket)
	}
	for _, text := range texts {
		if strings.ContainsAny(text, ",\n\x00") {
			return fmt.Errorf("%q: a comma or line break cannot stand in QEMU's options", text)
		}
	}
	switch {
	case m.QEMU == "":
		return errors.New("no QEMU for this machine's architecture")
	case m.CPUs < 1:
		return fmt.Errorf("a machine has at least one processor, not %d", m.CPUs)
	case m.Memory < 1<<20:
		return fmt.Errorf("a machine of %d bytes of memory cannot run", m.Memory)
	case m.Type == MicroVM && m.devices() > maxMMIO:
		return fmt.Errorf("a microvm takes at most %d devices, not %d", maxMMIO, m.devices())
	case m.Type != MicroVM && m.Type != Q35:
		return fmt.Errorf("unknown machine type %q", m.Type)
	}
	return nil
}

// devices counts virtio devices: those listed, and serial, random numbers, balloon.
func (m *Machine) devices() int { return len(m.Disks) + len(m.NICs) + len(m.Shares) + 3 }

// FitsMicroVM reports whether the machine has few enough devices for MicroVM.
func (m *Machine) FitsMicroVM() bool { return m.devices() <= maxMMIO }
