package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/agent"
	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/qemu"
)

// A disk guest is a machine that starts what its disk holds, by a firmware: it has a
// kernel, an init and users of its own. Its serial line is what the instance says and
// is told. Berth reaches into it where berth-agent is one of its services.
//
//	Start    QMP cont; the guest's boot is its own affair
//	Stop     the agent, else the power button (ACPI), then the plug
//	Wait     QEMU ends when the guest powers off; a reboot is none of its ends

// newDiskPlan is newPlan for a disk guest.
func newDiskPlan(p *instance.Prepared, host instance.Host, chosen api.Machine, cpus int, memory int64) (*plan, error) {
	in := func(name string) string { return filepath.Join(p.RunDir, name) }
	image := p.Rootfs.Image
	if p.Rootfs.DiskSize < image.Size {
		return nil, api.E("", api.Invalid, p.Spec.Name, fmt.Errorf("the image's disk of %d MiB does not fit on one of %d MiB: ask for more with --disk", image.Size>>20, p.Rootfs.DiskSize>>20))
	}
	shares, mounts, err := planShares(p, host, chosen)
	if err != nil {
		return nil, err
	}
	m := qemu.Machine{
		QEMU: host.QEMU[chosen.Arch], Name: "berth-" + p.Spec.Name, Type: qemu.MachineType(chosen.Type), CPUs: cpus, Memory: memory,
		KVM: chosen.Accelerator == "kvm", CPU: chosen.CPUModel, Firmware: qemu.Firmware(chosen.Firmware), Reboots: true,
		Full: chosen.Virtualization == api.VirtFull, Graphics: chosen.Graphics, QMP: in("qmp"), Console: in("out"), UID: p.Users.First,
		MaxFile: maxFile(p, p.Rootfs.DiskSize, memory), Mergeable: p.Spec.VM.KSM,
	}
	if chosen.GuestOS == api.GuestWindows {
		m.LocalTime, m.Zone = true, host.Zone
	}
	if chosen.Firmware == api.FirmwareUEFI {
		files, known := host.UEFI[chosen.Arch]
		if !known {
			return nil, api.E("", api.Unsupported, p.Spec.Name, fmt.Errorf("no UEFI for %s on this host: install %s", chosen.Arch, uefiPackages[chosen.Arch]))
		}
		m.UEFICode, m.UEFIVars = files.Code, varsPath(p)
	}
	if m.Type == qemu.Q35 && !m.Full {
		// Memory could be added too, but room for it above 4 GiB makes Linux set 64 MiB
		// aside, which cannot be told otherwise here (see cmdline).
		m.MaxCPUs = max(host.CPUs, cpus)
	}
	bus := qemu.DiskBus(chosen.DiskBus)
	m.Disks = []qemu.Disk{{
		Path: image.Path, Bus: bus, Format: qemu.Raw, ReadOnly: true, Overlay: p.Rootfs.Disk, Transient: p.Spec.AutoRemove,
		Serial: agent.DiskSerial, BootIndex: 1,
	}, seedDisk(p, bus, in("seed"))}
	if disc := p.Spec.VM.CDROM; disc != "" {
		m.Disks = append(m.Disks, discDrive(disc, m.Type))
		if p.Spec.VM.BootCDROM {
			m.Disks[0].BootIndex, m.Disks[2].BootIndex = 2, 1
		}
	}
	further, err := furtherDisks(p, chosen)
	if err != nil {
		return nil, err
	}
	m.Disks = append(m.Disks, further...)
	m.Ports = []qemu.Port{{Number: agent.PortControl, Slot: agent.SerialSlot(agent.PortControl), Name: "control", Socket: in("ctl")}}
	for _, s := range shares {
		m.Shares = append(m.Shares, qemu.Share{Tag: s.Tag, Socket: s.Server.Socket})
	}
	for _, i := range p.Interfaces {
		m.NICs = append(m.NICs, qemu.NIC{Tap: i.HostName, MAC: i.MAC, Model: qemu.NICModel(chosen.NICModel)})
	}
	tpm, err := planTPM(p, host, chosen)
	if err != nil {
		return nil, err
	}
	if tpm != nil {
		m.TPM = tpm.Socket
	}
	lookForCrashes(&m, p, chosen)
	guest, err := guestConfig(p, mounts)
	if err != nil {
		return nil, api.E("", api.Invalid, p.Spec.Name, err)
	}
	// What runs by the agent is the guest's administrator, with all of root's rights.
	guest.Process, guest.Capabilities, guest.NewPrivs = agent.Process{}, ^uint64(0), true
	m.GenerationID = hasGenerationID(m)
	qp, err := qemu.NewPlan(m)
	if err != nil {
		return nil, api.E("", api.Invalid, p.Spec.Name, err)
	}
	return &plan{Machine: chosen, Notice: notice(p.Spec.VM, chosen), Guest: *guest, QEMU: qp,
		Limits: given(resources(p.Spec.Limits, memory), host), Shares: shares, TPM: tpm,
		NoTemplate: "it boots by itself, from its disk", machine: m}, nil
}

