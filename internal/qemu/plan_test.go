package qemu

import (
	"flag"
	"os"
	"path/filepath"
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
		QMP: "/run/i/qmp", UID: 64100, MaxFile: 1 << 30,
		Disks: []Disk{
			{Path: "/run/i/layers.vmdk", Format: VMDK, ReadOnly: true, Serial: "layers", Extents: []string{"/run/i/head", "/store/a", "/run/i/tail"}},
			{Path: "/i/root.raw", Format: Raw, Serial: "disk"},
		},
		Ports: []Port{{Number: 1, Name: "control", Socket: "/run/i/ctl"}, {Number: 5, Name: "exit", File: "/i/exit"}},
		NICs:  []NIC{{Tap: "tap0", MAC: "52:54:00:00:00:01"}},
	}
}

func TestPlanGolden(t *testing.T) {
	shared := machine(Q35)
	shared.KVM, shared.Shares = true, []Share{{Tag: "share0", Socket: "/run/i/fs0"}}
	for name, m := range map[string]Machine{"microvm": machine(MicroVM), "q35-kvm-share": shared} {
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
	plan, err := NewPlan(machine(MicroVM))
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

func TestPlanRefuses(t *testing.T) {
	for name, change := range map[string]func(*Machine){
		"no QEMU":          func(m *Machine) { m.QEMU = "" },
		"no CPU":           func(m *Machine) { m.CPUs = 0 },
		"no memory":        func(m *Machine) { m.Memory = 0 },
		"no format":        func(m *Machine) { m.Disks[1].Format = "" },
		"qcow2":            func(m *Machine) { m.Disks[1].Format = "qcow2" },
		"long serial":      func(m *Machine) { m.Disks[1].Serial = strings.Repeat("x", 21) },
		"port nowhere":     func(m *Machine) { m.Ports[0].Socket = "" },
		"comma in name":    func(m *Machine) { m.Name = "a,process=b" },
		"comma in MAC":     func(m *Machine) { m.NICs[0].MAC = "x,script=/bin/sh" },
		"comma in tag":     func(m *Machine) { m.Shares = []Share{{Tag: "a,b", Socket: "/s"}} },
		"too many devices": func(m *Machine) { m.NICs = make([]NIC, 40) },
		"unknown type":     func(m *Machine) { m.Type = "isapc" },
	} {
		m := machine(MicroVM)
		change(&m)
		if _, err := NewPlan(m); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
