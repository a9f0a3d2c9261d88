package api

import (
	"encoding/json"
	"time"
)

// Kind says by what an instance is virtualized.
type Kind string

// The kinds of instance.
const (
	Container Kind = "container" // by the operating system: namespaces, cgroups, access control
	VM        Kind = "vm"        // by the host: QEMU, with or without hardware support
)

// Virtualization says how a VM's processor and devices are provided.
type Virtualization string

// The ways to virtualize a VM.
const (
	VirtAuto     Virtualization = "auto"     // hardware where a probe guest proves it, else para
	VirtHardware Virtualization = "hardware" // KVM on VT-x or AMD-V, virtio devices
	VirtPara     Virtualization = "para"     // emulated processor, virtio devices
	VirtFull     Virtualization = "full"     // emulated processor, every device emulated
)

// State is the one word for where an instance stands in its life.
//
//	created ──start──▶ running ◀──▶ paused
//	                     │
//	                     ├─ suspend ─▶ suspended ──resume, start──▶ running
//	                     ├─ stop, kill, own exit ─▶ exited ──start──▶ running
//	                     ├─ own exit, restart policy ─▶ restarting ─▶ running
//	                     └─ fault of the host, QEMU, the keeper ─▶ failed ──start──▶ running
type State string

// The states of an instance.
const (
	Created    State = "created"    // recorded, never started
	Starting   State = "starting"   // being prepared or booting
	Running    State = "running"    // its entrypoint runs
	Paused     State = "paused"     // frozen in memory
	Stopping   State = "stopping"   // asked to end, not ended yet
	Suspended  State = "suspended"  // saved on disk, and goes on from there
	Restarting State = "restarting" // ended; its restart policy will start it again
	Exited     State = "exited"     // its entrypoint ended; the exit code is known
	Failed     State = "failed"     // ended by a fault; Status.Error says which
	Removing   State = "removing"   // being deleted
)

// Alive reports whether processes of an instance in this state may run.
func (s State) Alive() bool {
	return s == Starting || s == Running || s == Paused || s == Stopping
}

// Instance is a workload with its own root filesystem, network, limits and
// identity.
type Instance struct {
	ID       string    `json:"id" doc:"64 hexadecimal digits; any unique prefix names the instance"`
	Name     string    `json:"name"`
	Created  time.Time `json:"created"`
	Spec     Spec      `json:"spec"`
	Digest   string    `json:"image_digest" doc:"the manifest the instance was made from"`
	Status   Status    `json:"status"`
	Revision int64     `json:"revision" doc:"counts every change of the record"`
}

// Spec is what the user wants. It is complete after creation: defaults of the
// image stay with the image, defaults of Berth are filled in.
type Spec struct {
	Name  string `json:"name,omitempty"`
	Kind  Kind   `json:"kind,omitempty" enum:"container,vm" doc:"default container"`
	Image string `json:"image"`
	// Platform chooses among those of an image. Another architecture than the
	// host's takes a VM.
	Platform string `json:"platform,omitempty" doc:"as in linux/arm64; default: the host's, or the image's only one"`

	Entrypoint []string          `json:"entrypoint,omitempty" doc:"replaces the image's entrypoint and command; one empty string removes it"`
	Command    []string          `json:"command,omitempty" doc:"replaces the image's command"`
	Env        []string          `json:"env,omitempty" doc:"NAME=VALUE, added to the image's"`
	User       string            `json:"user,omitempty" doc:"name or uid, optionally with :group"`
	WorkingDir string            `json:"working_dir,omitempty"`
	Hostname   string            `json:"hostname,omitempty" doc:"default: the first 12 digits of the id"`
	Labels     map[string]string `json:"labels,omitempty"`
	TTY        bool              `json:"tty,omitempty"`
	OpenStdin  bool              `json:"open_stdin,omitempty" doc:"keep standard input open while nobody is attached"`
	StdinOnce  bool              `json:"stdin_once,omitempty" doc:"close standard input when the first attached client leaves"`
	Init       InitMode          `json:"init,omitempty" enum:"none,reap,system" doc:"what process 1 is: the entrypoint, a reaping init above it, or the image's own init; default none"`
	AutoRemove bool              `json:"auto_remove,omitempty" doc:"remove the instance when it has exited"`

	StopSignal  string   `json:"stop_signal,omitempty" doc:"default: the image's, else the one that the image's init shuts down at (init system), else SIGTERM"`
	StopTimeout Duration `json:"stop_timeout,omitempty" doc:"grace between the stop signal and SIGKILL; default 10s, with init system 60s"`

	Limits   Limits        `json:"limits,omitzero"`
	Ulimits  []Ulimit      `json:"ulimits,omitempty"`
	Restart  RestartPolicy `json:"restart,omitzero"`
	Health   *HealthCheck  `json:"health,omitempty" doc:"default: the image's"`
	Mounts   []Mount       `json:"mounts,omitempty"`
	Network  NetworkSpec   `json:"network,omitzero"`
	Security Security      `json:"security,omitzero"`
	VM       VMSpec        `json:"vm,omitzero"`
}

