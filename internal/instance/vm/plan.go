package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/agent"
	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/instance/caps"
	"github.com/berthcloud/berth/internal/oci/capability"
	"github.com/berthcloud/berth/internal/qemu"
)

// Sizes in bytes.
const (
	DefaultMemory = 512 << 20
	// MinMemory is what Debian's cloud kernel and the agent need to run
	// anything at all.
	MinMemory = 96 << 20
	// overhead is what QEMU itself may use beside the guest's memory: its
	// code and buffers, the translated code, the kernel it loads.
	overhead = 256 << 20
)

// plan is everything that Create carries out.
type plan struct {
	Virtualization api.Virtualization    `json:"virtualization"`
	Notice         string                `json:"notice,omitempty"`
	Guest          agent.Config          `json:"guest"`
	QEMU           *qemu.Plan            `json:"qemu"`
	Limits         *specs.LinuxResources `json:"limits"`
	Shares         []share               `json:"shares,omitempty"`

	machine qemu.Machine
}

// Plan says what Create would do.
func (d *Driver) Plan(p *instance.Prepared, host instance.Host) (instance.Plan, error) {
	plan, err := newPlan(p, host, d.cfg.Cache)
	if err != nil {
		return nil, err
	}
	return json.MarshalIndent(plan, "", "  ")
}

// newPlan is a pure function.
func newPlan(p *instance.Prepared, host instance.Host, cache string) (*plan, error) {
	fail := func(kind api.ErrorKind, format string, args ...any) (*plan, error) {
		return nil, api.E("", kind, p.Spec.Name, fmt.Errorf(format, args...))
	}
	virt, notice, err := virtualization(p.Spec.VM.Virtualization, host)
	if err != nil {
		return nil, api.E("", "", p.Spec.Name, err)
	}
	limits := p.Spec.Limits
	memory := limits.Memory
	if memory == 0 {
		memory = DefaultMemory
	}
	cpus := VCPUs(limits)
	switch {
	case len(p.Process.Args) == 0:
		return fail(api.Invalid, "no command: the image has none, name one")
	case host.QEMU == "":
		return fail(api.Unsupported, "no QEMU for %s on this host: install qemu-system-x86, or run it as a container", host.Arch)
	case host.Arch != "amd64":
		return fail(api.Unsupported, "VMs are built for amd64 hosts so far, not %s", host.Arch)
	case p.HostNet:
		return fail(api.Unsupported, "a VM cannot share the host's network: choose the default network or none")
	case memory < MinMemory:
		return fail(api.Invalid, "a VM needs at least %d MiB of memory, not %d MiB", MinMemory>>20, memory>>20)
	case host.Memory > 0 && memory > host.Memory:
		return fail(api.Exhausted, "%d MiB of memory are more than the host's %d MiB", memory>>20, host.Memory>>20)
	case host.CPUs > 0 && cpus > host.CPUs:
		return fail(api.Exhausted, "%d CPUs are more than the host's %d", cpus, host.CPUs)
	case len(p.Rootfs.Layers)+1 > disk.MaxParts:
		return fail(api.Unsupported, "the image has %d layers; a VM takes at most %d", len(p.Rootfs.Layers), disk.MaxParts-1)
	case p.Kernel.Vmlinux == "":
		return fail(api.NotFound, "no guest kernel: make one with berth kernel")
	}
	shares, mounts, err := planShares(p, host)
	if err != nil {
		return nil, err
	}
	guest, err := guestConfig(p, mounts)
	if err != nil {
		return nil, api.E("", api.Invalid, p.Spec.Name, err)
	}
	m := machineOf(p, host, cache, virt)
	m.KVM, m.CPUs, m.Memory = virt == api.VirtHardware, cpus, memory
	m.MaxFile = max(p.Rootfs.DiskSize, memory) // a shared memory is a file too
	for _, s := range shares {
		m.Shares = append(m.Shares, qemu.Share{Tag: s.Tag, Socket: s.Server.Socket})
	}
	if !m.FitsMicroVM() {
		m.Type = qemu.Q35
	}
	qp, err := qemu.NewPlan(m)
	if err != nil {
		return nil, api.E("", api.Invalid, p.Spec.Name, err)
	}
	return &plan{Virtualization: virt, Notice: notice, Guest: *guest, QEMU: qp,
		Limits: resources(limits, memory), Shares: shares, machine: m}, nil
}

