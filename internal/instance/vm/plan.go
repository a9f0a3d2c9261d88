package vm

import (
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"slices"
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

// layersSize is how large the disk of layers seems to be, in bytes, whatever is on it:
// all images' are alike then, and have one template.
const layersSize = 1 << 40

// plan is everything that Create carries out.
type plan struct {
	Machine api.Machine           `json:"machine"`
	Notice  string                `json:"notice,omitempty"`
	Guest   agent.Config          `json:"guest"`
	QEMU    *qemu.Plan            `json:"qemu"`
	Limits  *specs.LinuxResources `json:"limits"`
	Shares  []share               `json:"shares,omitempty"`
	TPM     *qemu.TPM             `json:"tpm,omitempty"`
	// NoTemplate is why the machine cannot begin as a copy of a template; "" where it
	// can.
	NoTemplate string `json:"no_template,omitempty"`

	machine qemu.Machine
	state   string   // of a copy of a template, and of a saved machine: the file that it begins from
	saved   bool     // it goes on from a saved machine
	copied  []string // from another instance's: the MAC addresses that its guest was saved with; else nil
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
	chosen, err := choose(p, host)
	if err != nil {
		return nil, api.E("", "", p.Spec.Name, err)
	}
	limits := p.Spec.Limits
	cpus, memory, err := size(p, host, chosen)
	if err != nil {
		return nil, api.E("", "", p.Spec.Name, err)
	}
	if p.Rootfs.Image != nil {
		return newDiskPlan(p, host, chosen, cpus, memory)
	}
	switch {
	case len(p.Process.Args) == 0 && !p.Idle:
		return fail(api.Invalid, "no command: the image has none, name one")
	case len(partsOf(p))+1 > disk.MaxParts:
		return fail(api.Unsupported, "the image has %d layers; a VM takes at most %d", len(partsOf(p)), disk.MaxParts-1)
	case p.Kernel.Vmlinux == "":
		return fail(api.NotFound, "no guest kernel: make one with berth kernel")
	case p.Kernel.Arch != "" && p.Kernel.Arch != chosen.Arch:
		return fail(api.Invalid, "the kernel %s is for %s and the image for %s: name another with --kernel", p.Kernel.Name, p.Kernel.Arch, chosen.Arch)
	}
	if err := checkLines(p, chosen); err != nil {
		return nil, api.E("", "", p.Spec.Name, err)
	}
	shares, mounts, err := planShares(p, host, chosen)
	if err != nil {
		return nil, err
	}
	guest, err := guestConfig(p, mounts)
	if err != nil {
		return nil, api.E("", api.Invalid, p.Spec.Name, err)
	}
	m := machineOf(p, host, cache, chosen)
	m.CPUs, m.Memory = cpus, memory
	m.MaxFile, m.Mergeable = maxFile(p, p.Rootfs.DiskSize, memory), p.Spec.VM.KSM
	further, err := furtherDisks(p, chosen)
	if err != nil {
		return nil, err
	}
	m.Disks = append(m.Disks, further...)
	for _, s := range shares {
		m.Shares = append(m.Shares, qemu.Share{Tag: s.Tag, Socket: s.Server.Socket})
	}
	tpm, err := planTPM(p, host, chosen)
	if err != nil {
		return nil, err
	}
	if tpm != nil {
		m.TPM = tpm.Socket
	}
	lookForCrashes(&m, p, chosen)
	if chosen.Type == api.MachineMicroVM && p.Spec.VM.Machine == "" && !m.FitsMicroVM() {
		chosen.Type, chosen.Firmware = api.MachineQ35, api.FirmwareBIOS
		m.Type, m.Firmware = qemu.Q35, qemu.BIOS
	}
	if m.Type == qemu.Q35 && !m.Full {
		m.MaxCPUs, m.MaxMemory = max(host.CPUs, cpus), max(host.Memory, memory)/qemu.MemoryBlock*qemu.MemoryBlock
	}
	m.GenerationID = hasGenerationID(m)
	qp, err := qemu.NewPlan(m)
	if err != nil {
		return nil, api.E("", api.Invalid, p.Spec.Name, err)
	}
	return &plan{Machine: chosen, Notice: notice(p.Spec.VM, chosen), Guest: *guest, QEMU: qp,
		Limits: given(resources(limits, memory), host), Shares: shares, TPM: tpm, NoTemplate: noTemplate(p.Spec.VM, m), machine: m}, nil
}

// size decides the processors and the bytes of memory of a machine, and refuses what
// the host cannot give it.
func size(p *instance.Prepared, host instance.Host, chosen api.Machine) (cpus int, memory int64, err error) {
	if cpus, memory = VCPUs(p.Spec.Limits), p.Spec.Limits.Memory; memory == 0 {
		memory = DefaultMemory
	}
	fail := func(kind api.ErrorKind, format string, args ...any) (int, int64, error) {
		return 0, 0, api.E("", kind, "", fmt.Errorf(format, args...))
	}
	switch {
	case host.QEMU[chosen.Arch] == "":
		return fail(api.Unsupported, "no QEMU for %s on this host: install %s", chosen.Arch, emulators[chosen.Arch])
	case p.HostNet:
		return fail(api.Unsupported, "a VM cannot share the host's network: choose the default network or none")
	case memory < MinMemory:
		return fail(api.Invalid, "a VM needs at least %d MiB of memory, not %d MiB", MinMemory>>20, memory>>20)
	case host.Memory > 0 && memory > host.Memory:
		return fail(api.Exhausted, "%d MiB of memory are more than the host's %d MiB", memory>>20, host.Memory>>20)
	case host.CPUs > 0 && cpus > host.CPUs:
		return fail(api.Exhausted, "%d CPUs are more than the host's %d", cpus, host.CPUs)
	}
	return cpus, memory, api.E("", api.Unsupported, "", undelegated(p.Spec.Limits, host))
}

// hasGenerationID reports whether a machine can have a VM generation id: QEMU 7.2 knows
// it on PCs alone, and its table comes with a firmware that qboot is not.
func hasGenerationID(m qemu.Machine) bool {
	return (m.Type == qemu.Q35 || m.Type == qemu.PC) && m.Firmware != qemu.NoFirmware
}

// maxFile is how large QEMU may make a file: a disk, or a memory that is shared. An
// overlay has tables beside what the guest writes.
func maxFile(p *instance.Prepared, size, memory int64) int64 {
	if p.Rootfs.Image != nil {
		size += size/64 + 1<<20
	}
	for _, m := range p.Mounts {
		if m.Type == api.MountDisk {
			size = max(size, m.Size)
		}
	}
	return max(size, memory)
}

// notice is what a user should know who left the virtualization to Berth.
func notice(want api.VMSpec, chosen api.Machine) string {
	if (want.Virtualization == "" || want.Virtualization == api.VirtAuto) && chosen.Virtualization != api.VirtHardware {
		return chosen.Reason
	}
	return ""
}

// checkLines refuses a full machine of arm64 that would need more serial lines
// than its kernel has.
func checkLines(p *instance.Prepared, chosen api.Machine) error {
	if chosen.Virtualization == api.VirtFull && chosen.Arch == "arm64" && p.Process.OpenStdin && !p.Process.TTY {
		return unsupported("a full machine of arm64 has four serial lines, one too few for standard input beside two outputs: add -t, leave -i out, or choose --virt para")
	}
	return nil
}

// VCPUs returns how many processors a VM with the limits gets.
func VCPUs(l api.Limits) int { return max(1, int(math.Ceil(l.CPUs))) }

// machineOf lays out the machine's files.
func machineOf(p *instance.Prepared, host instance.Host, cache string, chosen api.Machine) qemu.Machine {
	in := func(name string) string { return filepath.Join(p.RunDir, name) }
	full := chosen.Virtualization == api.VirtFull
	m := qemu.Machine{
		QEMU: host.QEMU[chosen.Arch], Name: "berth-" + p.Spec.Name, Type: qemu.MachineType(chosen.Type),
		KVM: chosen.Accelerator == "kvm", CPU: chosen.CPUModel, Firmware: qemu.Firmware(chosen.Firmware), Full: full, Graphics: chosen.Graphics,
		Kernel: p.Kernel.Vmlinux, Initrd: initramfsPath(cache, p.Kernel.Release, driversOf(chosen)), Cmdline: cmdline(host, chosen),
		QMP: in("qmp"), UID: p.Users.First,
	}
	bus := qemu.DiskBus(chosen.DiskBus)
	extents := append([]string{in("head"), in("config")}, partsOf(p)...)
	layers := qemu.Disk{
		Path: in("layers.vmdk"), Bus: bus, Format: qemu.VMDK, ReadOnly: true, Serial: agent.LayersSerial, Extents: append(extents, in("tail")), Size: layersSize,
	}
	if bus != qemu.VirtioDisk {
		layers.Overlay = overlayPath(p)
	}
	m.Disks = []qemu.Disk{layers}
	if p.Rootfs.Disk != "" {
		m.Disks = append(m.Disks, qemu.Disk{Path: p.Rootfs.Disk, Bus: bus, Format: qemu.Raw, Serial: agent.DiskSerial, Transient: p.Spec.AutoRemove, Size: p.Rootfs.DiskSize})
	}
	port := func(number int, name, socket, file string) {
		m.Ports = append(m.Ports, qemu.Port{Number: number, Slot: agent.SerialSlot(number), Name: name, Socket: socket, File: file})
	}
	port(agent.PortControl, "control", in("ctl"), "")
	if p.Process.OpenStdin {
		port(agent.PortStdin, "stdin", in("in"), "")
	}
	port(agent.PortStdout, "stdout", in("out"), "")
	if !p.Process.TTY {
		port(agent.PortStderr, "stderr", in("err"), "")
	}
	port(agent.PortExit, "exit", "", exitPath(p))
	for _, i := range p.Interfaces {
		m.NICs = append(m.NICs, qemu.NIC{Tap: i.HostName, MAC: i.MAC, Model: qemu.NICModel(chosen.NICModel)})
	}
	return m
}

// partsOf are the images that follow the configuration on the disk of layers.
func partsOf(p *instance.Prepared) []string {
	parts := slices.Clone(p.Rootfs.Layers)
	for _, m := range p.Mounts {
		if m.Image != "" {
			parts = append(parts, m.Image)
		}
	}
	return parts
}

// firstPart is the number of the partition of the first layer: the configuration's comes
// before.
const firstPart = 2

// partOf is the number of the partition of a mount that is an image.
func partOf(p *instance.Prepared, mount int) int {
	part := firstPart + len(p.Rootfs.Layers)
	for _, m := range p.Mounts[:mount] {
		if m.Image != "" {
			part++
		}
	}
	return part
}

// cmdline is the kernel's command line. It holds no secret: every process of
// the guest can read it. What stands there saves time at boot, except for
// the console, panic and reboot, which ends a guest that is lost, and the number
// of serial lines. GODEBUG is the agent's: no thread of it is interrupted to let another
// go on, which would have an emulated processor translate a signal's way through kernel
// and runtime; nothing in the agent keeps a thread without calling a function. Nor does it
// count the processors again each second.
func cmdline(host instance.Host, chosen api.Machine) string {
	line := "quiet GODEBUG=asyncpreemptoff=1,updatemaxprocs=0 panic=-1 cryptomgr.notests raid=noautodetect audit=0"
	if chosen.Arch == "arm64" {
		line = "console=ttyAMA0 " + line
	} else {
		lines := 1
		if chosen.Virtualization == api.VirtFull {
			lines = 1 + agent.PortExit
		}
		line = fmt.Sprintf("console=ttyS0 %s reboot=t no_timer_check 8250.nr_uarts=%d", line, lines)
	}
	if chosen.Graphics {
		line = "console=tty0 " + line // the last one named is /dev/console
	}
	if chosen.Type == api.MachineQ35 && chosen.Virtualization != api.VirtFull {
		// Memory that is added is used. Room for it above 4 GiB would make Linux set 64 MiB
		// aside for devices that reach no further, of which there are none.
		line += " memhp_default_state=online swiotlb=noforce"
	}
	if chosen.Accelerator != "kvm" {
		// An emulated processor does not speculate: there is nothing to
		// mitigate. A real one does, and there an unpredictable layout
		// of the kernel costs little.
		line += " mitigations=off nokaslr"
	}
	if host.TSCKHz > 0 && chosen.Arch == "amd64" && host.Arch == "amd64" {
		// Under emulation Linux's calibration of the time stamp counter hangs
		// in half of the boots on a busy host.
		line += fmt.Sprintf(" tsc_early_khz=%d", host.TSCKHz)
		if chosen.Accelerator != "kvm" {
			// There is nothing to check the counter against but ticks, of which a busy
			// host loses some. A guest that then trusts ticks alone has a clock that is
			// late, of 4 ms, and never sleeps shorter than that.
			line += " tsc=reliable"
		}
	}
	return line
}

// guestConfig is what the agent is told.
func guestConfig(p *instance.Prepared, mounts []agent.Mount) (*agent.Config, error) {
	c := &agent.Config{
		Layers: len(p.Rootfs.Layers), Disk: p.Rootfs.Disk != "", Transient: p.Spec.AutoRemove, ReadOnly: p.Spec.Security.ReadOnly,
		Process: agent.Process{Args: p.Process.Args, Env: p.Process.Env, User: p.Process.User, Dir: p.Process.WorkingDir},
		TTY:     p.Process.TTY, OpenStdin: p.Process.OpenStdin, Size: agent.Size(p.Process.InitialSize),
		Hostname: p.Hostname, Hosts: hostsFile(p), Mounts: mounts, PIDs: p.Spec.Limits.PIDs, Step: p.Step,
	}
	if p.Idle {
		c.Process = agent.IdleProcess()
	}
	if p.Cloned {
		c.MachineID = instance.MachineID(p.ID)
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
