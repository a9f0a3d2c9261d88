package vm

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// emulatedCPU is the processor that is emulated where none is named.
//
// Of amd64 it is x86-64-v2, which distributions begin to demand, with a random
// number generator, without which Linux waits for entropy, and a timer that goes on
// while the processor rests (ARAT), without which Linux lets it tick 250 times a second.
// "max" boots slower, and on arm64 it takes seconds more.
var emulatedCPU = map[string]string{
	"amd64": "qemu64,+cx16,+lahf-lm,+popcnt,+ssse3,+sse4.1,+sse4.2,+rdrand,+arat",
	"arm64": "cortex-a57",
}

// hostCPU is the model that is the host's own processor.
const hostCPU = "host"

// emulators are Debian's packages of the system emulators.
var emulators = map[string]string{"amd64": "qemu-system-x86", "arm64": "qemu-system-arm"}

// archOf is the architecture of a guest.
func archOf(p *instance.Prepared, host instance.Host) string {
	if p.Arch == "" {
		return host.Arch
	}
	return p.Arch
}

// unsupported is the error of a choice that cannot work here.
func unsupported(format string, args ...any) error {
	return api.E("", api.Unsupported, "", fmt.Errorf(format, args...))
}

// choose decides all of a machine that its specification leaves open, and
// refuses what does not fit together. It is a pure function.
//
//	              hardware    para        full
//	processor     host        emulated    emulated
//	machine       microvm     microvm     q35
//	disks         virtio      virtio      AHCI
//	network       virtio      virtio      e1000
//	ports         virtio      virtio      serial lines
//
// A disk or card that is asked for otherwise, a display, a TPM or a crash policy takes
// a board with PCI; a guest of arm64 has only one board.
func choose(p *instance.Prepared, host instance.Host) (api.Machine, error) {
	want, arch := p.Spec.VM, archOf(p, host)
	firmware := chooseFirmware
	if image := p.Rootfs.Image; image != nil {
		if firmware = chooseBoot; want.Firmware == "" {
			want.Firmware = image.Firmware
		}
	}
	if _, known := emulators[arch]; !known {
		return api.Machine{}, unsupported("no VM can be made for %s: only for amd64 and arm64", arch)
	}
	want, err := chooseGuest(want, arch, p.Rootfs.Image != nil, host)
	if err != nil {
		return api.Machine{}, err
	}
	m := api.Machine{Arch: arch}
	if m.Virtualization, m.Reason, err = class(want.Virtualization, arch, host); err != nil {
		return m, err
	}
	m.DiskBus, m.NICModel = api.DiskVirtio, api.NICVirtio
	if m.Virtualization == api.VirtFull {
		m.DiskBus, m.NICModel = api.DiskAHCI, api.NICE1000
	}
	if want.DiskBus != "" {
		m.DiskBus = want.DiskBus
	}
	if want.NICModel != "" {
		m.NICModel = want.NICModel
	}
	if want.KSM && !host.KSM {
		return m, unsupported("the host's kernel has no KSM (CONFIG_KSM), which merges equal pages: leave --ksm out")
	}
	m.Graphics, m.TPM = want.Graphics, want.TPM
	if m.Watchdog, m.OnCrash = want.Watchdog, want.OnCrash; m.Watchdog && m.OnCrash == "" {
		m.OnCrash = api.CrashStop
	}
	if !slices.Contains([]api.CrashPolicy{"", api.CrashRestart, api.CrashStop, api.CrashPause}, m.OnCrash) {
		return m, api.E("", api.Invalid, "", fmt.Errorf("unknown crash policy %q: choose restart, stop or pause", m.OnCrash))
	}
	for _, decide := range []func(*api.Machine, api.VMSpec, instance.Host) error{chooseBoard, firmware, chooseCPU} {
		if err := decide(&m, want, host); err != nil {
			return m, err
		}
	}
	return m, nil
}

// class decides the virtualization, and says why.
func class(want api.Virtualization, arch string, host instance.Host) (api.Virtualization, string, error) {
	obstacle := hardwareObstacle(arch, host)
	switch want {
	case "", api.VirtAuto:
		if obstacle != "" {
			return api.VirtPara, "no hardware virtualization: " + obstacle, nil
		}
		return api.VirtHardware, host.KVMReason, nil
	case api.VirtHardware:
		if obstacle != "" {
			return "", "", unsupported("no hardware virtualization (%s): choose auto or para", obstacle)
		}
		return want, "asked for; " + host.KVMReason, nil
	case api.VirtPara, api.VirtFull:
		return want, "asked for", nil
	}
	return "", "", api.E("", api.Invalid, "", fmt.Errorf("unknown virtualization %q: choose auto, hardware, para or full", want))
}

// hardwareObstacle is why a guest cannot have hardware virtualization, or "".
func hardwareObstacle(arch string, host instance.Host) string {
	switch {
	case arch != host.Arch:
		return fmt.Sprintf("the guest is for %s and the host's processor is %s", arch, host.Arch)
	case !host.KVM:
		return host.KVMReason
	}
	return ""
}