// discDrive is a drive with a disc in it, which a firmware starts after the disk: an
// installer where there is nothing on that yet, and nothing any more once there is.
// Installers know the drives of old boards in any case, and virtio often not.
func discDrive(disc string, board qemu.MachineType) qemu.Disk {
	d := qemu.Disk{Path: disc, Bus: qemu.AHCI, Format: qemu.Raw, ReadOnly: true, CDROM: true, Serial: "berth-cdrom", BootIndex: 2}
	if board == qemu.PC {
		d.Bus = qemu.IDE
	}
	return d
}

// uefiPackages are Debian's packages of UEFI firmwares.
var uefiPackages = map[string]string{"amd64": "ovmf", "arm64": "qemu-efi-aarch64"}

// chooseBoot decides what starts a disk's content.
func chooseBoot(m *api.Machine, want api.VMSpec, _ instance.Host) error {
	m.Firmware = want.Firmware
	switch {
	case want.Kernel != "":
		return unsupported("a disk image has a kernel of its own: leave --kernel out")
	case m.Firmware == api.FirmwareNone:
		return unsupported("a disk is started by a firmware: choose --firmware bios or uefi, or leave it out")
	case m.Type == api.MachineMicroVM:
		return unsupported("a microvm has no firmware that starts a disk: choose --machine q35, or leave it out")
	case m.Firmware == api.FirmwareBIOS && m.Type == api.MachineVirt:
		return unsupported("arm64 has no BIOS: choose --firmware uefi, or leave it out")
	case m.Firmware != api.FirmwareBIOS && m.Firmware != api.FirmwareUEFI:
		return api.E("", api.Invalid, "", fmt.Errorf("unknown firmware %q: choose bios or uefi", m.Firmware))
	}
	return nil
}

// varsPath is the file of a machine's UEFI variables: it is the instance's, and lasts
// as long.
func varsPath(p *instance.Prepared) string { return filepath.Join(p.Dir, "uefi.fd") }

// startsItself reports whether this is a disk guest.
func (h *handle) startsItself() bool { return h.p.Rootfs.Image != nil }

