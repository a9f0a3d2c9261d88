package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthcloud/berth/internal/oci/bundle"
)

// updateFlags are the limits as strings; "" leaves one as it is.
type updateFlags struct {
	cpuShares, cpuQuota, cpuPeriod, cpuBurst, cpuIdle string
	rtRuntime, rtPeriod, l3Cache, memoryBandwidth     string
	memory, reservation, swap, pids, blkio            string
	cpus, mems, file                                  string
}

func (f *updateFlags) add(fs *flags) {
	fs.StringVar(&f.file, "resources", "", "JSON `file` with linux.resources, - for standard input; other options do not count")
	fs.StringVar(&f.file, "r", "", "same as --resources")
	fs.StringVar(&f.cpuShares, "cpu-share", "", "relative weight of processor time")
	fs.StringVar(&f.cpuQuota, "cpu-quota", "", "microseconds of processor time per period")
	fs.StringVar(&f.cpuPeriod, "cpu-period", "", "length of a period in microseconds")
	fs.StringVar(&f.cpuBurst, "cpu-burst", "", "microseconds that may be saved up")
	fs.StringVar(&f.cpuIdle, "cpu-idle", "", "1 to run only when nothing else does")
	fs.StringVar(&f.rtRuntime, "cpu-rt-runtime", "", "microseconds of realtime scheduling per period")
	fs.StringVar(&f.rtPeriod, "cpu-rt-period", "", "length of a period of realtime scheduling in microseconds")
	fs.StringVar(&f.l3Cache, "l3-cache-schema", "", "share of the L3 cache, as L3:0=7f0;1=1f")
	fs.StringVar(&f.memoryBandwidth, "mem-bw-schema", "", "share of the memory bandwidth, as MB:0=20;1=70")
	fs.StringVar(&f.cpus, "cpuset-cpus", "", "processors to run on, as 0-2,4")
	fs.StringVar(&f.mems, "cpuset-mems", "", "memory nodes to use")
	fs.StringVar(&f.memory, "memory", "", "bytes of memory; units k, m, g; -1 for no limit")
	fs.StringVar(&f.reservation, "memory-reservation", "", "bytes of memory kept under pressure")
	fs.StringVar(&f.swap, "memory-swap", "", "bytes of memory and swap together; -1 for no limit")
	fs.StringVar(&f.pids, "pids-limit", "", "number of tasks; -1 for no limit")
	fs.StringVar(&f.blkio, "blkio-weight", "", "relative weight of block I/O, 10 to 1000")
	fs.String("kernel-memory", "", "accepted for compatibility, obsolete")
	fs.String("kernel-memory-tcp", "", "accepted for compatibility, obsolete")
}

func (c *cli) update(fs *flags, args []string) (int, error) {
	var f updateFlags
	f.add(fs)
	args, err := fs.parse(args, 1, 1)
	if err != nil {
		return 0, err
	}
	res, err := f.resources()
	if err != nil {
		return 0, err
	}
	rt := c.runtime()
	if f.l3Cache != "" || f.memoryBandwidth != "" {
		if err := rt.UpdateSchemata(args[0], f.l3Cache, f.memoryBandwidth); err != nil {
			return 0, err
		}
	}
	return 0, rt.Update(args[0], res)
}

func (f *updateFlags) resources() (*specs.LinuxResources, error) {
	if f.file == "" {
		return f.fromOptions()
	}
	in := os.Stdin
	if f.file != "-" {
		file, err := os.Open(f.file)
		if err != nil {
			return nil, fmt.Errorf("--resources: %w", err)
		}
		defer file.Close()
		in = file
	}
	raw, err := bundle.ReadAll(in, 0)
	if err != nil {
		return nil, fmt.Errorf("--resources: %w", err)
	}
	res, err := bundle.ParseResources(raw)
	if err != nil {
		return nil, fmt.Errorf("--resources: %s: %w", f.file, err)
	}
	return res, nil
}

func (f *updateFlags) fromOptions() (*specs.LinuxResources, error) {
	cpu, mem, pids := &specs.LinuxCPU{Cpus: f.cpus, Mems: f.mems}, &specs.LinuxMemory{}, &specs.LinuxPids{}
	var weight *int64
	for _, p := range []struct {
		option, text string
		to           func(int64)
	}{
		{"cpu-share", f.cpuShares, func(n int64) { cpu.Shares = unsigned(n) }},
		{"cpu-quota", f.cpuQuota, func(n int64) { cpu.Quota = &n }},
		{"cpu-period", f.cpuPeriod, func(n int64) { cpu.Period = unsigned(n) }},
		{"cpu-burst", f.cpuBurst, func(n int64) { cpu.Burst = unsigned(n) }},
		{"cpu-idle", f.cpuIdle, func(n int64) { cpu.Idle = &n }},
		{"cpu-rt-runtime", f.rtRuntime, func(n int64) { cpu.RealtimeRuntime = &n }},
		{"cpu-rt-period", f.rtPeriod, func(n int64) { cpu.RealtimePeriod = unsigned(n) }},
		{"memory", f.memory, func(n int64) { mem.Limit = &n }},
		{"memory-reservation", f.reservation, func(n int64) { mem.Reservation = &n }},
		{"memory-swap", f.swap, func(n int64) { mem.Swap = &n }},
		{"pids-limit", f.pids, func(n int64) { pids.Limit = &n }},
		{"blkio-weight", f.blkio, func(n int64) { weight = &n }},
	} {
		if p.text == "" {
			continue
		}
		n, err := parseSize(p.text)
		if err != nil {
			return nil, fmt.Errorf("--%s: %w", p.option, err)
		}
		p.to(n)
	}
	res := &specs.LinuxResources{CPU: cpu, Memory: mem}
	if pids.Limit != nil {
		res.Pids = pids
	}
	if weight != nil {
		if *weight < 10 || *weight > 1000 {
			return nil, fmt.Errorf("--blkio-weight: %d is not between 10 and 1000", *weight)
		}
		w := uint16(*weight)
		res.BlockIO = &specs.LinuxBlockIO{Weight: &w}
	}
	return res, nil
}

func unsigned(n int64) *uint64 {
	u := uint64(n)
	return &u
}

// parseSize reads a number with an optional binary unit: 512m, 1g.
func parseSize(s string) (int64, error) {
	shift := 0
	digits := strings.TrimSuffix(strings.ToLower(s), "b")
	if n := len(digits); n > 0 {
		switch digits[n-1] {
		case 'k':
			shift = 10
		case 'm':
			shift = 20
		case 'g':
			shift = 30
		case 't':
			shift = 40
		}
		if shift > 0 {
			digits = digits[:n-1]
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > (1<<62)>>shift || n < -1 {
		return 0, fmt.Errorf("%q is not a size such as 512m", s)
	}
	return n << shift, nil
}