// InitMode says what process 1 of an instance is.
type InitMode string

// The init modes.
const (
	InitNone   InitMode = "none"   // the entrypoint itself
	InitReap   InitMode = "reap"   // a tiny init that reaps orphans and passes signals on to the entrypoint
	InitSystem InitMode = "system" // the image's own init: it boots the container as a machine
)

// UnmarshalJSON reads a mode. The true and false of records that were written
// before there were modes meant reap and none.
func (m *InitMode) UnmarshalJSON(text []byte) error {
	switch string(text) {
	case "true":
		*m = InitReap
		return nil
	case "false":
		*m = InitNone
		return nil
	}
	return json.Unmarshal(text, (*string)(m))
}

// Limits bound what an instance may use of its host. Zero means the kind's
// default: none for a container; 1 CPU and 512 MiB for a VM. All of them can
// be changed while the instance runs, as far as its kind allows.
type Limits struct {
	CPUs       float64 `json:"cpus,omitempty" doc:"processor time per wall time; a VM gets the next whole number of vCPUs, and for whole numbers up to one processor more for the emulation of its devices"`
	CPUWeight  uint64  `json:"cpu_weight,omitempty" doc:"share under contention, 1 to 10000, default 100"`
	CPUSet     string  `json:"cpuset,omitempty" doc:"the processors to run on, as in 0-2,4"`
	Memory     int64   `json:"memory,omitempty" doc:"bytes"`
	MemorySwap int64   `json:"memory_swap,omitempty" doc:"bytes of memory and swap together; -1 for no limit of swap; default: no swap beyond the memory limit"`
	PIDs       int64   `json:"pids,omitempty" doc:"processes and threads; -1 for no limit; default 4096 for a container"`
	Disk       int64   `json:"disk,omitempty" doc:"bytes of the writable layer; VM only; default 10 GiB, sparse"`

	DiskIOPS      Rate `json:"disk_iops,omitzero" doc:"operations of its disks; a container's reads and writes each"`
	DiskBandwidth Rate `json:"disk_bandwidth,omitzero" doc:"bytes to and from its disks; a container's reads and writes each"`
	NetBandwidth  Rate `json:"net_bandwidth,omitzero" doc:"bytes to and from its network, in each direction"`
}

// Rate bounds how much may pass in a second. The zero value is no wish.
type Rate struct {
	Limit int64 `json:"limit,omitempty" doc:"per second; -1 for no limit"`
	Burst int64 `json:"burst,omitempty" doc:"what may pass at once, within a second, after a pause; a container's disk has none"`
}

// Limits reports whether there is a limit.
func (r Rate) Limits() bool { return r.Limit > 0 }

// Ulimit is a resource limit of the entrypoint (setrlimit).
type Ulimit struct {
	Name string `json:"name" doc:"as in nofile, without RLIMIT_"`
	Soft int64  `json:"soft" doc:"-1 for unlimited"`
	Hard int64  `json:"hard" doc:"-1 for unlimited"`
}

// RestartMode says when an ended instance is started again.
type RestartMode string

// The restart modes, as docker users know them.
const (
	RestartNo            RestartMode = "no"
	RestartOnFailure     RestartMode = "on-failure"     // after a non-zero exit or a fault
	RestartAlways        RestartMode = "always"         // also after a reboot of the host
	RestartUnlessStopped RestartMode = "unless-stopped" // like always, but not after berth stop
)

// RestartPolicy is a mode and, for on-failure, a bound.
type RestartPolicy struct {
	Mode       RestartMode `json:"mode,omitempty" enum:"no,on-failure,always,unless-stopped"`
	MaxRetries int         `json:"max_retries,omitempty" doc:"on-failure only; 0 for no bound"`
}

// HealthCheck is a command run in the instance at intervals.
type HealthCheck struct {
	Test        []string `json:"test" doc:"[NONE], [CMD, args…] or [CMD-SHELL, line], as in an image's config"`
	Interval    Duration `json:"interval,omitempty" doc:"default 30s"`
	Timeout     Duration `json:"timeout,omitempty" doc:"default 30s"`
	StartPeriod Duration `json:"start_period,omitempty" doc:"failures in it do not count"`
	Retries     int      `json:"retries,omitempty" doc:"failures in a row that make it unhealthy; default 3"`
}

