package cli

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/cmd/berth/internal/parse"
)

// spec reads the flags, the image and the command into a specification. What
// needs the host's or the image's knowledge is left to the daemon.
func (o *specOptions) spec(g *global, args []string) (api.Spec, error) {
	if o.privileged {
		return api.Spec{}, errors.New("--privileged: Berth has no such mode; grant what the workload needs with --cap-add, --security-opt or --userns=host, or give it a machine of its own with --vm")
	}
	if !slices.Contains([]string{pullAlways, pullMissing, pullNever, pullLazy}, o.pull) {
		return api.Spec{}, fmt.Errorf("--pull: %q is not a policy; write always, missing, lazy or never", o.pull)
	}
	spec := api.Spec{
		Name:       o.name,
		Kind:       api.Container,
		Image:      args[0],
		User:       o.user,
		WorkingDir: o.workdir,
		Hostname:   o.hostname,
		TTY:        o.tty,
		AutoRemove: o.rm,
		StopSignal: o.stopSignal,
	}
	if err := value("--platform", o.platform, &spec.Platform, parse.Platform); err != nil {
		return api.Spec{}, err
	}
	if len(args) > 1 {
		spec.Command = args[1:]
	}
	if o.set("entrypoint") {
		spec.Entrypoint = []string{o.entrypoint}
	}
	for _, read := range []func(*global, *api.Spec) error{
		o.readEnv, o.readLabels, o.readInit, o.readLife, o.readLimits, o.readMounts, o.readNetwork, o.readSecurity, o.readHealth, o.readVM,
	} {
		if err := read(g, &spec); err != nil {
			return api.Spec{}, err
		}
	}
	return spec, nil
}

// readEnv merges files of variables and single ones; the latter win.
func (o *specOptions) readEnv(g *global, spec *api.Spec) error {
	var pairs []string
	for _, name := range o.envFiles {
		lines, err := readLines("--env-file", name)
		if err != nil {
			return err
		}
		pairs = append(pairs, lines...)
	}
	for _, p := range append(pairs, o.env...) {
		v, err := parse.Env(p, g.Env)
		if err != nil {
			return fmt.Errorf("-e: %w", err)
		}
		if v != "" {
			spec.Env = setEnv(spec.Env, v)
		}
	}
	return nil
}

// setEnv adds NAME=VALUE, in place of an earlier value of the same name.
func setEnv(env []string, v string) []string {
	name, _, _ := strings.Cut(v, "=")
	i := slices.IndexFunc(env, func(have string) bool { return strings.HasPrefix(have, name+"=") })
	if i < 0 {
		return append(env, v)
	}
	env[i] = v
	return env
}

func (o *specOptions) readLabels(_ *global, spec *api.Spec) error {
	var pairs []string
	for _, name := range o.labelFiles {
		lines, err := readLines("--label-file", name)
		if err != nil {
			return err
		}
		pairs = append(pairs, lines...)
	}
	var err error
	if spec.Labels, err = parse.Labels(append(pairs, o.labels...)); err != nil {
		return fmt.Errorf("--label: %w", err)
	}
	return nil
}

