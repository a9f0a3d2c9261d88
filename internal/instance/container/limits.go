package container

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/oci/wire"
)

// defaultPIDs keeps a fork bomb from taking the host with it.
const defaultPIDs = 4096

// cpuPeriod is the kernel's own default, in microseconds.
const cpuPeriod = 100000

// resources translates limits, whose zero values mean no limit, into all those
// that Update may change: each is given explicitly, so that applying the result to
// a running container makes its limits exactly these.
func resources(l api.Limits, host instance.Host) *specs.LinuxResources {
	memory, swap := l.Memory, l.MemorySwap
	if memory <= 0 {
		memory, swap = -1, -1
	} else if swap == 0 {
		swap = memory // no swap beyond the memory limit
	}
	pids := l.PIDs
	if pids == 0 {
		pids = defaultPIDs
	}
	quota, period := int64(-1), uint64(cpuPeriod)
	if l.CPUs > 0 {
		quota = max(int64(math.Round(l.CPUs*cpuPeriod)), 1000) // the kernel's least: 1 ms
	}
	r := &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
		CPU:     &specs.LinuxCPU{Quota: &quota, Period: &period, Cpus: l.CPUSet},
		Memory:  &specs.LinuxMemory{Limit: &memory, Swap: &swap},
		Pids:    &specs.LinuxPids{Limit: &pids},
	}
	weight := l.CPUWeight
	if weight == 0 {
		weight = 100
	}
	if host.CgroupV2 {
		r.Unified = map[string]string{"cpu.weight": fmt.Sprint(weight)}
	} else {
		shares := max(weight*1024/100, 2) // v1's default is 1024
		r.CPU.Shares = &shares
	}
	throttle(r, l, host)
	return given(r, host)
}

// throttle limits what the container does with the disk that holds what it writes.
// What stands there takes the place of what there was, so a limit that is lifted is
// written too.
func throttle(r *specs.LinuxResources, l api.Limits, host instance.Host) {
	if l.DiskIOPS == (api.Rate{}) && l.DiskBandwidth == (api.Rate{}) {
		return
	}
	major, minor := host.Disk.Major, host.Disk.Minor
	if host.CgroupV2 {
		most := func(rate api.Rate) string {
			if rate.Limits() {
				return fmt.Sprint(rate.Limit)
			}
			return "max"
		}
		bandwidth, iops := most(l.DiskBandwidth), most(l.DiskIOPS)
		r.Unified["io.max"] = fmt.Sprintf("%d:%d rbps=%s wbps=%s riops=%s wiops=%s", major, minor, bandwidth, bandwidth, iops, iops)
		return
	}
	limit := func(rate api.Rate) []specs.LinuxThrottleDevice {
		d := specs.LinuxThrottleDevice{Rate: uint64(max(rate.Limit, 0))} // 0 lifts it
		d.Major, d.Minor = int64(major), int64(minor)
		return []specs.LinuxThrottleDevice{d}
	}
	r.BlockIO = &specs.LinuxBlockIO{
		ThrottleReadBpsDevice: limit(l.DiskBandwidth), ThrottleWriteBpsDevice: limit(l.DiskBandwidth),
		ThrottleReadIOPSDevice: limit(l.DiskIOPS), ThrottleWriteIOPSDevice: limit(l.DiskIOPS),
	}
}

// throttleable says why a container's disk cannot be limited as wanted.
func throttleable(l api.Limits, host instance.Host) error {
	switch {
	case l.DiskIOPS.Burst != 0:
		return errors.New("--disk-iops: the kernel knows no bursts of a container's disk; leave the burst out, or use a VM")
	case l.DiskBandwidth.Burst != 0:
		return errors.New("--disk-bandwidth: the kernel knows no bursts of a container's disk; leave the burst out, or use a VM")
	case (l.DiskIOPS.Limits() || l.DiskBandwidth.Limits()) && host.Disk == (instance.BlockDevice{}):
		return errors.New("--disk-iops and --disk-bandwidth: berthd's data are on a filesystem without a disk of its own, which the kernel could limit; use a VM, or put --root on one")
	}
	return nil
}

// ulimits translates docker's names.
func ulimits(list []api.Ulimit) ([]specs.POSIXRlimit, error) {
	var out []specs.POSIXRlimit
	for _, u := range list {
		name := "RLIMIT_" + strings.ToUpper(u.Name)
		if _, ok := wire.Rlimit(name); !ok {
			return nil, fmt.Errorf("unknown ulimit %q; setrlimit(2) lists them", u.Name)
		}
		r := specs.POSIXRlimit{Type: name, Soft: limitValue(u.Soft), Hard: limitValue(u.Hard)}
		if r.Soft > r.Hard {
			return nil, fmt.Errorf("ulimit %s: the soft limit is above the hard limit", u.Name)
		}
		out = append(out, r)
	}
	return out, nil
}

// limited reports whether any limit is asked for that resources translates, beyond the
// default ones.
func limited(l api.Limits) bool {
	return l.DiskIOPS.Limits() || l.DiskBandwidth.Limits() || l.Memory > 0 || l.MemorySwap != 0 || l.CPUs > 0 || l.CPUSet != "" || l.CPUWeight != 0 || l.PIDs != 0 && l.PIDs != defaultPIDs
}

// initial leaves out of resources what a new cgroup has anyway: each limit is a
// write to a file of its own.
func initial(l api.Limits, host instance.Host) *specs.LinuxResources {
	r := resources(l, host)
	if r == nil {
		return nil
	}
	if l.Memory <= 0 {
		r.Memory = nil
	}
	if l.CPUs <= 0 {
		r.CPU.Quota, r.CPU.Period = nil, nil
	}
	if l.CPUWeight == 0 || l.CPUWeight == 100 {
		r.CPU.Shares = nil
		delete(r.Unified, "cpu.weight")
	}
	return r
}

// limitValue returns RLIM_INFINITY for -1.
func limitValue(n int64) uint64 {
	if n < 0 {
		return math.MaxUint64
	}
	return uint64(n)
}
