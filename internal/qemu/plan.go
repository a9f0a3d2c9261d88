package qemu

import (
	"encoding/json"
	"slices"
	"strconv"
)

// MachineType is a board that QEMU emulates.
type MachineType string

// The boards in use.
const (
	// MicroVM has virtio-mmio devices and no PCI: the fastest start.
	MicroVM MachineType = "microvm"
	// Q35 has PCI: any number of devices, kernels without virtio-mmio.
	Q35 MachineType = "q35"
	// PC is the board of 1996, with PCI, ISA and IDE: for guests that know no other.
	PC MachineType = "pc"
	// Virt is QEMU's own board of arm64, with PCI.
	Virt MachineType = "virt"
)

// Firmware is what runs before the guest's kernel.
type Firmware string

// The firmwares.
const (
	// NoFirmware starts the kernel with the least that the board can do with.
	NoFirmware Firmware = "none"
	// BIOS is SeaBIOS.
	BIOS Firmware = "bios"
	// UEFI is EDK II (OVMF, and of arm64 AAVMF), with variables of the machine's own.
	UEFI Firmware = "uefi"
)

// DiskBus is what a guest reaches a disk by.
type DiskBus string

// The buses of disks.
const (
	VirtioDisk DiskBus = "virtio"
	AHCI       DiskBus = "ahci" // a SATA controller on PCI
	IDE        DiskBus = "ide"  // the two channels of PC
)

// The most disks on one controller.
const (
	maxAHCI = 6
	maxIDE  = 4
)

// NICModel is the network card that a guest sees.
type NICModel string

// The network cards.
const (
	VirtioNIC NICModel = "virtio"
	E1000     NICModel = "e1000"
	E1000E    NICModel = "e1000e"
	RTL8139   NICModel = "rtl8139"
)

// maxMMIO is how many devices a microvm takes: some of its 24 virtio-mmio
// slots have interrupts that Linux 6.1 does not get.
const maxMMIO = 16

// Machine is a wanted virtual machine. Paths are the host's.
type Machine struct {
	QEMU   string // the program
	Name   string // shown in the process list
	Type   MachineType
	KVM    bool
	CPU    string // model, as QEMU names it, with its features
	CPUs   int
	Memory int64 // bytes

	// Mergeable lets the host's kernel keep pages once that are equal (KSM), where it
	// does that. QEMU's default lets it. But a guest that writes to such a page waits
	// longer, and so can find out what other guests have in their memory
	// (CVE-2015-2877), and with memory that does not hold its bits change it.
	Mergeable bool

	// MaxCPUs and MaxMemory are how far a machine on Q35 can grow while it runs, by
	// AddCPUs and AddMemory; 0 where it cannot.
	MaxCPUs   int
	MaxMemory int64 // bytes

	Kernel  string // "": the firmware starts what a disk holds
	Initrd  string
	Cmdline string

	Firmware Firmware
	UEFICode string // of UEFI: its program, read only
	UEFIVars string // of UEFI: an existing file for its variables
	Reboots  bool   // the guest may start itself anew; else its reboot is the end
	// Full leaves out every paravirtual device: ports are serial lines, there is
	// a VGA card where the board has one, and neither a balloon nor a random
	// number device.
	Full bool
	// Graphics adds a display, which Screenshot and VNC clients see, with a keyboard
	// and a tablet on USB.
	Graphics bool
	// LocalTime has the board's clock show the host's local time, and make up for ticks
	// that came too late, as systems want that were made for PCs. Zone is the file of
	// the host's time zone; "" for UTC.
	LocalTime bool
	Zone      string
	// TPM is the socket of the swtpm that is the machine's TPM 2.0; "" for none.
	TPM string
	// Events is the socket of a monitor to be listened to (Await); "" for none.
	Events string
	// Crashes has a guest tell of its kernel's panic (pvpanic), which then stops the
	// machine's processors. Watchdog adds a watchdog to that.
	Crashes, Watchdog bool

	// GenerationID is a device by which a guest's kernel learns that it goes on from where
	// another machine may go on too: each start of QEMU has another one. It takes ACPI.
	GenerationID bool

	// Template makes this machine a template or a copy of one; nil for neither.
	Template *Template
	// Incoming starts the machine without anything in it: Monitor.LoadAll fills it with
	// what SaveAll saved of one that was laid out alike.
	Incoming bool

	Disks  []Disk
	Ports  []Port
	NICs   []NIC
	Shares []Share

	// MaxFile is how large a file QEMU may make, in bytes: what a guest writes
	// to a port with a file would fill the host's disk else.
	MaxFile int64

	QMP     string // socket that the machine is driven by
	Console string // socket of the serial console; "" for QEMU's own input and output
	UID     uint32 // that QEMU runs as; 0 for root
}

