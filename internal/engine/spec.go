package engine

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/network"
)

// Defaults of a specification.
const (
	defaultStopTimeout = 10 * time.Second
	defaultPIDs        = 4096
	defaultVMMemory    = 512 << 20
	defaultVMDisk      = 10 << 30
	minVMMemory        = 96 << 20  // the smallest in which a cloud kernel boots with its modules
	minMemory          = 224 << 10 // where true of the image base runs always, on Linux 6.18; 216 did 100 times of 100, 212 did not
	minDisk            = 16 << 20
)

var (
	validName     = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$`)
	validHostname = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,62}[a-zA-Z0-9])?$`)
)

// newID returns the id of a new instance.
func newID() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails: crypto/rand aborts the program instead
	return hex.EncodeToString(b)
}

// complete fills in Berth's defaults and refuses what contradicts itself.
func (e *Engine) complete(s api.Spec, id string) (api.Spec, error) {
	if s.Kind == "" {
		s.Kind = api.Container
	}
	if s.Name == "" {
		s.Name = e.freeName(id)
	}
	if s.Hostname == "" {
		s.Hostname = id[:12]
	}
	if s.Network.Name == "" {
		s.Network.Name = api.NetworkDefault
	}
	if s.Restart.Mode == "" {
		s.Restart.Mode = api.RestartNo
	}
	if s.Init == "" {
		s.Init = api.InitNone
	}
	if s.StopTimeout == 0 {
		s.StopTimeout = api.Duration(defaultStopTimeout)
		if s.Init == api.InitSystem {
			s.StopTimeout = api.Duration(systemStopTimeout)
		}
	}
	s.Limits = completeLimits(s.Kind, s.Limits)
	if s.Kind == api.VM && s.VM.Virtualization == "" {
		s.VM.Virtualization = api.VirtAuto
	}
	for i := range s.Network.Publish {
		if s.Network.Publish[i].Protocol == "" {
			s.Network.Publish[i].Protocol = "tcp"
		}
	}
	if err := e.validate(s); err != nil {
		return s, api.E("create", api.Invalid, s.Name, err)
	}
	return s, nil
}

func completeLimits(kind api.Kind, l api.Limits) api.Limits {
	switch kind {
	case api.VM:
		if l.CPUs == 0 {
			l.CPUs = 1
		}
		if l.Memory == 0 {
			l.Memory = defaultVMMemory
		}
		if l.Disk == 0 {
			l.Disk = defaultVMDisk
		}
	default:
		if l.PIDs == 0 {
			l.PIDs = defaultPIDs
		}
	}
	return l
}