// MountType says where a mount's content comes from.
type MountType string

// The types of mount.
const (
	MountBind   MountType = "bind"   // a path of the host
	MountVolume MountType = "volume" // a named volume
	MountTmpfs  MountType = "tmpfs"  // memory
	MountDisk   MountType = "disk"   // a named volume that is a disk; VM only
)

// Mount is a file tree that an instance sees in place of its image's, or a further
// disk of a VM.
type Mount struct {
	Type     MountType `json:"type" enum:"bind,volume,tmpfs,disk"`
	Source   string    `json:"source,omitempty" doc:"bind: an absolute path; volume, disk: a name, made on first use"`
	Target   string    `json:"target,omitempty" doc:"an absolute path in the instance; a disk without one is left to the guest as it is"`
	ReadOnly bool      `json:"read_only,omitempty"`
	Size     int64     `json:"size,omitempty" doc:"tmpfs: bytes, default half of the memory limit or 64 MiB; disk: bytes of one that is made"`
	Mode     uint32    `json:"mode,omitempty" doc:"tmpfs only: permission bits; default 1777"`
	NoCopy   bool      `json:"no_copy,omitempty" doc:"volume only: do not fill an empty volume from the image"`
}

// Names of networks with a meaning of their own.
const (
	NetworkDefault = "default" // Berth's bridge
	NetworkNone    = "none"    // loopback alone
	NetworkHost    = "host"    // the host's own; containers only
)

// NetworkSpec says to which network an instance belongs.
type NetworkSpec struct {
	Name    string   `json:"name,omitempty" doc:"default, none, host, or a network that was made; default: default"`
	Address string   `json:"address,omitempty" doc:"a fixed address of the network's pool"`
	MAC     string   `json:"mac,omitempty"`
	Publish []Port   `json:"publish,omitempty"`
	DNS     []string `json:"dns,omitempty" doc:"name servers instead of the network's own"`
	Hosts   []string `json:"hosts,omitempty" doc:"NAME:ADDRESS, added to /etc/hosts"`
	NICs    []NIC    `json:"nics,omitempty" doc:"further networks, one interface each: eth1, eth2 and so on"`
}

// NIC is an instance's further place on a network.
type NIC struct {
	Network string `json:"network"`
	Address string `json:"address,omitempty" doc:"a fixed address of the network's pool"`
	MAC     string `json:"mac,omitempty"`
}

// Port is a port of the host that leads into an instance. The instance sees
// the client's own address.
type Port struct {
	HostIP   string `json:"host_ip,omitempty" doc:"default: every address of the host"`
	HostPort uint16 `json:"host_port,omitempty" doc:"0 for a free one, chosen at start"`
	Port     uint16 `json:"port" doc:"in the instance"`
	Protocol string `json:"protocol,omitempty" enum:"tcp,udp" doc:"default tcp"`
}

// Security narrows or widens what an instance may do. The zero value is the
// safe default.
type Security struct {
	ReadOnly   bool     `json:"read_only,omitempty" doc:"the root filesystem cannot be written"`
	CapAdd     []string `json:"cap_add,omitempty" doc:"as in NET_ADMIN, or ALL; a container's hold in its own user namespace only"`
	CapDrop    []string `json:"cap_drop,omitempty"`
	HostUsers  bool     `json:"host_users,omitempty" doc:"no user namespace: root in the container is root on the host"`
	NewPrivs   bool     `json:"new_privileges,omitempty" doc:"allow setuid programs to gain privileges"`
	Unconfined bool     `json:"unconfined,omitempty" doc:"no seccomp filter, no masked paths"`
	Landlock   string   `json:"landlock,omitempty" doc:"a profile of Landlock, as JSON: what a container may do with its files and ports; see docs/landlock.md"`
}

