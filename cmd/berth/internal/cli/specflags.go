package cli

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/berthcloud/berth/api"
)

// The policies of --pull.
const (
	pullAlways  = "always"
	pullMissing = "missing"
	pullNever   = "never"
	pullLazy    = "lazy" // missing, and as berth pull --lazy
)

// specOptions are the flags that describe an instance, shared by create and
// run, as the user wrote them. Method spec reads them.
type specOptions struct {
	// The instance.
	name, hostname, user, workdir, entrypoint string
	init                                      string
	env, envFiles, labels, labelFiles         []string
	interactive, tty, rm                      bool
	stopSignal, stopTimeout, restart          string

	// What it may use.
	cpus, cpuset, memory, memorySwap, disk string
	rates                                  rateOptions
	cpuShares                              uint64
	pidsLimit                              int64
	ulimits                                []string

	// What it sees.
	volumes, mounts, tmpfs       []string
	networks                     []string
	ip, mac                      string
	publish, dns, addHosts       []string
	readOnly, privileged         bool
	capAdd, capDrop, securityOpt []string
	userns                       string

	// Its health.
	healthCmd, healthInterval, healthTimeout, healthStart string
	healthRetries                                         int
	noHealth                                              bool

	// A VM.
	vm                              bool
	virt, kernel, cpuModel          string
	machine, diskBus, nic, firmware string
	graphics, tpm, coldBoot         bool
	watchdog, ksm                   bool
	onCrash, guestOS                string
	cdrom, userData, networkConfig  string
	bootCDROM                       bool
	sshKeys                         []string

	// How it is made.
	platform, pull, cidfile string
	quiet                   bool

	set func(flag string) bool // whether the user gave a flag
}

// addFlags declares the flags under the names docker users know.
func (o *specOptions) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.SetInterspersed(false) // what follows the image belongs to the command
	f.SetNormalizeFunc(specAliases)
	f.Bool("help", false, "print this help") // declared here to leave -h to --hostname
	o.set = f.Changed

	f.StringVar(&o.name, "name", "", "name of the instance (default: a made-up one)")
	f.StringVarP(&o.hostname, "hostname", "h", "", "host name (default: the beginning of the id)")
	f.StringVarP(&o.user, "user", "u", "", "user, as NAME|UID[:GROUP|GID]")
	f.StringVarP(&o.workdir, "workdir", "w", "", "working directory")
	f.StringVar(&o.entrypoint, "entrypoint", "", "replace the image's entrypoint")
	f.StringArrayVarP(&o.env, "env", "e", nil, "variable NAME=VALUE, or NAME to pass on the client's")
	f.StringArrayVar(&o.envFiles, "env-file", nil, "read variables from a file")
	f.StringArrayVarP(&o.labels, "label", "l", nil, "label NAME=VALUE")
	f.StringArrayVar(&o.labelFiles, "label-file", nil, "read labels from a file")
	f.BoolVarP(&o.interactive, "interactive", "i", false, "keep standard input open")
	f.BoolVarP(&o.tty, "tty", "t", false, "give it a terminal")
	f.StringVar(&o.init, "init", "", "process 1: none for the entrypoint, reap for a reaping init above it, system for the image's own init, which boots it as a machine (default none; --init alone: reap)")
	f.Lookup("init").NoOptDefVal = string(api.InitReap)
	f.BoolVar(&o.rm, "rm", false, "remove it when it has exited")
	f.StringVar(&o.stopSignal, "stop-signal", "", "signal of 'berth stop' (default: the image's, else SIGTERM)")
	f.StringVar(&o.stopTimeout, "stop-timeout", "", "seconds of grace before SIGKILL (default 10)")
	f.StringVar(&o.restart, "restart", "", "when to start it again: no, on-failure[:N], always, unless-stopped")

	f.StringVar(&o.cpus, "cpus", "", "number of processors, as in 1.5")
	f.Uint64VarP(&o.cpuShares, "cpu-shares", "c", 0, "share of processor time under contention (default 1024)")
	f.StringVar(&o.cpuset, "cpuset-cpus", "", "processors to run on, as in 0-2,4")
	f.StringVarP(&o.memory, "memory", "m", "", "memory limit, as in 512m")
	f.StringVar(&o.memorySwap, "memory-swap", "", "limit of memory and swap together; -1 for unlimited swap")
	f.Int64Var(&o.pidsLimit, "pids-limit", 0, "limit of processes; -1 for none")
	f.StringVar(&o.disk, "disk", "", "size of a VM's writable layer, or of its disk, as in 10g")
	o.rates.define(f)
	f.StringArrayVar(&o.ulimits, "ulimit", nil, "resource limit NAME=SOFT[:HARD]")

	f.StringArrayVarP(&o.volumes, "volume", "v", nil, "mount [SOURCE:]TARGET[:ro]; a SOURCE with / is a path, else a volume")
	f.StringArrayVar(&o.mounts, "mount", nil, "mount type=bind|volume|tmpfs|disk,source=SOURCE,target=TARGET[,readonly][,size=SIZE]")
	f.StringArrayVar(&o.tmpfs, "tmpfs", nil, "mount a tmpfs TARGET[:size=SIZE,mode=MODE]")
	f.StringArrayVar(&o.networks, "network", nil, "network: default, none, host, or NAME; several for an interface on each")
	f.StringVar(&o.ip, "ip", "", "address in the first network")
	f.StringVar(&o.mac, "mac-address", "", "MAC address")
	f.StringArrayVarP(&o.publish, "publish", "p", nil, "lead a port of the host to it: [[IP:]HOST-PORT:]PORT[/udp]")
	f.StringArrayVar(&o.dns, "dns", nil, "name server instead of the network's own")
	f.StringArrayVar(&o.addHosts, "add-host", nil, "line of /etc/hosts, NAME:ADDRESS")
	f.BoolVar(&o.readOnly, "read-only", false, "make the root filesystem read-only")
	f.BoolVar(&o.privileged, "privileged", false, "refused; see --cap-add, --security-opt, --userns, --vm")
	f.StringArrayVar(&o.capAdd, "cap-add", nil, "grant a capability, or ALL")
	f.StringArrayVar(&o.capDrop, "cap-drop", nil, "take a capability away, or ALL")
	f.StringArrayVar(&o.securityOpt, "security-opt", nil, "no-new-privileges[:false], seccomp=unconfined, landlock=FILE")
	f.StringVar(&o.userns, "userns", "", "user namespace: host for none of its own")

	f.StringVar(&o.healthCmd, "health-cmd", "", "shell command that checks its health")
	f.StringVar(&o.healthInterval, "health-interval", "", "time between checks (default 30s)")
	f.StringVar(&o.healthTimeout, "health-timeout", "", "longest time of one check (default 30s)")
	f.StringVar(&o.healthStart, "health-start-period", "", "time after the start in which failures do not count")
	f.IntVar(&o.healthRetries, "health-retries", 0, "failures in a row that make it unhealthy (default 3)")
	f.BoolVar(&o.noHealth, "no-healthcheck", false, "do without the image's health check")

	o.addVMFlags(cmd)

	f.StringVar(&o.platform, "platform", "", "platform of the image, as in linux/arm64; one for another processor takes --vm (default: the host's)")
	f.StringVar(&o.pull, "pull", pullMissing, "when to pull the image: always, missing, never; lazy is missing, and lets it start before all of it has arrived")
	f.StringVar(&o.cidfile, "cidfile", "", "write the id to a new file")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "do not show the progress of a pull")
}

