package oci

import (
	"fmt"
	"os"
	"strconv"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Update changes limits of a living container. What is nil stays.
func (r *Runtime) Update(id string, res *specs.LinuxResources) error {
	c, err := r.Load(id)
	if err != nil {
		return err
	}
	status, err := c.Status()
	if err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	if status == specs.StateStopped || status == specs.StateCreating {
		return fmt.Errorf("%s: %w", id, ErrNotRunning)
	}
	g, err := c.cgroups()
	if err == nil && g == nil {
		err = fmt.Errorf("the container has no cgroups, so it has no limits")
	}
	if err == nil {
		err = g.Update(res)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	return nil
}

// Pids returns the processes of a container as the host sees them.
func (r *Runtime) Pids(id string) ([]int, error) {
	c, err := r.Load(id)
	if err != nil {
		return nil, err
	}
	g, err := c.cgroups()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	if g == nil {
		return c.namespacePids()
	}
	return g.Pids()
}

// namespacePids finds the processes of a container without cgroups: those in its pid
// namespace, or the first one where it has none of its own.
func (c *Container) namespacePids() ([]int, error) {
	if !alive(c.rec.Pid, c.rec.StartTime) {
		return nil, nil
	}
	if !c.rec.OwnPids {
		return []int{c.rec.Pid}, nil
	}
	own, err := os.Readlink("/proc/" + strconv.Itoa(c.rec.Pid) + "/ns/pid")
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	var pids []int
	for _, e := range entries {
		pid, perr := strconv.Atoi(e.Name())
		if ns, lerr := os.Readlink("/proc/" + e.Name() + "/ns/pid"); perr == nil && lerr == nil && ns == own {
			pids = append(pids, pid)
		}
	}
	return pids, err
}

// Stats measures a container's cgroups.
func (r *Runtime) Stats(id string) (*cgroups.Stats, error) {
	c, err := r.Load(id)
	if err != nil {
		return nil, err
	}
	g, err := c.cgroups()
	if err == nil && g == nil {
		err = fmt.Errorf("the container has no cgroups, so nothing is counted")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	return g.Stats()
}

// OOMKills returns how many processes of a container the kernel has killed for
// want of memory.
func (r *Runtime) OOMKills(id string) (uint64, error) {
	c, err := r.Load(id)
	if err != nil {
		return 0, err
	}
	g, err := c.cgroups()
	if err != nil || g == nil {
		return 0, err
	}
	return g.OOMKills()
}
