package qemu

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares got with testdata/name.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("differs from %s:\n%s", path, got)
	}
}

// machine is a small machine of the type.
func machine(kind MachineType) Machine {
	return Machine{
		QEMU: "/usr/bin/qemu-system-x86_64", Name: "berth-web", Type: kind, CPUs: 1, Memory: 512 << 20,
		Kernel: "/k/vmlinux", Initrd: "/k/initramfs", Cmdline: "console=ttyS0 quiet, really",
		QMP: "/run/i/qmp", UID: 64100, MaxFile: 1 << 30, CPU: "qemu64,+rdrand", Firmware: NoFirmware,
		Disks: []Disk{
			{Path: "/run/i/layers.vmdk", Bus: VirtioDisk, Format: VMDK, ReadOnly: true, Serial: "layers", Extents: []string{"/run/i/head", "/store/a", "/run/i/tail"}},
			{Path: "/i/root.raw", Bus: VirtioDisk, Format: Raw, Serial: "disk"},
		},
		Ports: []Port{{Number: 1, Name: "control", Socket: "/run/i/ctl"}, {Number: 5, Name: "exit", File: "/i/exit"}},
		NICs:  []NIC{{Tap: "tap0", MAC: "52:54:00:00:00:01", Model: VirtioNIC}},
	}
}

// full is a machine with nothing but emulated devices.
func full(kind MachineType, bus DiskBus, nic NICModel) Machine {
	m := machine(kind)
	m.Full, m.NICs[0].Model = true, nic
	if kind != Virt {
		m.Firmware = BIOS
	}
	for i := range m.Disks {
		m.Disks[i].Bus = bus
	}
	m.Disks[0].Overlay = "/i/layers.qcow2"
	m.Ports[0].Slot, m.Ports[1].Slot = 0x11, 0x15
	return m
}

// diskMachine is a machine that starts what its disk holds.
func diskMachine(firmware Firmware, bus DiskBus) Machine {
	m := machine(Q35)
	m.Kernel, m.Initrd, m.Cmdline, m.Console, m.Reboots, m.Firmware = "", "", "", "/run/i/out", true, firmware
	if firmware == UEFI {
		m.UEFICode, m.UEFIVars = "/usr/share/OVMF/OVMF_CODE_4M.fd", "/i/uefi.fd"
	}
	m.Full = bus != VirtioDisk
	m.Disks = []Disk{
		{Path: "/store/disk", Bus: bus, Format: Raw, ReadOnly: true, Overlay: "/i/root.qcow2", Serial: "berth-disk", BootIndex: 1},
		{Path: "/i/cd.iso", Bus: AHCI, Format: Raw, ReadOnly: true, CDROM: true, Serial: "berth-cdrom", BootIndex: 2},
	}
	m.Ports = m.Ports[:1]
	return m
}

func TestPlanGolden(t *testing.T) {
	shared := machine(Q35)
	shared.KVM, shared.CPU, shared.Firmware, shared.Shares = true, "host", BIOS, []Share{{Tag: "share0", Socket: "/run/i/fs0"}}
	arm := machine(Virt)
	arm.QEMU, arm.CPU, arm.Kernel = "/usr/bin/qemu-system-aarch64", "cortex-a57", "/k/Image"
	fullARM := full(Virt, AHCI, E1000E)
	fullARM.QEMU, fullARM.CPU, fullARM.Kernel = arm.QEMU, arm.CPU, arm.Kernel
	surrounded, armSurrounded := machine(PC), machine(Virt)
	surrounded.Graphics, armSurrounded.Graphics, surrounded.Firmware = true, true, BIOS
	surrounded.TPM, armSurrounded.TPM = "/run/i/tpm", "/run/i/tpm"
	surrounded.Events, armSurrounded.Events = "/run/i/events", "/run/i/events"
	surrounded.Crashes, armSurrounded.Crashes, surrounded.Watchdog = true, true, true
	qboot := machine(Q35)
	qboot.Graphics = true
	transient := machine(MicroVM)
	transient.Disks[1].Transient = true
	template, copied := machine(MicroVM), machine(MicroVM)
	template.Template, copied.Template = &Template{RAM: "/cache/new/ram"}, &Template{RAM: "/proc/1/fd/9", Copy: true}
	for i, d := range template.Disks {
		template.Disks[i] = Disk{Bus: d.Bus, Format: Null, ReadOnly: d.ReadOnly, Serial: d.Serial, Size: 1 << 30}
	}
	template.NICs[0].Tap, template.Ports[1].File = "", ""
	for name, m := range map[string]Machine{
		"template": template, "copy": copied,
		"microvm": machine(MicroVM), "q35-kvm-share": shared, "virt": arm,
		"q35-full": full(Q35, AHCI, E1000), "pc-full": full(PC, IDE, RTL8139), "virt-full": fullARM,
		"transient": transient, "qboot-graphics": qboot, "surrounded": surrounded, "virt-surrounded": armSurrounded,
		"disk-bios": diskMachine(BIOS, VirtioDisk), "disk-uefi": diskMachine(UEFI, AHCI),
	} {
		t.Run(name, func(t *testing.T) {
			plan, err := NewPlan(m)
			if err != nil {
				t.Fatal(err)
			}
			got, err := plan.Encode()
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name+".golden", append(got, '\n'))
			if back, err := DecodePlan(got); err != nil || strings.Join(back.Args, " ") != strings.Join(plan.Args, " ") {
				t.Errorf("read back: %v", err)
			}
		})
	}
}

