package container

import (
	"errors"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// undelegated says which limit an ordinary user's daemon has no controller for.
func undelegated(l api.Limits, host instance.Host) error {
	for _, limit := range []struct {
		wanted           bool
		flag, controller string
	}{
		{l.Memory > 0, "--memory", "memory"},
		{l.MemorySwap != 0, "--memory-swap", "memory"},
		{l.CPUs > 0, "--cpus", "cpu"},
		{l.CPUWeight != 0, "--cpu-shares", "cpu"},
		{l.CPUSet != "", "--cpuset-cpus", "cpuset"},
		{l.PIDs != 0 && l.PIDs != defaultPIDs, "--pids-limit", "pids"},
		{l.DiskIOPS.Limits(), "--disk-iops", ioController(host)},
		{l.DiskBandwidth.Limits(), "--disk-bandwidth", ioController(host)},
	} {
		if limit.wanted {
			if err := host.Needs(limit.flag, limit.controller); err != nil {
				return err
			}
		}
	}
	return nil
}

// ioController names the controller of disks.
func ioController(host instance.Host) string {
	if host.CgroupV2 {
		return "io"
	}
	return "blkio"
}

// liftable says why a container could lift its limits. An ordinary user's files of a
// cgroup are its root's too. What keeps them from him is that a container sees them
// read-only, and may not mount them anew; the init of a machine may, so that it takes a
// kernel that refuses the write (cgroup-v2.rst, nsdelegate).
func liftable(s api.Spec, l api.Limits, host instance.Host) error {
	if host.Rootless() && s.Init == api.InitSystem && limited(l) && !host.CgroupsHold {
		return errors.New("the init of this container could lift its own limits: for an ordinary user's daemon they take cgroup v2, mounted with nsdelegate as systemd does; leave them out")
	}
	return nil
}

// given leaves out of limits what the daemon has no controller for, which then is as it
// was: nobody has asked for it.
func given(r *specs.LinuxResources, host instance.Host) *specs.LinuxResources {
	if host.Rootless() && len(host.Controllers) == 0 {
		return nil
	}
	if !host.Controls("memory") {
		r.Memory = nil
	}
	if !host.Controls("pids") {
		r.Pids = nil
	}
	if !host.Controls("cpuset") {
		r.CPU.Cpus = ""
	}
	if !host.Controls(ioController(host)) {
		r.BlockIO = nil
		delete(r.Unified, "io.max")
	}
	if !host.Controls("cpu") {
		r.CPU = &specs.LinuxCPU{Cpus: r.CPU.Cpus}
		delete(r.Unified, "cpu.weight")
	}
	return r
}
