package main

import (
	"github.com/opencontainers/cgroups"
)

// statsData is what a container uses as runc's events prints it and as go-runc, the
// library of containerd, reads it.
type statsData struct {
	CPU     cpuData                      `json:"cpu"`
	CPUSet  cgroups.CPUSetStats          `json:"cpuset"`
	Memory  memoryData                   `json:"memory"`
	Pids    pidsData                     `json:"pids"`
	Blkio   blkioData                    `json:"blkio"`
	Hugetlb map[string]hugetlbData       `json:"hugetlb"`
	Rdma    cgroups.RdmaStats            `json:"rdma,omitzero"`
	Misc    map[string]cgroups.MiscStats `json:"misc,omitempty"`
}

type cpuData struct {
	Usage struct {
		Total        uint64   `json:"total,omitempty"`
		Percpu       []uint64 `json:"percpu,omitempty"`
		PercpuKernel []uint64 `json:"percpu_kernel,omitempty"`
		PercpuUser   []uint64 `json:"percpu_user,omitempty"`
		Kernel       uint64   `json:"kernel"`
		User         uint64   `json:"user"`
	} `json:"usage"`
	Throttling struct {
		Periods          uint64 `json:"periods,omitempty"`
		ThrottledPeriods uint64 `json:"throttledPeriods,omitempty"`
		ThrottledTime    uint64 `json:"throttledTime,omitempty"`
	} `json:"throttling"`
	PSI *cgroups.PSIStats `json:"psi,omitempty"`
}

type memoryData struct {
	Cache     uint64            `json:"cache,omitempty"`
	Usage     memoryEntry       `json:"usage"`
	Swap      memoryEntry       `json:"swap"`
	Kernel    memoryEntry       `json:"kernel"`
	KernelTCP memoryEntry       `json:"kernelTCP"`
	Raw       map[string]uint64 `json:"raw,omitempty"`
	PSI       *cgroups.PSIStats `json:"psi,omitempty"`
}

type memoryEntry struct {
	Limit   uint64 `json:"limit"`
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

type pidsData struct {
	Current uint64 `json:"current,omitempty"`
	Limit   uint64 `json:"limit,omitempty"`
}

type hugetlbData struct {
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

type blkioData struct {
	IoServiceBytes []cgroups.BlkioStatEntry `json:"ioServiceBytesRecursive,omitempty"`
	IoServiced     []cgroups.BlkioStatEntry `json:"ioServicedRecursive,omitempty"`
	IoQueued       []cgroups.BlkioStatEntry `json:"ioQueueRecursive,omitempty"`
	IoServiceTime  []cgroups.BlkioStatEntry `json:"ioServiceTimeRecursive,omitempty"`
	IoWaitTime     []cgroups.BlkioStatEntry `json:"ioWaitTimeRecursive,omitempty"`
	IoMerged       []cgroups.BlkioStatEntry `json:"ioMergedRecursive,omitempty"`
	IoTime         []cgroups.BlkioStatEntry `json:"ioTimeRecursive,omitempty"`
	Sectors        []cgroups.BlkioStatEntry `json:"sectorsRecursive,omitempty"`
	PSI            *cgroups.PSIStats        `json:"psi,omitempty"`
}

// newStatsData puts the numbers of the cgroup library into runc's shape.
func newStatsData(s *cgroups.Stats) *statsData {
	d := &statsData{CPUSet: s.CPUSetStats, Rdma: s.RdmaStats, Misc: s.MiscStats, Pids: pidsData(s.PidsStats)}
	u, t := s.CpuStats.CpuUsage, s.CpuStats.ThrottlingData
	d.CPU.Usage.Total, d.CPU.Usage.Kernel, d.CPU.Usage.User = u.TotalUsage, u.UsageInKernelmode, u.UsageInUsermode
	d.CPU.Usage.Percpu, d.CPU.Usage.PercpuKernel, d.CPU.Usage.PercpuUser = u.PercpuUsage, u.PercpuUsageInKernelmode, u.PercpuUsageInUsermode
	d.CPU.Throttling.Periods, d.CPU.Throttling.ThrottledPeriods, d.CPU.Throttling.ThrottledTime = t.Periods, t.ThrottledPeriods, t.ThrottledTime
	d.CPU.PSI = s.CpuStats.PSI
	m := s.MemoryStats
	d.Memory = memoryData{
		Cache: m.Cache, Usage: entry(m.Usage), Swap: entry(m.SwapUsage), Kernel: entry(m.KernelUsage), KernelTCP: entry(m.KernelTCPUsage),
		Raw: m.Stats, PSI: m.PSI,
	}
	b := s.BlkioStats
	d.Blkio = blkioData{
		b.IoServiceBytesRecursive, b.IoServicedRecursive, b.IoQueuedRecursive, b.IoServiceTimeRecursive,
		b.IoWaitTimeRecursive, b.IoMergedRecursive, b.IoTimeRecursive, b.SectorsRecursive, b.PSI,
	}
	d.Hugetlb = map[string]hugetlbData{}
	for size, h := range s.HugetlbStats {
		d.Hugetlb[size] = hugetlbData{h.Usage, h.MaxUsage, h.Failcnt}
	}
	return d
}

func entry(m cgroups.MemoryData) memoryEntry {
	return memoryEntry{Limit: m.Limit, Usage: m.Usage, Max: m.MaxUsage, Failcnt: m.Failcnt}
}