// virtualization decides what "auto" means here.
func virtualization(want api.Virtualization, host instance.Host) (api.Virtualization, string, error) {
	switch want {
	case "", api.VirtAuto:
		if host.KVM {
			return api.VirtHardware, "", nil
		}
		return api.VirtPara, "no hardware virtualization: " + host.KVMReason, nil
	case api.VirtHardware:
		if !host.KVM {
			return "", "", api.E("", api.Unsupported, "", fmt.Errorf("no hardware virtualization (%s): choose auto or para", host.KVMReason))
		}
		return want, "", nil
	case api.VirtPara:
		return want, "", nil
	case api.VirtFull:
		return "", "", api.E("", api.Unsupported, "", errors.New("full virtualization is not built yet: choose auto, hardware or para"))
	}
	return "", "", api.E("", api.Invalid, "", fmt.Errorf("unknown virtualization %q: choose auto, hardware or para", want))
}

// VCPUs returns how many processors a VM with the limits gets.
func VCPUs(l api.Limits) int { return max(1, int(math.Ceil(l.CPUs))) }

// machineOf lays out the machine's files.
func machineOf(p *instance.Prepared, host instance.Host, cache string, virt api.Virtualization) qemu.Machine {
	in := func(name string) string { return filepath.Join(p.RunDir, name) }
	m := qemu.Machine{
		QEMU: host.QEMU, Name: "berth-" + p.Spec.Name, Type: qemu.MicroVM,
		Kernel: p.Kernel.Vmlinux, Initrd: initramfsPath(cache, p.Kernel.Release), Cmdline: cmdline(host, virt),
		QMP: in("qmp"), UID: p.Users.First,
	}
	extents := append([]string{in("head"), in("config")}, p.Rootfs.Layers...)
	m.Disks = []qemu.Disk{
		{Path: in("layers.vmdk"), Format: qemu.VMDK, ReadOnly: true, Serial: agent.LayersSerial, Extents: append(extents, in("tail"))},
	}
	if p.Rootfs.Disk != "" {
		m.Disks = append(m.Disks, qemu.Disk{Path: p.Rootfs.Disk, Format: qemu.Raw, Serial: agent.DiskSerial})
	}
	m.Ports = append(m.Ports, qemu.Port{Number: agent.PortControl, Name: "control", Socket: in("ctl")})
	if p.Process.OpenStdin {
		m.Ports = append(m.Ports, qemu.Port{Number: agent.PortStdin, Name: "stdin", Socket: in("in")})
	}
	m.Ports = append(m.Ports, qemu.Port{Number: agent.PortStdout, Name: "stdout", Socket: in("out")})
	if !p.Process.TTY {
		m.Ports = append(m.Ports, qemu.Port{Number: agent.PortStderr, Name: "stderr", Socket: in("err")})
	}
	m.Ports = append(m.Ports, qemu.Port{Number: agent.PortExit, Name: "exit", File: exitPath(p)})
	for _, i := range p.Interfaces {
		m.NICs = append(m.NICs, qemu.NIC{Tap: i.HostName, MAC: i.MAC})
	}
	return m
}

// cmdline is the kernel's command line. It holds no secret: every process of
// the guest can read it. What stands there saves time at boot, except for
// panic, which ends a guest that is lost, and the first two.
func cmdline(host instance.Host, virt api.Virtualization) string {
	line := "console=ttyS0 quiet panic=-1 reboot=t" +
		" no_timer_check cryptomgr.notests raid=noautodetect 8250.nr_uarts=1 audit=0"
	if virt != api.VirtHardware {
		// An emulated processor does not speculate: there is nothing to
		// mitigate. A real one does, and there an unpredictable layout
		// of the kernel costs little.
		line += " mitigations=off nokaslr"
	}
	if host.TSCKHz > 0 {
		// Under emulation Linux's calibration of the time stamp counter hangs
		// in half of the boots on a busy host.
		line += fmt.Sprintf(" tsc_early_khz=%d", host.TSCKHz)
	}
	return line
}