// TestPlanStatesFormats is attack class 15: no disk of any plan leaves its
// format to QEMU's guess.
func TestPlanStatesFormats(t *testing.T) {
	for _, m := range []Machine{machine(MicroVM), full(Q35, AHCI, E1000)} {
		plan, err := NewPlan(m)
		if err != nil {
			t.Fatal(err)
		}
		for i, arg := range plan.Args {
			if strings.HasPrefix(arg, "-drive") || strings.HasPrefix(arg, "-hd") {
				t.Errorf("%s may guess a format", arg)
			}
			if arg == "-blockdev" && !strings.HasPrefix(plan.Args[i+1], "driver=") {
				t.Errorf("%s states no driver", plan.Args[i+1])
			}
		}
	}
}

func TestPlanRefuses(t *testing.T) {
	for name, change := range map[string]func(*Machine){
		"no QEMU":             func(m *Machine) { m.QEMU = "" },
		"no CPU":              func(m *Machine) { m.CPUs = 0 },
		"no memory":           func(m *Machine) { m.Memory = 0 },
		"no kernel":           func(m *Machine) { m.Kernel = "" },
		"no UEFI files":       func(m *Machine) { m.Type, m.Firmware = Q35, UEFI },
		"writable disc":       func(m *Machine) { m.Disks[1].CDROM = true },
		"no format":           func(m *Machine) { m.Disks[1].Format = "" },
		"qcow2":               func(m *Machine) { m.Disks[1].Format = "qcow2" },
		"long serial":         func(m *Machine) { m.Disks[1].Serial = strings.Repeat("x", 21) },
		"port nowhere":        func(m *Machine) { m.Ports[0].Socket = "" },
		"comma in name":       func(m *Machine) { m.Name = "a,process=b" },
		"comma in MAC":        func(m *Machine) { m.NICs[0].MAC = "x,script=/bin/sh" },
		"comma in tag":        func(m *Machine) { m.Shares = []Share{{Tag: "a,b", Socket: "/s"}} },
		"too many devices":    func(m *Machine) { m.NICs = make([]NIC, 40) },
		"unknown type":        func(m *Machine) { m.Type = "isapc" },
		"no model":            func(m *Machine) { m.CPU = "" },
		"comma in model":      func(m *Machine) { m.CPU = "max,host-phys-bits,x" },
		"a microvm's display": func(m *Machine) { m.Graphics = true },
		"a microvm's crash":   func(m *Machine) { m.Crashes = true },
		"a deaf watchdog":     func(m *Machine) { m.Type, m.Watchdog = Q35, true },
		"a microvm's TPM":     func(m *Machine) { m.TPM = "/run/i/tpm" },
		"full microvm":        func(m *Machine) { m.Full = true },
		"BIOS on microvm":     func(m *Machine) { m.Firmware = BIOS },
		"no firmware":         func(m *Machine) { m.Firmware = "" },
		"UEFI":                func(m *Machine) { m.Firmware = "uefi" },
		"BIOS on arm64":       func(m *Machine) { m.Type, m.Firmware = Virt, BIOS },
		"e1000 on microvm":    func(m *Machine) { m.NICs[0].Model = E1000 },
		"unknown NIC":         func(m *Machine) { m.Type, m.NICs[0].Model = Q35, "ne2k_isa" },
		"AHCI on microvm":     func(m *Machine) { m.Disks[1].Bus = AHCI },
		"IDE on q35":          func(m *Machine) { m.Type, m.Disks[1].Bus = Q35, IDE },
		"unknown bus":         func(m *Machine) { m.Disks[1].Bus = "floppy" },
		"no bus":              func(m *Machine) { m.Disks[1].Bus = "" },
		"read-only IDE":       func(m *Machine) { m.Type, m.Disks[0].Bus = PC, IDE },
		"needless overlay":    func(m *Machine) { m.Disks[1].Overlay = "/o" },
		"seven on AHCI": func(m *Machine) {
			m.Type, m.Disks = Q35, slices.Repeat([]Disk{{Path: "/d", Bus: AHCI, Format: Raw}}, 7)
		},
		"full template":         func(m *Machine) { m.Type, m.Full, m.Template = Q35, true, &Template{RAM: "/r"} },
		"template with a share": func(m *Machine) { m.Template, m.Shares = &Template{RAM: "/r"}, []Share{{Tag: "a", Socket: "/s"}} },
		"disk without a file":   func(m *Machine) { m.Disks[1].Format = Null },
		"a copy without a disk": func(m *Machine) { m.Template, m.Disks[1].Format = &Template{RAM: "/r", Copy: true}, Null },
		"virtiofs when full": func(m *Machine) {
			m.Type, m.Full, m.Shares = Q35, true, []Share{{Tag: "a", Socket: "/s"}}
		},
	} {
		m := machine(MicroVM)
		change(&m)
		if _, err := NewPlan(m); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