// addVMFlags declares the flags that only a VM has.
func (o *specOptions) addVMFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&o.vm, "vm", false, "make it a virtual machine")
	f.StringVar(&o.virt, "virt", "", "how to virtualize a VM: auto, hardware, para, full (default auto)")
	f.StringVar(&o.kernel, "kernel", "", "kernel image of a VM (see 'berth kernel ls')")

	f.StringVar(&o.cpuModel, "cpu-model", "", "processor of a VM, as QEMU names it, with features, as in EPYC,+svm (default: the host's, or one that emulates fast)")
	f.StringVar(&o.machine, "machine", "", "board of a VM: microvm, q35, pc; for arm64 virt (default: by its devices)")
	f.StringVar(&o.diskBus, "disk-bus", "", "how a VM reaches its disks: virtio, ahci, ide (default: by --virt)")
	f.StringVar(&o.nic, "nic-model", "", "network card of a VM: virtio, e1000, e1000e, rtl8139 (default: by --virt)")
	f.StringVar(&o.firmware, "firmware", "", "what starts a VM's kernel, or what its disk holds: none, bios, uefi (default: by its machine, or its disk image)")

	f.StringVar(&o.cdrom, "cdrom", "", "of a disk image: file of the host that is a disc in its drive, as of an installer")
	f.BoolVar(&o.bootCDROM, "boot-cdrom", false, "of a disk image: start from the disc first (default: from the disk, if there is a system on it)")
	f.StringVar(&o.userData, "user-data", "", "of a disk image: file with cloud-init's user-data")
	f.StringVar(&o.networkConfig, "network-config", "", "of a disk image: file with cloud-init's network-config (default: its own addresses)")
	f.StringArrayVar(&o.sshKeys, "ssh-key", nil, "of a disk image: file with public keys of the guest's default user")

	f.BoolVar(&o.graphics, "graphics", false, "give a VM a display, which 'berth vga' shows, with keyboard and tablet")
	f.BoolVar(&o.ksm, "ksm", false, "let a VM share equal pages of memory with others that do (the host's KSM); not between tenants")
	f.StringVar(&o.guestOS, "guest-os", "", "what a disk image holds, which decides devices and clock: linux, windows (default linux)")
	f.BoolVar(&o.tpm, "tpm", false, "give a VM a TPM 2.0 that keeps its state")
	f.BoolVar(&o.watchdog, "watchdog", false, "give a VM a watchdog: a guest that feeds it no more has crashed")
	f.StringVar(&o.onCrash, "on-crash", "", "what becomes of a VM whose guest crashed: restart, stop, pause (default: as the guest has it; with --watchdog stop)")

	f.BoolVar(&o.coldBoot, "cold-boot", false, "boot the VM, where it could begin as a copy of one that has booted")

	for flag, words := range map[string][]string{
		"virt": {"auto", "hardware", "para", "full"}, "machine": {"microvm", "q35", "pc", "virt"}, "disk-bus": {"virtio", "ahci", "ide"},
		"nic-model": {"virtio", "e1000", "e1000e", "rtl8139"}, "firmware": {"none", "bios", "uefi"}, "on-crash": {"restart", "stop", "pause"},
	} {
		// It fails for a flag that does not exist alone.
		_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	}
}

// specAliases maps other spellings of flags.
func specAliases(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	switch strings.ToLower(name) {
	case "net":
		name = "network"
	case "cpuset":
		name = "cpuset-cpus"
	}
	return pflag.NormalizedName(name)
}
