package vm

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// diskGuest is a machine that starts from its disk.
func diskGuest() *instance.Prepared {
	p := prepared()
	p.Process = instance.Process{TTY: true, OpenStdin: true}
	p.Kernel, p.Mounts, p.Spec.Ulimits, p.Spec.Limits.PIDs = instance.Kernel{}, p.Mounts[:1], nil, 0
	p.Rootfs = instance.Rootfs{
		Image: &instance.DiskImage{Path: "/store/disk", Size: 2 << 30, Firmware: api.FirmwareUEFI, Agent: true},
		Disk:  "/var/i/root.qcow2", DiskSize: 10 << 30,
	}
	p.Spec.VM.SSHKeys = "ssh-ed25519 AAAA one\n\nssh-ed25519 BBBB two\n"
	return p
}

func uefiHost() instance.Host {
	h := host()
	h.UEFI = map[string]instance.UEFI{"amd64": {Code: "/usr/share/OVMF/OVMF_CODE_4M.fd", Vars: "/usr/share/OVMF/OVMF_VARS_4M.fd"}}
	return h
}

func TestDiskPlanGolden(t *testing.T) {
	full := diskGuest()
	full.Spec.VM.Virtualization, full.Spec.VM.Firmware = api.VirtFull, api.FirmwareBIOS
	full.Mounts = []instance.Mount{{Type: api.MountDisk, Name: "data", Source: "/volumes/data/disk.raw", Size: 1 << 30}}
	disc := diskGuest()
	disc.Spec.VM.Machine, disc.Spec.VM.CDROM, disc.Spec.VM.BootCDROM, disc.Mounts = api.MachinePC, "/srv/debian.iso", true, nil
	windows := diskGuest()
	windows.Spec.VM = api.VMSpec{GuestOS: api.GuestWindows, CDROM: "/srv/virtio-win.iso"}
	windows.Mounts, windows.Rootfs.Image.Agent = nil, false
	h := uefiHost()
	h.Zone, h.Swtpm, h.KVM, h.KVMReason = "/etc/localtime", "/usr/bin/swtpm", true, "a probe guest ran in KVM"
	emulating := uefiHost()
	emulating.Zone, emulating.Swtpm = h.Zone, h.Swtpm
	for name, c := range map[string]struct {
		p    *instance.Prepared
		host instance.Host
	}{
		"disk": {diskGuest(), uefiHost()}, "disk-full": {full, uefiHost()}, "disk-cdrom": {disc, uefiHost()},
		"windows": {windows, h}, "windows-emulated": {windows, emulating},
	} {
		got, err := New(Config{Cache: "/var/cache"}).Plan(c.p, c.host)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name+".golden", append(got, '\n'))
	}
}

func TestDiskPlanRefuses(t *testing.T) {
	small := diskGuest()
	small.Rootfs.DiskSize = 1 << 30
	if _, err := New(Config{}).Plan(small, uefiHost()); err == nil || !strings.Contains(err.Error(), "--disk") {
		t.Errorf("a disk smaller than its image: %v", err)
	}
	fixed := diskGuest()
	fixed.Spec.VM.DiskBus, fixed.Mounts = api.DiskAHCI, []instance.Mount{{Type: api.MountDisk, Name: "data", ReadOnly: true}}
	if _, err := New(Config{}).Plan(fixed, uefiHost()); err == nil || !strings.Contains(err.Error(), "cannot be read-only; leave readonly out") {
		t.Errorf("a read-only disk on SATA: %v", err)
	}
	if _, err := New(Config{}).Plan(diskGuest(), host()); err == nil || !strings.Contains(err.Error(), "ovmf") {
		t.Errorf("a host without UEFI: %v", err)
	}
}

// What a guest is told is data, whatever a user writes there.
func TestSeedFiles(t *testing.T) {
	p := diskGuest()
	plan, err := newPlan(p, uefiHost(), "")
	if err != nil {
		t.Fatal(err)
	}
	files, err := seedFiles(p, &plan.Guest)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if name != "berth-agent" { // binary, and in the plan
			fmt.Fprintf(&b, "== %s\n%s\n", name, files[name])
		}
	}
	golden(t, "seed.golden", []byte(b.String()))
	p.Spec.VM.UserData, p.Spec.VM.NetworkConfig = "#!/bin/sh\ntrue\n", "version: 2\n"
	if files, err = seedFiles(p, &plan.Guest); err != nil || string(files["user-data"]) != p.Spec.VM.UserData || string(files["network-config"]) != "version: 2\n" {
		t.Errorf("the user's own files: %q, %v", files, err)
	}
}