// makeGuestDisks makes what a disk guest writes to, where there is none, and what it
// reads anew.
func (h *handle) makeGuestDisks(plan *plan) error {
	uid := int(plan.machine.UID)
	overlay := h.p.Rootfs.Disk
	if _, err := os.Stat(overlay); errors.Is(err, os.ErrNotExist) {
		err := disk.CreateQcow2(overlay, h.p.Rootfs.DiskSize)
		if err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if err := os.Chown(overlay, uid, uid); err != nil {
		return err
	}
	vars := plan.machine.UEFIVars
	if vars == "" {
		return nil
	}
	if _, err := os.Stat(vars); errors.Is(err, os.ErrNotExist) {
		// Under another name first: half of it would be none.
		partial := vars + ".new"
		if err := os.Remove(partial); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := disk.Clone(partial, h.driver.cfg.Host.UEFI[plan.Machine.Arch].Vars); err != nil {
			return err
		}
		if err := os.Rename(partial, vars); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	return os.Chown(vars, uid, uid)
}

// writeGuestFiles writes what the launcher reads, and the next berthd.
func (h *handle) writeGuestFiles(ctx context.Context, plan *plan) (err error) {
	if plan.QEMU.Program, err = h.driver.needs(ctx, plan.QEMU.Args[0], qemu.Needs); err != nil {
		return err
	}
	launch, err := plan.QEMU.Encode()
	if err != nil {
		return err
	}
	run, err := json.Marshal(h.run)
	if err != nil {
		return err
	}
	if err := os.Remove(h.inRun("killed")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if plan.Machine.Graphics {
		if err := os.WriteFile(h.inRun(vncFile), []byte(newVNCPassword()), 0o600); err != nil {
			return err
		}
	}
	if err := os.WriteFile(h.inRun("qemu.json"), launch, 0o600); err != nil {
		return err
	}
	return os.WriteFile(h.inRun("run.json"), run, 0o600)
}

// signalGuest does what a signal can mean to a machine with an init of its own.
func (h *handle) signalGuest(ctx context.Context, signal int) error {
	switch signal {
	case int(sigKill):
		return h.powerCut(ctx)
	case int(unix.SIGTERM), int(unix.SIGINT), int(unix.SIGPWR):
		return h.powerButton(ctx)
	}
	return unsupported("a machine that starts from a disk takes no signals but SIGTERM, SIGINT and SIGPWR, which press its power button, and SIGKILL, which pulls its plug: berth exec reaches its processes")
}

func (h *handle) powerButton(ctx context.Context) error {
	m, err := h.monitor(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	return m.PowerButton(ctx)
}

// stopGuest has the guest shut down, and pulls the plug where it does not.
func (h *handle) stopGuest(ctx context.Context, grace time.Duration) error {
	patience, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if err := h.askToShutDown(patience); err == nil {
		if _, err := h.Wait(patience); err == nil {
			return nil
		}
	}
	if ctx.Err() != nil {
		return h.fail("stop", ctx.Err())
	}
	if err := h.powerCut(ctx); err != nil {
		return h.fail("stop", err)
	}
	_, err := h.Wait(ctx)
	return err
}

// askToShutDown asks the agent, which every init minds, and where none answers
// presses the power button, which a guest may mind or not.
func (h *handle) askToShutDown(ctx context.Context) error {
	if h.p.Rootfs.Image.Agent {
		short, cancel := context.WithTimeout(ctx, signalTimeout)
		defer cancel()
		if h.withAgent(short, func(c *agent.Client) error { return c.Shutdown(short) }) == nil {
			return nil
		}
	}
	return h.powerButton(ctx)
}

// withGuest makes a call of the agent as soon as the guest has booted, where the image
// promises one.
func (h *handle) withGuest(ctx context.Context, call func(*agent.Client) error) error {
	if !h.startsItself() {
		return h.withAgent(ctx, call)
	}
	patience := monitorTimeout
	if h.p.Rootfs.Image.Agent {
		patience = guestTimeout
	}
	for deadline := time.Now().Add(patience); ; {
		// One try is short: others wait for it, as a stop does.
		greet, cancel := context.WithTimeout(ctx, signalTimeout)
		client, release, err := h.dialAgent(greet)
		late := greet.Err() != nil
		cancel()
		switch {
		case err == nil:
			defer release()
			return call(client)
		case ctx.Err() != nil || !late:
			return err
		case time.Now().After(deadline):
			return api.E("", api.Unavailable, "", errors.New("no agent answers in the guest: it has not booted yet, or has no berth-agent as a service (docs/disk-images.md)"))
		}
	}
}

// guestStats measures the guest by its agent. A disk guest that has none, or is booting,
// is measured from outside alone.
func (h *handle) guestStats(ctx context.Context) (g agent.Stats, err error) {
	ask := func(ctx context.Context) error {
		return h.withAgent(ctx, func(c *agent.Client) (err error) {
			g, err = c.Stats(ctx)
			return err
		})
	}
	if !h.startsItself() {
		err = ask(ctx)
		return g, err
	}
	g.MemoryTotal = h.run.Memory
	if h.p.Rootfs.Image.Agent {
		short, cancel := context.WithTimeout(ctx, signalTimeout)
		defer cancel()
		_ = ask(short)
	}
	return g, ctx.Err()
}

// guestTimeout bounds the wait for the agent of a guest that boots by itself: emulated
// on a busy host firmware, bootloader, kernel and services take a minute.
const guestTimeout = 5 * time.Minute