// guestConfig is what the agent is told.
func guestConfig(p *instance.Prepared, mounts []agent.Mount) (*agent.Config, error) {
	c := &agent.Config{
		Layers: len(p.Rootfs.Layers), Disk: p.Rootfs.Disk != "", ReadOnly: p.Spec.Security.ReadOnly,
		Process: agent.Process{Args: p.Process.Args, Env: p.Process.Env, User: p.Process.User, Dir: p.Process.WorkingDir},
		TTY:     p.Process.TTY, OpenStdin: p.Process.OpenStdin, Size: agent.Size(p.Process.InitialSize),
		Hostname: p.Hostname, Hosts: hostsFile(p), Mounts: mounts, PIDs: p.Spec.Limits.PIDs,
	}
	names, err := caps.Bounding(caps.Defaults(), p.Spec.Security)
	if err != nil {
		return nil, err
	}
	c.Capabilities, c.NewPrivs = capability.Mask(names), p.Spec.Security.NewPrivs
	for _, server := range p.DNS {
		c.ResolvConf += "nameserver " + server + "\n"
	}
	for _, i := range p.Interfaces {
		c.Interfaces = append(c.Interfaces, agent.Interface{MAC: i.MAC, Name: i.Name, Addresses: i.Address, Gateway: i.Gateway, MTU: i.MTU})
	}
	for _, u := range p.Spec.Ulimits {
		resource, known := rlimits[strings.ToLower(u.Name)]
		if !known {
			return nil, fmt.Errorf("unknown ulimit %q", u.Name)
		}
		c.Limits = append(c.Limits, agent.Limit{Resource: resource, Soft: uint64(u.Soft), Hard: uint64(u.Hard)})
	}
	return c, nil
}

// rlimits are the numbers of setrlimit(2) on x86-64 and arm64.
var rlimits = map[string]int{
	"cpu": 0, "fsize": 1, "data": 2, "stack": 3, "core": 4, "rss": 5, "nproc": 6, "nofile": 7, "memlock": 8,
	"as": 9, "locks": 10, "sigpending": 11, "msgqueue": 12, "nice": 13, "rtprio": 14, "rttime": 15,
}

func hostsFile(p *instance.Prepared) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	for _, h := range p.Hosts {
		fmt.Fprintf(&b, "%s\t%s\n", h.Address, strings.Join(h.Names, " "))
	}
	return b.String()
}

// quota is the processor time that QEMU may use in all. Whole processors are
// bounded by the number of the guest's already; QEMU's own threads, which
// emulate its devices, may take one more, because within the guest's share they
// slow it down: a boot takes a tenth longer. A fraction is meant literally.
func quota(cpus float64) float64 {
	if cpus == math.Trunc(cpus) {
		return cpus + 1
	}
	return cpus
}

// resources are the limits of QEMU's cgroup. memory is the guest's.
func resources(l api.Limits, memory int64) *specs.LinuxResources {
	r := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(memory + overhead)}, CPU: &specs.LinuxCPU{}}
	if l.CPUs > 0 {
		const period = 100_000
		r.CPU.Period, r.CPU.Quota = new(uint64(period)), new(int64(quota(l.CPUs)*period))
	}
	if l.CPUWeight > 0 {
		// The specification has cgroup v1's shares, whose default is 1024 for
		// a weight of 100.
		r.CPU.Shares = new(max(2, l.CPUWeight*1024/100))
	}
	r.CPU.Cpus = l.CPUSet
	// What the launcher opens for QEMU, beside the devices that everybody may
	// use: its taps and KVM.
	for _, minor := range []int64{tunMinor, kvmMinor} {
		r.Devices = append(r.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: new(int64(miscMajor)), Minor: new(minor), Access: "rw"})
	}
	return r
}

// Device numbers of Documentation/admin-guide/devices.txt.
const (
	miscMajor = 10
	tunMinor  = 200 // /dev/net/tun
	kvmMinor  = 232 // /dev/kvm
)