// Template makes a machine one that others begin as copies of, without a boot of their
// own, or such a copy.
type Template struct {
	// RAM is a file of Memory bytes, which QEMU's user may read and write; "" where an
	// Incoming copy brings all of its memory along.
	RAM string
	// Copy is for the copies: Monitor.Load begins them, and what they write to
	// their memory stays their own. The template's own memory is the file, which
	// Monitor.Save leaves whole.
	Copy bool
}

// DiskFormat says how a disk's file is to be read. There is no "auto".
type DiskFormat string

// The formats of a disk.
const (
	Raw  DiskFormat = "raw"
	VMDK DiskFormat = "vmdk" // a descriptor whose extents are named by ExtentName
	Null DiskFormat = "null" // no file at all: the place of a disk in a template
)

// Disk is a block device.
type Disk struct {
	Path      string
	Bus       DiskBus
	Format    DiskFormat
	ReadOnly  bool
	Transient bool     // its content need not survive the host: flushes do nothing
	Serial    string   // by which the guest finds it, at most 20 bytes
	Extents   []string // VMDK: the files of the descriptor, by their number
	// BootIndex says when the firmware tries it: from 1 on; 0 for never.
	BootIndex int
	CDROM     bool // a drive with a disc in it, on AHCI or IDE
	// Overlay is an existing qcow2 file that takes what the guest writes to a
	// read-only disk: an IDE or SATA disk is always writable, and so is the disk of
	// an image. It names no backing file: that is this disk.
	Overlay string
	// Size is how large a disk without a file seems to be, in bytes: a guest that has
	// seen it does not look again when it goes on as a copy, with a file of that size.
	Size int64
}

// ExtentName is what the descriptor of the disk with the given number calls
// its i-th extent: the set of descriptors in which QEMU finds the opened file.
func ExtentName(disk, i int) string { return "/dev/fdset/" + strconv.Itoa(extentSet(disk, i)) }

func extentSet(disk, i int) int { return (disk+1)*1000 + i }

// Port is a port of virtio-serial, or of a full machine a serial line. One of Socket
// and File is set, or in a template and its copies neither: nothing is connected then.
type Port struct {
	Number int
	Slot   int // full machines: of the serial line on PCI
	Name   string
	Socket string // the host side listens here
	File   string // existing; what the guest writes is appended
}

// NIC is a network interface on an existing tap device.
type NIC struct {
	Tap   string // "" in a template: the place of an interface
	MAC   string
	Model NICModel
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
	// MaxMemory and MaxTime bound a program that is not held by a cgroup: RLIMIT_AS in
	// bytes, RLIMIT_CPU in seconds; 0 for no limit of its own.
	MaxMemory int64    `json:"max_memory,omitempty"`
	MaxTime   int64    `json:"max_time,omitempty"`
	Devices   []string `json:"devices,omitempty"` // QEMU opens them itself and so joins their groups
	Shown     []Shown  `json:"shown,omitempty"`   // that QEMU opens by name
	Program   []Shown  `json:"program,omitempty"` // QEMU's own files, which depend on the host: see Needs
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
	b.uefi()
	b.monitor()
	b.ports()
	b.disks()
	b.nics()
	b.shares()
	b.tpm()
	b.events()
	b.helpers()
	b.generation()
	return b.plan, nil
}

// Moved returns the machine with each of its files where to says.
func (m Machine) Moved(to func(path string) string) Machine {
	for _, path := range []*string{&m.UEFICode, &m.UEFIVars, &m.TPM, &m.Events, &m.QMP, &m.Console} {
		*path = to(*path)
	}
	m.Disks, m.Ports, m.Shares = slices.Clone(m.Disks), slices.Clone(m.Ports), slices.Clone(m.Shares)
	for i := range m.Disks {
		d := &m.Disks[i]
		d.Path, d.Overlay, d.Extents = to(d.Path), to(d.Overlay), slices.Clone(d.Extents)
		for k := range d.Extents {
			d.Extents[k] = to(d.Extents[k])
		}
	}
	for i := range m.Ports {
		m.Ports[i].Socket, m.Ports[i].File = to(m.Ports[i].Socket), to(m.Ports[i].File)
	}
	for i := range m.Shares {
		m.Shares[i].Socket = to(m.Shares[i].Socket)
	}
	return m
}

// Encode returns the plan as Launch reads it.
func (p *Plan) Encode() ([]byte, error) { return json.MarshalIndent(p, "", "  ") }

// pci reports whether the board has PCI.
func (m *Machine) pci() bool { return m.Type != MicroVM }

// devices counts virtio devices: those listed, and serial, random numbers, balloon.
func (m *Machine) devices() int { return len(m.Disks) + len(m.NICs) + len(m.Shares) + 3 }

// FitsMicroVM reports whether the machine has few enough devices for MicroVM.
func (m *Machine) FitsMicroVM() bool { return m.devices() <= maxMMIO }
