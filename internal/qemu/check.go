package qemu

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// check refuses what cannot be built, and what QEMU would misread.
func (m *Machine) check() error {
	switch {
	case m.QEMU == "":
		return errors.New("no QEMU for this machine's architecture")
	case m.CPUs < 1:
		return fmt.Errorf("a machine has at least one processor, not %d", m.CPUs)
	case m.Memory < 1<<20:
		return fmt.Errorf("a machine of %d bytes of memory cannot run", m.Memory)
	case !cpuModel.MatchString(m.CPU):
		return fmt.Errorf("%q is no processor model", m.CPU)
	}
	return errors.Join(m.checkTexts(), m.checkBoard(), m.checkDisks())
}

// cpuModel is a name and features, each switched on or off.
var cpuModel = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]*(,[+-][a-z0-9][a-z0-9._-]*|,[a-z0-9-]+=[a-z0-9]+)*$`)

// checkTexts refuses a comma, which ends an option's value.
func (m *Machine) checkTexts() error {
	texts := []string{m.Name, m.QMP, m.TPM, m.Events, m.Console}
	for _, d := range m.Disks {
		texts = append(texts, d.Serial)
	}
	for _, p := range m.Ports {
		if p.Socket != "" && p.File != "" || p.Socket == "" && p.File == "" && m.Template == nil {
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
	return nil
}

// checkBoard refuses what the board has no place for.
func (m *Machine) checkBoard() error {
	switch {
	case !slices.Contains([]MachineType{MicroVM, Q35, PC, Virt}, m.Type):
		return fmt.Errorf("unknown machine type %q", m.Type)
	case m.Type == MicroVM && m.devices() > maxMMIO:
		return fmt.Errorf("a microvm takes at most %d devices, not %d", maxMMIO, m.devices())
	case m.Type == MicroVM && m.Graphics:
		return errors.New("a microvm has no PCI, and so no display")
	case m.Type == MicroVM && m.Crashes:
		return errors.New("a microvm has no PCI, and so nothing that tells of a crash")
	case m.LocalTime && m.Type != Q35 && m.Type != PC:
		return fmt.Errorf("a machine of type %s has no clock that could show local time", m.Type)
	case m.GenerationID && (m.Type != Q35 && m.Type != PC || m.Firmware == NoFirmware):
		return errors.New("a VM generation id takes the ACPI of a PC with a firmware")
	case m.Watchdog && !m.Crashes:
		return errors.New("a watchdog needs somebody who listens")
	case m.Type == MicroVM && m.TPM != "":
		return errors.New("a microvm tells its guest of no TPM")
	case m.Type == MicroVM && m.Full:
		return errors.New("a microvm has no PCI, and so none of the devices of a full machine")
	case !slices.Contains([]Firmware{NoFirmware, BIOS, UEFI}, m.Firmware):
		return fmt.Errorf("unknown firmware %q", m.Firmware)
	case m.Kernel == "" && m.Firmware == NoFirmware:
		return errors.New("a machine without a kernel needs a firmware that finds one")
	case m.Firmware == UEFI && (m.UEFICode == "" || m.UEFIVars == ""):
		return errors.New("UEFI needs files of its program and of its variables")
	case m.Firmware == UEFI && m.Type == MicroVM:
		return errors.New("a machine of type microvm has no UEFI")
	case m.Firmware == BIOS && (m.Type == MicroVM || m.Type == Virt):
		return fmt.Errorf("a machine of type %s has no BIOS", m.Type)
	case m.Full && len(m.Shares) > 0:
		return errors.New("a full machine has no virtiofs")
	case m.Template != nil && (m.Full || len(m.Shares) > 0):
		return errors.New("a template has neither virtiofs nor the devices of a full machine")
	}
	for _, n := range m.NICs {
		if !slices.Contains([]NICModel{VirtioNIC, E1000, E1000E, RTL8139}, n.Model) {
			return fmt.Errorf("unknown network card %q", n.Model)
		}
		if n.Model != VirtioNIC && !m.pci() {
			return fmt.Errorf("a microvm has no PCI, and so no %s", n.Model)
		}
	}
	return nil
}

// checkDisks refuses disks without a place on their bus, and guesses.
func (m *Machine) checkDisks() error {
	count := map[DiskBus]int{}
	for _, d := range m.Disks {
		count[d.Bus]++
		switch {
		case d.Format == Null && m.Template != nil && !m.Template.Copy:
		case d.Format != Raw && d.Format != VMDK:
			return fmt.Errorf("disk %s: the format %q is not raw or vmdk", d.Path, d.Format)
		case len(d.Serial) > 20:
			return fmt.Errorf("disk %s: the serial number %s is longer than 20 bytes", d.Path, d.Serial)
		case d.Bus != VirtioDisk && d.Bus != AHCI && d.Bus != IDE:
			return fmt.Errorf("disk %s: unknown bus %q", d.Path, d.Bus)
		case d.Bus == AHCI && !m.pci():
			return fmt.Errorf("disk %s: a microvm has no PCI, and so no AHCI", d.Path)
		case d.Bus == IDE && m.Type != PC:
			return fmt.Errorf("disk %s: only a machine of type pc has IDE, not %s", d.Path, m.Type)
		case d.CDROM && (d.Bus == VirtioDisk || !d.ReadOnly):
			return fmt.Errorf("disk %s: a disc is read-only, and in a drive on AHCI or IDE", d.Path)
		case d.Bus != VirtioDisk && d.ReadOnly && d.Overlay == "" && !d.CDROM:
			return fmt.Errorf("disk %s: a disk on %s cannot be read-only; give it an overlay", d.Path, d.Bus)
		case d.Overlay != "" && !d.ReadOnly:
			return fmt.Errorf("disk %s: an overlay is for read-only disks", d.Path)
		}
	}
	if count[AHCI] > maxAHCI || count[IDE] > maxIDE {
		return fmt.Errorf("%d disks on AHCI and %d on IDE: there is room for %d and %d", count[AHCI], count[IDE], maxAHCI, maxIDE)
	}
	return nil
}
