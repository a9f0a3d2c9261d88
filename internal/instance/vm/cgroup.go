package vm

import (
	"math"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/oci/cgroup"
)

// group names the cgroups of QEMU and its helpers without making them. It is nil where
// an ordinary user's daemon has none.
func (h *handle) group(r *specs.LinuxResources) (*cgroup.Group, error) {
	host := h.driver.cfg.Host
	if host.Rootless() && len(host.Controllers) == 0 {
		return nil, nil
	}
	g, err := cgroup.New(h.p.ID, h.p.Cgroup, r)
	if err != nil || !host.Rootless() {
		return g, err
	}
	if any, err := g.Claim(); err != nil || !any {
		return nil, err
	}
	return g, nil
}

// cgroups are directories that QEMU and its helpers are in.
type cgroups struct {
	tasks   []string // of cgroup v1: one for each hierarchy
	unified string   // of cgroup v2; "" where there is none
	memory  string   // the one of them in which the kernel counts OOM kills
}

// all are all of them.
func (c cgroups) all() []string {
	if c.unified == "" {
		return c.tasks
	}
	return append(slices.Clip(c.tasks), c.unified)
}

// makeGroup makes the cgroups.
func (h *handle) makeGroup(r *specs.LinuxResources) (c cgroups, err error) {
	group, err := h.group(r)
	if err != nil || group == nil {
		return c, err
	}
	if err := group.Create(); err != nil {
		return c, err
	}
	paths := group.Paths()
	c.unified, c.memory = paths[""], paths["memory"]
	if c.memory == "" {
		c.memory = c.unified // cgroup v2 has one directory for all controllers
	}
	for controller, dir := range paths {
		if controller != "" && dir != "" {
			c.tasks = append(c.tasks, dir)
		}
	}
	return c, nil
}

// undelegated says which limit an ordinary user's daemon has no controller for. Memory
// and whole processors are the machine's own.
func undelegated(l api.Limits, host instance.Host) error {
	switch {
	case l.CPUs != math.Trunc(l.CPUs) && !host.Controls("cpu"):
		return host.Needs("--cpus of a fraction", "cpu")
	case l.CPUWeight != 0 && !host.Controls("cpu"):
		return host.Needs("--cpu-shares", "cpu")
	case l.CPUSet != "":
		return host.Needs("--cpuset-cpus", "cpuset")
	}
	return nil
}

// given leaves out of QEMU's limits what the daemon has no controller for.
func given(r *specs.LinuxResources, host instance.Host) *specs.LinuxResources {
	if !host.Controls("memory") {
		r.Memory = nil
	}
	if !host.Controls("cpu") {
		r.CPU = &specs.LinuxCPU{Cpus: r.CPU.Cpus}
	}
	return r
}