// VMSpec is what only a VM has. What is left out follows from the
// virtualization, as Machine tells.
type VMSpec struct {
	Virtualization Virtualization `json:"virtualization,omitempty" enum:"auto,hardware,para,full" doc:"default auto"`
	Kernel         string         `json:"kernel,omitempty" doc:"a kernel image; default kernel/debian-cloud, or kernel/debian-standard where a device is emulated"`
	CPUModel       string         `json:"cpu_model,omitempty" doc:"as QEMU names it, with features, as in EPYC,+svm"`
	Machine        MachineType    `json:"machine,omitempty" enum:"microvm,q35,pc,virt"`
	DiskBus        DiskBus        `json:"disk_bus,omitempty" enum:"virtio,ahci,ide"`
	NICModel       NICModel       `json:"nic_model,omitempty" enum:"virtio,e1000,e1000e,rtl8139"`
	Firmware       Firmware       `json:"firmware,omitempty" enum:"none,bios,uefi"`
	Graphics       bool           `json:"graphics,omitempty" doc:"a display, which screenshots and VNC show, with keyboard and tablet"`
	TPM            bool           `json:"tpm,omitempty" doc:"a TPM 2.0, whose state is the instance's"`
	Watchdog       bool           `json:"watchdog,omitempty" doc:"a watchdog: a guest that feeds it no more has crashed"`
	OnCrash        CrashPolicy    `json:"on_crash,omitempty" enum:"restart,stop,pause" doc:"what becomes of a guest that crashed; default: as the guest has it, with a watchdog stop"`
	GuestOS        GuestOS        `json:"guest_os,omitempty" enum:"linux,windows" doc:"what a disk image holds, which decides devices and clock; default linux"`
	KSM            bool           `json:"ksm,omitempty" doc:"let the host's kernel keep pages once that are equal to those of other VMs that allow it; a guest can find out what others have"`
	ColdBoot       bool           `json:"cold_boot,omitempty" doc:"boot the machine, where it could begin as a copy of one that has booted"`

	// What follows is for disk images; the last three are told to the guest, by
	// cloud-init's NoCloud.
	CDROM         string `json:"cdrom,omitempty" doc:"of a disk image: a disc for its drive, an absolute path of the host"`
	BootCDROM     bool   `json:"boot_cdrom,omitempty" doc:"of a disk image: start from the disc first; default: from the disk, and from the disc where that has nothing to start"`
	UserData      string `json:"user_data,omitempty" doc:"of a disk image: cloud-init's user-data"`
	NetworkConfig string `json:"network_config,omitempty" doc:"of a disk image: cloud-init's network-config; default: the instance's own addresses"`
	SSHKeys       string `json:"ssh_keys,omitempty" doc:"of a disk image: public keys of the guest's default user, one a line"`
}

// GuestOS is the family of systems that a VM is made for.
type GuestOS string

// The families.
const (
	GuestLinux   GuestOS = "linux"
	GuestWindows GuestOS = "windows"
)

// MachineType is the board of a VM.
type MachineType string

// The boards.
const (
	MachineMicroVM MachineType = "microvm" // amd64: virtio alone, no PCI
	MachineQ35     MachineType = "q35"     // amd64: PCI Express
	MachinePC      MachineType = "pc"      // amd64: PCI, ISA, IDE
	MachineVirt    MachineType = "virt"    // arm64: PCI Express
)

// DiskBus is what a VM reaches its disks by.
type DiskBus string

// The buses of disks.
const (
	DiskVirtio DiskBus = "virtio"
	DiskAHCI   DiskBus = "ahci" // SATA
	DiskIDE    DiskBus = "ide"
)

// NICModel is the network card a VM sees.
type NICModel string

// The network cards.
const (
	NICVirtio  NICModel = "virtio"
	NICE1000   NICModel = "e1000"
	NICE1000E  NICModel = "e1000e"
	NICRTL8139 NICModel = "rtl8139"
)

// Firmware is what starts a VM's kernel.
type Firmware string

// The firmwares.
const (
	FirmwareNone Firmware = "none" // the host hands the kernel over
	FirmwareBIOS Firmware = "bios"
	FirmwareUEFI Firmware = "uefi"
)

// CrashPolicy says what becomes of a VM whose guest crashed: its kernel panicked, or fed
// its watchdog no more.
type CrashPolicy string

// The crash policies.
const (
	CrashRestart CrashPolicy = "restart" // it is started again
	CrashStop    CrashPolicy = "stop"    // it ends as failed; the restart policy decides
	CrashPause   CrashPolicy = "pause"   // it is kept as it is, to be looked at
)