// readLines reads a file of variables or labels.
func readLines(flag, name string) ([]string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	defer f.Close()
	lines, err := parse.Lines(f, name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return lines, nil
}

func (o *specOptions) readInit(_ *global, spec *api.Spec) error {
	return value("--init", o.init, &spec.Init, parse.Init)
}

// readLife reads when the instance ends and starts again.
func (o *specOptions) readLife(_ *global, spec *api.Spec) error {
	if o.set("stop-timeout") {
		d, err := parse.Seconds(o.stopTimeout)
		if err != nil {
			return fmt.Errorf("--stop-timeout: %w", err)
		}
		if d == 0 {
			d = time.Nanosecond // zero stands for the default; no grace is the shortest one
		}
		spec.StopTimeout = api.Duration(d)
	}
	if o.restart == "" {
		return nil
	}
	policy, err := parse.Restart(o.restart)
	if err != nil {
		return fmt.Errorf("--restart: %w", err)
	}
	if o.rm && policy.Mode != api.RestartNo {
		return errors.New("--rm and --restart contradict each other; leave one out")
	}
	spec.Restart = policy
	return nil
}

func (o *specOptions) readLimits(_ *global, spec *api.Spec) error {
	l := &spec.Limits
	l.CPUSet, l.PIDs = o.cpuset, o.pidsLimit
	err := errors.Join(
		value("--cpus", o.cpus, &l.CPUs, parse.CPUs),
		value("--memory", o.memory, &l.Memory, parse.Size),
		value("--memory-swap", o.memorySwap, &l.MemorySwap, parse.SizeOrUnlimited),
		value("--disk", o.disk, &l.Disk, parse.Size),
		o.rates.read(l),
	)
	if err != nil {
		return err
	}
	if l.CPUWeight, err = parse.Weight(o.cpuShares); err != nil {
		return fmt.Errorf("--cpu-shares: %w", err)
	}
	for _, s := range o.ulimits {
		u, err := parse.Ulimit(s)
		if err != nil {
			return fmt.Errorf("--ulimit: %w", err)
		}
		spec.Ulimits = append(spec.Ulimits, u)
	}
	return nil
}

// value reads the text of a flag, where there is one, into v.
func value[T any](flag, text string, v *T, read func(string) (T, error)) error {
	if text == "" {
		return nil
	}
	got, err := read(text)
	if err != nil {
		return fmt.Errorf("%s: %w", flag, err)
	}
	*v = got
	return nil
}

func (o *specOptions) readMounts(_ *global, spec *api.Spec) error {
	cwd, err := os.Getwd()
	if err != nil {
		return err
	}
	add := func(flag string, texts []string, read func(string) (api.Mount, error)) error {
		for _, text := range texts {
			m, err := read(text)
			if err != nil {
				return fmt.Errorf("%s: %w", flag, err)
			}
			spec.Mounts = append(spec.Mounts, m)
		}
		return nil
	}
	return errors.Join(
		add("-v", o.volumes, func(s string) (api.Mount, error) { return parse.Volume(s, cwd) }),
		add("--mount", o.mounts, func(s string) (api.Mount, error) { return parse.Mount(s, cwd) }),
		add("--tmpfs", o.tmpfs, parse.Tmpfs),
	)
}

func (o *specOptions) readNetwork(_ *global, spec *api.Spec) error {
	n := &spec.Network
	n.Address, n.MAC, n.DNS = o.ip, o.mac, o.dns
	for i, s := range o.networks {
		nic, err := parse.NIC(s)
		if err != nil {
			return fmt.Errorf("--network: %w", err)
		}
		if i > 0 {
			n.NICs = append(n.NICs, nic)
			continue
		}
		if nic.Address != "" && o.ip != "" || nic.MAC != "" && o.mac != "" {
			return fmt.Errorf("--network %s: --ip and --mac-address say it, too; leave one out", s)
		}
		n.Name, n.Address, n.MAC = nic.Network, cmp.Or(nic.Address, o.ip), cmp.Or(nic.MAC, o.mac)
	}
	for _, h := range o.addHosts {
		name, address, ok := strings.Cut(h, ":")
		if !ok || name == "" || address == "" {
			return fmt.Errorf("--add-host: %q has no address; write NAME:ADDRESS", h)
		}
		n.Hosts = append(n.Hosts, h)
	}
	for _, s := range o.publish {
		ports, err := parse.Publish(s)
		if err != nil {
			return fmt.Errorf("-p: %w", err)
		}
		n.Publish = append(n.Publish, ports...)
	}
	if len(n.Publish) > 0 && (n.Name == api.NetworkNone || n.Name == api.NetworkHost) {
		return fmt.Errorf("-p: there is nothing to publish with --network %s; leave one out", n.Name)
	}
	return nil
}

func (o *specOptions) readSecurity(_ *global, spec *api.Spec) error {
	s := &spec.Security
	s.ReadOnly = o.readOnly
	for _, c := range o.capAdd {
		s.CapAdd = append(s.CapAdd, parse.Capability(c))
	}
	for _, c := range o.capDrop {
		s.CapDrop = append(s.CapDrop, parse.Capability(c))
	}
	switch o.userns {
	case "":
	case "host":
		s.HostUsers = true
	default:
		return fmt.Errorf("--userns: %q is not known; leave it out for a user namespace of its own, or write host", o.userns)
	}
	for _, opt := range o.securityOpt {
		option := strings.Replace(opt, "=", ":", 1)
		if name, ok := strings.CutPrefix(option, "landlock:"); ok {
			profile, err := readSpecFile(name)
			if err != nil {
				return fmt.Errorf("--security-opt landlock: %w", err)
			}
			s.Landlock = profile
			continue
		}
		switch option {
		case "no-new-privileges", "no-new-privileges:true":
			s.NewPrivs = false
		case "no-new-privileges:false":
			s.NewPrivs = true
		case "seccomp:unconfined":
			s.Unconfined = true
		default:
			return fmt.Errorf("--security-opt: %q is not known; write no-new-privileges[:false], seccomp=unconfined or landlock=FILE", opt)
		}
	}
	return nil
}

func (o *specOptions) readHealth(_ *global, spec *api.Spec) error {
	h := api.HealthCheck{Retries: o.healthRetries}
	duration := func(s string) (api.Duration, error) {
		d, err := parse.Duration(s)
		return api.Duration(d), err
	}
	err := errors.Join(
		value("--health-interval", o.healthInterval, &h.Interval, duration),
		value("--health-timeout", o.healthTimeout, &h.Timeout, duration),
		value("--health-start-period", o.healthStart, &h.StartPeriod, duration),
	)
	if err != nil {
		return err
	}
	if h.Retries < 0 {
		return fmt.Errorf("--health-retries: %d is negative", h.Retries)
	}
	tuned := h.Retries != 0 || h.Interval != 0 || h.Timeout != 0 || h.StartPeriod != 0
	switch {
	case o.noHealth && (tuned || o.healthCmd != ""):
		return errors.New("--no-healthcheck contradicts the other --health flags; leave one out")
	case o.noHealth:
		h.Test = []string{"NONE"}
	case o.healthCmd != "":
		h.Test = []string{"CMD-SHELL", o.healthCmd}
	case !tuned:
		return nil
	default:
		h.Test = []string{} // the image's, with other times
	}
	spec.Health = &h
	return nil
}

// vmFlags are the flags that only a VM has.
var vmFlags = []string{"virt", "kernel", "disk", "cpu-model", "machine", "disk-bus", "nic-model", "firmware", "cold-boot", "graphics", "tpm", "watchdog", "on-crash", "guest-os", "ksm"}

func (o *specOptions) readVM(_ *global, spec *api.Spec) error {
	seed, err := o.readSeed()
	if err != nil {
		return err
	}
	spec.VM = seed
	if !o.vm {
		for _, flag := range vmFlags {
			if o.set(flag) {
				return fmt.Errorf("--%s is about a VM; add --vm, or leave it out", flag)
			}
		}
		return nil
	}
	spec.Kind = api.VM
	spec.VM.Kernel, spec.VM.CPUModel, spec.VM.Graphics, spec.VM.TPM, spec.VM.ColdBoot = o.kernel, o.cpuModel, o.graphics, o.tpm, o.coldBoot
	spec.VM.Watchdog, spec.VM.KSM = o.watchdog, o.ksm
	return errors.Join(
		oneOf("--virt", o.virt, &spec.VM.Virtualization, api.VirtAuto, api.VirtHardware, api.VirtPara, api.VirtFull),
		oneOf("--machine", o.machine, &spec.VM.Machine, api.MachineMicroVM, api.MachineQ35, api.MachinePC, api.MachineVirt),
		oneOf("--disk-bus", o.diskBus, &spec.VM.DiskBus, api.DiskVirtio, api.DiskAHCI, api.DiskIDE),
		oneOf("--nic-model", o.nic, &spec.VM.NICModel, api.NICVirtio, api.NICE1000, api.NICE1000E, api.NICRTL8139),
		oneOf("--guest-os", o.guestOS, &spec.VM.GuestOS, api.GuestLinux, api.GuestWindows),
		oneOf("--on-crash", o.onCrash, &spec.VM.OnCrash, api.CrashRestart, api.CrashStop, api.CrashPause),
		oneOf("--firmware", o.firmware, &spec.VM.Firmware, api.FirmwareNone, api.FirmwareBIOS, api.FirmwareUEFI),
	)
}

// maxSpecFile bounds a file that goes into a specification, in bytes, to what fits a
// request.
const maxSpecFile = 512 << 10

// readSpecFile reads a file that goes into a specification.
func readSpecFile(name string) (string, error) {
	content, err := os.ReadFile(name)
	if err == nil && len(content) > maxSpecFile {
		err = fmt.Errorf("%s has more than %d bytes", name, maxSpecFile)
	}
	return string(content), err
}

// readSeed reads the files that the guest of a disk image is given.
func (o *specOptions) readSeed() (vm api.VMSpec, err error) {
	read := func(flag, name string, text *string) {
		if name == "" || err != nil {
			return
		}
		var content string
		if content, err = readSpecFile(name); err != nil {
			err = fmt.Errorf("%s: %w", flag, err)
			return
		}
		*text += content
	}
	if o.cdrom != "" {
		if vm.CDROM, err = filepath.Abs(o.cdrom); err != nil {
			return vm, err
		}
	}
	vm.BootCDROM = o.bootCDROM
	read("--user-data", o.userData, &vm.UserData)
	read("--network-config", o.networkConfig, &vm.NetworkConfig)
	for _, name := range o.sshKeys {
		read("--ssh-key", name, &vm.SSHKeys)
		vm.SSHKeys += "\n"
	}
	return vm, err
}

// oneOf reads a flag that takes one of few words.
func oneOf[T ~string](flag, text string, v *T, words ...T) error {
	if text != "" && !slices.Contains(words, T(text)) {
		names := make([]string, len(words))
		for i, word := range words {
			names[i] = string(word)
		}
		last := len(names) - 1
		return fmt.Errorf("%s: %q is not known; write %s or %s", flag, text, strings.Join(names[:last], ", "), names[last])
	}
	*v = T(text)
	return nil
}
