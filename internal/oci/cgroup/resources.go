package cgroup

import (
	"github.com/opencontainers/cgroups"
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// resources translates the specification's limits into the library's.
func resources(r *specs.LinuxResources) (*cgroups.Resources, error) {
	out := &cgroups.Resources{}
	if r == nil {
		r = &specs.LinuxResources{}
	}
	if err := deviceRules(out, r.Devices); err != nil {
		return nil, err
	}
	memory(out, r.Memory)
	if out.MemorySwap != 0 && !countsSwap() {
		out.MemorySwap = 0 // nothing to limit: this kernel does not count swap
	}
	cpu(out, r.CPU)
	blockIO(out, r.BlockIO)
	if r.Pids != nil && r.Pids.Limit != nil {
		out.PidsLimit = r.Pids.Limit // 0 "is a valid limit value" (config-linux.md, PIDs)
	}
	for _, l := range r.HugepageLimits {
		out.HugetlbLimit = append(out.HugetlbLimit, &cgroups.HugepageLimit{Pagesize: l.Pagesize, Limit: l.Limit})
	}
	for name, l := range r.Rdma {
		if out.Rdma == nil {
			out.Rdma = map[string]cgroups.LinuxRdma{}
		}
		out.Rdma[name] = cgroups.LinuxRdma{HcaHandles: l.HcaHandles, HcaObjects: l.HcaObjects}
	}
	if n := r.Network; n != nil {
		if n.ClassID != nil {
			out.NetClsClassid = *n.ClassID
		}
		for _, p := range n.Priorities {
			out.NetPrioIfpriomap = append(out.NetPrioIfpriomap, &cgroups.IfPrioMap{Interface: p.Name, Priority: int64(p.Priority)})
		}
	}
	out.Unified = r.Unified
	return out, nil
}

// countsSwap reports whether the kernel accounts swap to cgroups, which v1 does only
// when told so on its command line.
func countsSwap() bool {
	return Unified() || unix.Access("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes", unix.F_OK) == nil
}

func memory(out *cgroups.Resources, m *specs.LinuxMemory) {
	if m == nil {
		return
	}
	set(&out.Memory, m.Limit)
	set(&out.MemoryReservation, m.Reservation)
	set(&out.MemorySwap, m.Swap)
	set(&out.OomKillDisable, m.DisableOOMKiller)
	set(&out.MemoryCheckBeforeUpdate, m.CheckBeforeUpdate)
	out.MemorySwappiness = m.Swappiness
}

func cpu(out *cgroups.Resources, c *specs.LinuxCPU) {
	if c == nil {
		return
	}
	if c.Shares != nil {
		out.CpuShares = *c.Shares
		out.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(*c.Shares)
	}
	set(&out.CpuQuota, c.Quota)
	set(&out.CpuPeriod, c.Period)
	set(&out.CpuRtRuntime, c.RealtimeRuntime)
	set(&out.CpuRtPeriod, c.RealtimePeriod)
	out.CpuBurst, out.CPUIdle = c.Burst, c.Idle
	out.CpusetCpus, out.CpusetMems = c.Cpus, c.Mems
}

func blockIO(out *cgroups.Resources, b *specs.LinuxBlockIO) {
	if b == nil {
		return
	}
	set(&out.BlkioWeight, b.Weight)
	set(&out.BlkioLeafWeight, b.LeafWeight)
	for _, d := range b.WeightDevice {
		var weight, leaf uint16
		set(&weight, d.Weight)
		set(&leaf, d.LeafWeight)
		out.BlkioWeightDevice = append(out.BlkioWeightDevice, cgroups.NewWeightDevice(d.Major, d.Minor, weight, leaf))
	}
	throttle := func(list []specs.LinuxThrottleDevice) (devs []*cgroups.ThrottleDevice) {
		for _, d := range list {
			devs = append(devs, cgroups.NewThrottleDevice(d.Major, d.Minor, d.Rate))
		}
		return devs
	}
	out.BlkioThrottleReadBpsDevice = throttle(b.ThrottleReadBpsDevice)
	out.BlkioThrottleWriteBpsDevice = throttle(b.ThrottleWriteBpsDevice)
	out.BlkioThrottleReadIOPSDevice = throttle(b.ThrottleReadIOPSDevice)
	out.BlkioThrottleWriteIOPSDevice = throttle(b.ThrottleWriteIOPSDevice)
}

// deviceRules puts the specification's rules between a denial of everything and
// the devices that every container has (config-linux.md, Default Devices).
func deviceRules(out *cgroups.Resources, list []specs.LinuxDeviceCgroup) error {
	out.Devices = []*devices.Rule{{Type: devices.WildcardDevice, Major: devices.Wildcard, Minor: devices.Wildcard, Permissions: "rwm"}}
	for _, d := range list {
		rule := &devices.Rule{Type: devices.WildcardDevice, Major: devices.Wildcard, Minor: devices.Wildcard,
			Permissions: devices.Permissions(d.Access), Allow: d.Allow}
		if d.Type != "" {
			rule.Type = devices.Type(d.Type[0])
		}
		if d.Access == "" {
			rule.Permissions = "rwm"
		}
		set(&rule.Major, d.Major)
		set(&rule.Minor, d.Minor)
		out.Devices = append(out.Devices, rule)
	}
	for _, d := range [...]struct{ major, minor int64 }{
		{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 2}, {136, devices.Wildcard}, // null zero full random urandom tty ptmx pts/*
	} {
		out.Devices = append(out.Devices, &devices.Rule{Type: devices.CharDevice, Major: d.major, Minor: d.minor, Permissions: "rwm", Allow: true})
	}
	// mknod alone gives access to nothing; package managers expect it (as runc).
	for _, t := range []devices.Type{devices.CharDevice, devices.BlockDevice} {
		out.Devices = append(out.Devices, &devices.Rule{Type: t, Major: devices.Wildcard, Minor: devices.Wildcard, Permissions: "m", Allow: true})
	}
	return nil
}

// set copies a value that the specification gives.
func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}