// Machine is what a VM is made of once everything is decided.
type Machine struct {
	Virtualization Virtualization `json:"virtualization" enum:"hardware,para,full"`
	Reason         string         `json:"reason" doc:"one line: why this virtualization"`
	Arch           string         `json:"arch" doc:"of the processor, as in amd64"`
	Accelerator    string         `json:"accelerator" enum:"kvm,tcg" doc:"what runs the processor: the host's own, or QEMU's emulation"`
	CPUModel       string         `json:"cpu_model"`
	Type           MachineType    `json:"machine" enum:"microvm,q35,pc,virt"`
	DiskBus        DiskBus        `json:"disk_bus" enum:"virtio,ahci,ide"`
	NICModel       NICModel       `json:"nic_model" enum:"virtio,e1000,e1000e,rtl8139"`
	Firmware       Firmware       `json:"firmware" enum:"none,bios,uefi"`
	Graphics       bool           `json:"graphics,omitempty" doc:"it has a display"`
	TPM            bool           `json:"tpm,omitempty" doc:"it has a TPM 2.0"`
	GuestOS        GuestOS        `json:"guest_os,omitempty" enum:"linux,windows" doc:"the system it is made for; none where that is Linux"`
	Watchdog       bool           `json:"watchdog,omitempty" doc:"it has a watchdog"`
	OnCrash        CrashPolicy    `json:"on_crash,omitempty" enum:"restart,stop,pause" doc:"what becomes of it when its guest crashes; none where nobody looks"`
	Template       string         `json:"template,omitempty" doc:"the saved machine that this one began as a copy of; none where it was booted"`
	Start          string         `json:"start,omitempty" doc:"one line: whether it is booted or begins as a copy of a template or of another VM, and why"`
}

// Explanation says what was decided for a VM and what else there is.
type Explanation struct {
	Name    string  `json:"name"`
	State   State   `json:"state"`
	Kernel  string  `json:"kernel" doc:"the guest kernel's image"`
	Machine Machine `json:"machine" doc:"of the present run, or what the next start would decide"`
	Classes []Class `json:"classes" doc:"every virtualization, the strongest first"`
}

// Class is one virtualization, as it concerns one VM.
type Class struct {
	Virtualization Virtualization `json:"virtualization" enum:"hardware,para,full"`
	Chosen         bool           `json:"chosen,omitempty"`
	Possible       bool           `json:"possible" doc:"for this VM on this host"`
	Reason         string         `json:"reason" doc:"one line: what it gives, or what it would need"`
}

// Health is the verdict of the health check.
type Health string

// The verdicts.
const (
	HealthNone      Health = ""          // no health check
	HealthStarting  Health = "starting"  // no verdict yet
	HealthHealthy   Health = "healthy"   // the last check passed
	HealthUnhealthy Health = "unhealthy" // Retries checks in a row failed
)

// Status is what Berth observes of an instance.
type Status struct {
	State    State     `json:"state"`
	Error    string    `json:"error,omitempty" doc:"one line: why it failed or could not start"`
	ExitCode *int      `json:"exit_code,omitempty" doc:"of the last run; absent while unknown"`
	OOM      bool      `json:"oom,omitempty" doc:"the last run ended for lack of memory"`
	PID      int       `json:"pid,omitempty" doc:"on the host: the container's process 1 or QEMU"`
	Started  time.Time `json:"started,omitzero"`
	Finished time.Time `json:"finished,omitzero"`
	Restarts int       `json:"restarts,omitempty" doc:"by the restart policy, since the last start by a user"`
	Stopped  bool      `json:"stopped,omitempty" doc:"a user ended it: no restart policy applies, except always after a reboot"`
	Health   Health    `json:"health,omitempty"`

	Virtualization Virtualization `json:"virtualization,omitempty" doc:"what auto became"`
	Machine        *Machine       `json:"machine,omitempty" doc:"of the last run of a VM: what was decided"`
	Notice         string         `json:"notice,omitempty" doc:"one line the user should know, as why hardware virtualization is not used"`

	Interfaces []Interface `json:"interfaces,omitempty"`
	Ports      []Port      `json:"ports,omitempty" doc:"as published, free ports filled in"`
}

// Interface is a network interface of an instance.
type Interface struct {
	Network string `json:"network"`
	Name    string `json:"name" doc:"in the instance, as in eth0"`
	MAC     string `json:"mac"`
	Address string `json:"address" doc:"with prefix length, as in 10.88.0.5/24"`
	Gateway string `json:"gateway,omitempty"`
}

// Exit is how a run of an instance or a command in it ended.
type Exit struct {
	Code    int       `json:"code" doc:"the exit code; 128 + N after signal N"`
	OOM     bool      `json:"oom,omitempty"`
	Reboot  bool      `json:"reboot,omitempty" doc:"the machine asked for its reboot: the instance is started again"`
	Crashed bool      `json:"crashed,omitempty" doc:"the guest of a VM crashed, and its crash policy ended it"`
	Error   string    `json:"error,omitempty" doc:"one line, when the end was a fault and not the command's own"`
	Time    time.Time `json:"time"`
}