// chooseBoard decides the machine type by the devices it must have.
func chooseBoard(m *api.Machine, want api.VMSpec, _ instance.Host) error {
	full := m.Virtualization == api.VirtFull
	virtual := m.DiskBus == api.DiskVirtio && m.NICModel == api.NICVirtio
	m.Type = want.Machine
	if m.Type == "" {
		switch {
		case m.Arch == "arm64":
			m.Type = api.MachineVirt
		case m.DiskBus == api.DiskIDE:
			m.Type = api.MachinePC
		case full || !virtual || want.Graphics || want.TPM || m.OnCrash != "" || want.Firmware == api.FirmwareBIOS || want.Firmware == api.FirmwareUEFI:
			m.Type = api.MachineQ35
		default:
			m.Type = api.MachineMicroVM
		}
	}
	switch {
	case !slices.Contains([]api.MachineType{api.MachineMicroVM, api.MachineQ35, api.MachinePC, api.MachineVirt}, m.Type):
		return api.E("", api.Invalid, "", fmt.Errorf("unknown machine %q: choose microvm, q35, pc or virt", m.Type))
	case (m.Type == api.MachineVirt) != (m.Arch == "arm64"):
		return unsupported("there is no machine %s for %s: leave --machine out", m.Type, m.Arch)
	case full && m.Type == api.MachineMicroVM:
		return unsupported("a microvm has no PCI, and so none of the devices that full virtualization emulates: choose --machine q35 or pc, or --virt para")
	case full && (m.DiskBus == api.DiskVirtio || m.NICModel == api.NICVirtio):
		return unsupported("full virtualization has no virtio devices: leave --disk-bus and --nic-model out, or choose --virt para")
	case m.Type == api.MachineMicroVM && want.Graphics:
		return unsupported("a microvm has no PCI, and so no display: choose --machine q35, or leave --graphics out")
	case m.Type == api.MachineMicroVM && m.OnCrash != "":
		return unsupported("a microvm has no PCI, and so neither a watchdog nor what tells of a panic: choose --machine q35, or leave --watchdog and --on-crash out")
	case m.Type == api.MachineMicroVM && want.TPM:
		return unsupported("a microvm tells its guest of no TPM: choose --machine q35, or leave --tpm out")
	case m.Type == api.MachineMicroVM && !virtual:
		return unsupported("a microvm has only virtio devices: choose --machine q35 for disks on %s and a network card %s", m.DiskBus, m.NICModel)
	case m.DiskBus == api.DiskIDE && m.Type != api.MachinePC:
		return unsupported("machine %s has no IDE: choose --disk-bus ahci%s", m.Type, map[bool]string{true: ", or --machine pc"}[m.Arch == "amd64"])
	}
	return checkModels(m)
}

// checkModels refuses devices that nobody knows.
func checkModels(m *api.Machine) error {
	if !slices.Contains([]api.DiskBus{api.DiskVirtio, api.DiskAHCI, api.DiskIDE}, m.DiskBus) {
		return api.E("", api.Invalid, "", fmt.Errorf("unknown disk bus %q: choose virtio, ahci or ide", m.DiskBus))
	}
	if !slices.Contains([]api.NICModel{api.NICVirtio, api.NICE1000, api.NICE1000E, api.NICRTL8139}, m.NICModel) {
		return api.E("", api.Invalid, "", fmt.Errorf("unknown network card %q: choose virtio, e1000, e1000e or rtl8139", m.NICModel))
	}
	return nil
}

// chooseFirmware decides what starts the kernel. A VM of an image has no disk
// that could be booted from: its kernel comes from the host in any case.
func chooseFirmware(m *api.Machine, want api.VMSpec, _ instance.Host) error {
	m.Firmware = want.Firmware
	hasBIOS := m.Type == api.MachineQ35 || m.Type == api.MachinePC
	if m.Firmware == "" {
		m.Firmware = api.FirmwareNone
		if hasBIOS && !m.TPM {
			m.Firmware = api.FirmwareBIOS
		}
	}
	switch m.Firmware {
	case api.FirmwareNone:
	case api.FirmwareBIOS:
		if !hasBIOS {
			return unsupported("machine %s has no BIOS: leave --firmware out%s", m.Type, map[bool]string{true: ", or choose --machine q35 or pc"}[m.Arch == "amd64"])
		}
		// QEMU puts the initramfs at the end of memory, 160 KiB below which are left
		// for SeaBIOS's tables. With the TPM's log they take 216 KiB, and the guest
		// finds no ACPI (seen with QEMU 7.2). qboot's tables lie elsewhere.
		if m.TPM {
			return unsupported("SeaBIOS's tables for a TPM and the initramfs of a VM of an image overwrite each other: leave --firmware out")
		}
	case api.FirmwareUEFI:
		return unsupported("UEFI starts what a disk holds, and a VM of an image gets its kernel from the host: leave --firmware out")
	default:
		return api.E("", api.Invalid, "", fmt.Errorf("unknown firmware %q: choose none, bios or uefi", m.Firmware))
	}
	return nil
}

// chooseCPU decides the processor's model and what runs it.
func chooseCPU(m *api.Machine, want api.VMSpec, host instance.Host) error {
	m.Accelerator, m.CPUModel = "tcg", emulatedCPU[m.Arch]
	if m.Virtualization == api.VirtHardware {
		m.Accelerator, m.CPUModel = "kvm", hostCPU
	}
	if want.GuestOS == api.GuestWindows {
		m.GuestOS = want.GuestOS
		defer func() { m.CPUModel = enlighten(m.CPUModel, m.Accelerator) }()
	}
	if want.CPUModel == "" {
		return nil
	}
	m.CPUModel = want.CPUModel
	name, _, _ := strings.Cut(want.CPUModel, ",")
	known := host.CPUModels[m.Arch]
	switch {
	case name == hostCPU && m.Accelerator != "kvm":
		obstacle := hardwareObstacle(m.Arch, host)
		if obstacle == "" {
			obstacle = "this VM is of class " + string(m.Virtualization)
		}
		return unsupported("the CPU model host takes hardware virtualization (%s): leave --cpu-model out", obstacle)
	case name == hostCPU, known == nil, slices.Contains(known, name):
		return nil
	}
	return api.E("", api.Invalid, "", errors.New("QEMU knows no CPU model "+name+" for "+m.Arch+": name one that it lists with -cpu help, or leave --cpu-model out"))
}
