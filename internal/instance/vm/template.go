package vm

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/agent"
	"github.com/berthcloud/berth/internal/qemu"
)

// A template is a machine that was booted once, up to where its agent waits to be told
// what it is (package agent, Wake), and saved. Machines of the same layout begin as
// copies of it:
//
//	template   kernel, agent, drivers; no layer, no disk, no address, no secret
//	copy       its memory is the template's, until it writes there; its disks, its
//	           interface's address, its clock and its randomness are its own
//
// What a copy has of its own its guest looks at only after the waking: partitions are
// read and drivers get interfaces then. The disks have their drivers already, so they
// have the same sizes in the template.

// templateArg makes a guest wait.
const templateArg = " " + agent.TemplateArg + "=1"

// noTemplate is why a machine is not begun as a copy of a template, or "".
func noTemplate(want api.VMSpec, m qemu.Machine) string {
	switch {
	case want.ColdBoot:
		return "--cold-boot asks for a boot"
	case m.Type != qemu.MicroVM:
		return fmt.Sprintf("only a microvm can be saved and copied here, and this machine is a %s", m.Type)
	case slices.ContainsFunc(m.Disks, func(d qemu.Disk) bool { return d.Serial != agent.LayersSerial && d.Serial != agent.DiskSerial }):
		return "it has further disks, with whose names a template would serve it alone"
	case len(m.Shares) > 0:
		return "it mounts directories of the host by virtiofs, which QEMU cannot save"
	}
	return ""
}

// templateOf lays out the machine whose copy m can be, in a directory. All machines
// with the same devices have the same one.
func templateOf(m qemu.Machine, dir string, uid uint32) qemu.Machine {
	m.Name, m.UID, m.MaxFile, m.Mergeable = "berth-template", uid, m.Memory, false
	m.QMP, m.Events = filepath.Join(dir, "qmp"), ""
	m.Cmdline += templateArg
	m.Template = &qemu.Template{RAM: filepath.Join(dir, "ram")}
	m.Disks = slices.Clone(m.Disks)
	for i, d := range m.Disks {
		m.Disks[i] = qemu.Disk{Bus: d.Bus, Format: qemu.Null, ReadOnly: d.ReadOnly, Serial: d.Serial, Size: d.Size}
	}
	m.NICs = slices.Clone(m.NICs)
	for i, n := range m.NICs {
		m.NICs[i] = qemu.NIC{Model: n.Model, MAC: templateMAC(i)}
	}
	m.Ports = allPorts(nil, filepath.Join(dir, "wake"))
	return m
}

// templateMAC is the address that the i-th interface of a copy has until its guest
// changes it: QEMU saves it with the device.
func templateMAC(i int) string { return fmt.Sprintf("02:00:00:00:00:%02x", i) }

// allPorts completes ports to those that every template has, so that it serves
// instances with and without standard input and a terminal.
func allPorts(ports []qemu.Port, wake string) []qemu.Port {
	all := []qemu.Port{
		{Number: agent.PortControl, Name: "control"}, {Number: agent.PortStdin, Name: "stdin"}, {Number: agent.PortStdout, Name: "stdout"},
		{Number: agent.PortStderr, Name: "stderr"}, {Number: agent.PortExit, Name: "exit"}, {Number: agent.PortWake, Name: "wake", Socket: wake},
	}
	for i, port := range all {
		if at := slices.IndexFunc(ports, func(p qemu.Port) bool { return p.Number == port.Number }); at >= 0 {
			all[i] = ports[at]
		}
	}
	return all
}

// copyOf makes a planned machine a copy of a template.
func (p *plan) copyOf(t *template, runDir string) (*plan, error) {
	c := *p
	c.machine.Template = &qemu.Template{RAM: t.path(), Copy: true}
	c.machine.Ports = allPorts(p.machine.Ports, filepath.Join(runDir, "wake"))
	c.Guest.Interfaces = slices.Clone(p.Guest.Interfaces)
	for i := range c.Guest.Interfaces {
		c.Guest.Interfaces[i].Device = templateMAC(i)
	}
	c.Machine.Template = t.key
	var err error
	c.QEMU, err = qemu.NewPlan(c.machine)
	return &c, err
}

// templateKey names the template of a machine: first by its layout, then by
// everything else that its saved state depends on, so that a state is not given
// to another QEMU, kernel or agent than it was saved from.
func (d *Driver) templateKey(m qemu.Machine) (string, error) {
	plan, err := qemu.NewPlan(m)
	if err != nil {
		return "", err
	}
	layout, rest := sha256.New(), sha256.New()
	fmt.Fprintln(layout, plan.Args)
	for _, path := range []string{m.QEMU, m.Kernel, m.Initrd} {
		info, err := os.Stat(path)
		if err != nil {
			return "", err
		}
		fmt.Fprintln(rest, path, info.Size(), info.ModTime().UnixNano())
	}
	if m.KVM {
		// The host's own processor may be another one after a boot.
		boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		if err != nil {
			return "", err
		}
		fmt.Fprintln(rest, string(boot))
	}
	return shortSum(layout) + "-" + shortSum(rest), nil
}

// layoutOf is the part of a template's key that the layout decides.
func layoutOf(key string) string {
	layout, _, _ := strings.Cut(key, "-")
	return layout
}

func shortSum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)[:4]) }

// keyOf is a short name for a text.
func keyOf(text string) string {
	h := sha256.New()
	fmt.Fprint(h, text)
	return shortSum(h)
}