func (e *Engine) validate(s api.Spec) error {
	switch {
	case s.Kind != api.Container && s.Kind != api.VM:
		return fmt.Errorf("kind %q is unknown; use container or vm", s.Kind)
	case !validName.MatchString(s.Name):
		return errors.New("a name has 1 to 63 letters, digits, '_', '.' and '-', and begins with a letter or digit")
	case !validHostname.MatchString(s.Hostname):
		return fmt.Errorf("hostname %q: use letters, digits, '-' and '.', at most 64", s.Hostname)
	case s.Image == "":
		return errors.New("no image was named; 'berth image ls' lists those that are here")
	case s.WorkingDir != "" && !path.IsAbs(s.WorkingDir):
		return fmt.Errorf("working directory %q is not an absolute path", s.WorkingDir)
	case s.AutoRemove && s.Restart.Mode != api.RestartNo:
		return errors.New("--rm and --restart contradict each other; choose one")
	}
	for _, check := range []func(api.Spec) error{e.validateLimits, validateEnv, validateMounts, validateNetwork, validateRestart, validateInit, validateVM} {
		if err := check(s); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) validateLimits(s api.Spec) error {
	l, size := s.Limits, func(n int64) string { return units.BytesSize(float64(n)) }
	switch {
	case l.CPUs < 0:
		return fmt.Errorf("--cpus %g is negative", l.CPUs)
	case l.CPUs > float64(e.host.CPUs):
		return fmt.Errorf("--cpus %g is more than the host's %d; ask for less", l.CPUs, e.host.CPUs)
	case l.CPUWeight > 10000:
		return fmt.Errorf("cpu weight %d is not within 1 to 10000", l.CPUWeight)
	case l.Memory < 0:
		return fmt.Errorf("--memory %d is negative", l.Memory)
	case s.Kind == api.VM && l.Memory < minVMMemory:
		return fmt.Errorf("--memory %s is below a VM's minimum of %s; ask for more", size(l.Memory), size(minVMMemory))
	case l.Memory != 0 && l.Memory < minMemory:
		return fmt.Errorf("--memory %s is below a container's minimum of %s; ask for more", size(l.Memory), size(minMemory))
	case l.Memory > e.host.Memory:
		return fmt.Errorf("--memory %s is more than the host's %s; ask for less", size(l.Memory), size(e.host.Memory))
	case l.MemorySwap > 0 && l.MemorySwap < l.Memory:
		return fmt.Errorf("--memory-swap %s counts memory and swap together and must not be below --memory %s", size(l.MemorySwap), size(l.Memory))
	case l.PIDs < -1:
		return fmt.Errorf("--pids-limit %d is negative; -1 means no limit", l.PIDs)
	case l.Disk < 0 || (l.Disk > 0 && l.Disk < minDisk):
		return fmt.Errorf("--disk %s is below the minimum of %s", size(l.Disk), size(minDisk))
	case l.Disk > 0 && s.Kind == api.Container:
		return errors.New("--disk limits a VM's disk; a container's writable layer has no limit yet")
	}
	if err := validateRates(s); err != nil {
		return err
	}
	return validateCPUSet(l.CPUSet, e.host.CPUs)
}

// The least that --disk-iops, and --disk-bandwidth and --net-bandwidth take: with less
// nothing gets on.
const (
	minIOPS      = 10
	minBandwidth = 64 << 10 // bytes per second: one network packet of the largest size
)

// validateRates checks limits per second.
func validateRates(s api.Spec) error {
	l := s.Limits
	for _, r := range []struct {
		flag string
		rate api.Rate
		min  int64
	}{
		{"--disk-iops", l.DiskIOPS, minIOPS}, {"--disk-bandwidth", l.DiskBandwidth, minBandwidth}, {"--net-bandwidth", l.NetBandwidth, minBandwidth},
	} {
		switch {
		case r.rate == (api.Rate{}) || r.rate == api.Rate{Limit: -1}:
		case r.rate.Limit < r.min:
			return fmt.Errorf("%s %d is below the minimum of %d per second; -1 means no limit", r.flag, r.rate.Limit, r.min)
		case r.rate.Burst != 0 && r.rate.Burst < r.rate.Limit:
			return fmt.Errorf("%s: the burst %d is below the limit %d", r.flag, r.rate.Burst, r.rate.Limit)
		}
	}
	if l.NetBandwidth.Limits() && len(interfaces(s.Network)) == 0 {
		return fmt.Errorf("--net-bandwidth limits links to Berth's networks; with --network %s there is none", s.Network.Name)
	}
	return nil
}

// validateCPUSet reads a list of processors as cpuset(7) has it: 0-2,4.
func validateCPUSet(set string, cpus int) error {
	if set == "" {
		return nil
	}
	for part := range strings.SplitSeq(set, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		low, errLow := strconv.Atoi(from)
		high, errHigh := strconv.Atoi(to)
		if errLow != nil || errHigh != nil || low < 0 || low > high {
			return fmt.Errorf("--cpuset-cpus %q: write a list as in 0-2,4", set)
		}
		if high >= cpus {
			return fmt.Errorf("--cpuset-cpus %q: the host has only the processors 0 to %d", set, cpus-1)
		}
	}
	return nil
}

func validateEnv(s api.Spec) error {
	for _, v := range s.Env {
		name, _, ok := strings.Cut(v, "=")
		if !ok || name == "" || strings.ContainsRune(v, 0) {
			return fmt.Errorf("environment %q: write NAME=VALUE", v)
		}
	}
	for _, a := range append(append([]string{s.User, s.WorkingDir}, s.Entrypoint...), s.Command...) {
		if strings.ContainsRune(a, 0) {
			return fmt.Errorf("%q contains a NUL byte", a)
		}
	}
	return nil
}

func validateMounts(s api.Spec) error {
	targets, disks := make(map[string]bool), make(map[string]bool)
	for _, m := range s.Mounts {
		if m.Type == api.MountDisk {
			if err := validateDisk(s, m); err != nil {
				return err
			}
			name := m.Source
			if name == "" {
				name = fmt.Sprint(len(disks)) // it gets one of its own
			}
			if disks[name] {
				return fmt.Errorf("the disk %s is named twice", name)
			}
			if disks[name] = true; len(disks) > maxDisks {
				return fmt.Errorf("a VM takes at most %d further disks", maxDisks)
			}
			if m.Target == "" {
				continue
			}
		}
		target := path.Clean(m.Target)
		switch {
		case !path.IsAbs(m.Target):
			return fmt.Errorf("mount target %q is not an absolute path", m.Target)
		case target == "/":
			return errors.New("a mount cannot replace the root filesystem; choose another target")
		case targets[target]:
			return fmt.Errorf("two mounts have the target %s", target)
		case m.Type == api.MountBind && !path.IsAbs(m.Source):
			return fmt.Errorf("bind source %q is not an absolute path", m.Source)
		case m.Type == api.MountVolume && m.Source != "" && !validName.MatchString(m.Source):
			return fmt.Errorf("volume name %q: use letters, digits, '_', '.' and '-'", m.Source)
		case m.Type == api.MountTmpfs && m.Source != "":
			return fmt.Errorf("tmpfs at %s cannot have a source", target)
		case m.Type != api.MountBind && m.Type != api.MountVolume && m.Type != api.MountTmpfs && m.Type != api.MountDisk:
			return fmt.Errorf("mount type %q is unknown; use bind, volume, tmpfs or disk", m.Type)
		}
		targets[target] = true
	}
	return nil
}

func validateNetwork(s api.Spec) error {
	n := s.Network
	if len(n.NICs) > network.MaxNumber {
		return fmt.Errorf("%d networks are more than the %d that an instance can be on", len(n.NICs)+1, network.MaxNumber+1)
	}
	switch n.Name {
	case api.NetworkNone:
		if len(n.Publish) > 0 {
			return errors.New("network none has no address to publish ports of; use the default network")
		}
	case api.NetworkHost:
		if s.Kind == api.VM {
			return errors.New("a VM cannot share the host's network; use the default network and publish ports with -p")
		}
		if len(n.Publish) > 0 {
			return errors.New("on the host's network every port is already the host's; leave out -p")
		}
	}
	if err := validateNICs(n); err != nil {
		return err
	}
	return validateAddresses(n)
}

// validateNICs checks that an instance is on each network once.
func validateNICs(n api.NetworkSpec) error {
	seen := map[string]bool{n.Name: true}
	for _, nic := range n.NICs {
		switch {
		case n.Name == api.NetworkNone || n.Name == api.NetworkHost:
			return fmt.Errorf("network %s stands alone; leave out the others", n.Name)
		case nic.Network == api.NetworkNone || nic.Network == api.NetworkHost || nic.Network == "":
			return fmt.Errorf("network %q cannot be a further one; name one that berth network ls shows", nic.Network)
		case seen[nic.Network]:
			return fmt.Errorf("an instance is on network %s once; leave out the other", nic.Network)
		}
		seen[nic.Network] = true
		if _, err := netip.ParseAddr(nic.Address); nic.Address != "" && err != nil {
			return fmt.Errorf("address %q on network %s is not an IP address", nic.Address, nic.Network)
		}
	}
	return nil
}

// validateAddresses checks what leads into an instance, and what it asks.
func validateAddresses(n api.NetworkSpec) error {
	for _, p := range n.Publish {
		if p.Port == 0 {
			return errors.New("a published port needs the instance's port, as in -p 8080:80")
		}
		if p.Protocol != "tcp" && p.Protocol != "udp" {
			return fmt.Errorf("protocol %q is unknown; use tcp or udp", p.Protocol)
		}
		if p.HostIP != "" {
			if _, err := netip.ParseAddr(p.HostIP); err != nil {
				return fmt.Errorf("published address %q is not an IP address", p.HostIP)
			}
		}
	}
	if n.Address != "" {
		if _, err := netip.ParseAddr(n.Address); err != nil {
			return fmt.Errorf("--ip %q is not an IP address", n.Address)
		}
	}
	for _, d := range n.DNS {
		if _, err := netip.ParseAddr(d); err != nil {
			return fmt.Errorf("--dns %q is not an IP address", d)
		}
	}
	for _, h := range n.Hosts {
		name, addr, ok := strings.Cut(h, ":")
		if _, err := netip.ParseAddr(addr); !ok || err != nil || !validHostname.MatchString(name) {
			return fmt.Errorf("--add-host %q: write NAME:ADDRESS", h)
		}
	}
	return nil
}

func validateRestart(s api.Spec) error {
	switch r := s.Restart; r.Mode {
	case api.RestartNo, api.RestartAlways, api.RestartUnlessStopped:
		if r.MaxRetries != 0 {
			return fmt.Errorf("restart policy %s takes no number of retries; only on-failure does", r.Mode)
		}
	case api.RestartOnFailure:
		if r.MaxRetries < 0 {
			return fmt.Errorf("%d retries is negative", r.MaxRetries)
		}
	default:
		return fmt.Errorf("restart policy %q is unknown; use no, on-failure[:N], always or unless-stopped", r.Mode)
	}
	return nil
}

func validateVM(s api.Spec) error {
	if s.Kind == api.Container {
		if withoutDisk(s.VM) != (api.VMSpec{}) { // whose image decides
			return errors.New("--virt, --kernel and the flags of a VM's devices are for VMs; add --vm or leave them out")
		}
		return nil
	}
	switch s.VM.Virtualization {
	case api.VirtAuto, api.VirtHardware, api.VirtPara, api.VirtFull:
	default:
		return fmt.Errorf("virtualization %q is unknown; use auto, hardware, para or full", s.VM.Virtualization)
	}
	if s.AutoRemove && s.VM.OnCrash == api.CrashRestart {
		return errors.New("--rm and --on-crash restart contradict each other; choose one")
	}
	sec := s.Security
	if sec.HostUsers || sec.Unconfined || sec.Landlock != "" {
		return errors.New("user namespace, seccomp and Landlock options are for containers; a VM has a kernel of its own")
	}
	return nil
}
