package container

import (
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
	return given(r, host)
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
	return l.Memory > 0 || l.MemorySwap != 0 || l.CPUs > 0 || l.CPUSet != "" || l.CPUWeight != 0 || l.PIDs != 0 && l.PIDs != defaultPIDs
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
		r.CPU.Shares, r.Unified = nil, nil
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
