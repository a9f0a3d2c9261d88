package vm

import (
	"context"
	"encoding/json"
	"os"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/agent"
	"github.com/berthcloud/berth/internal/qemu"
)

// grow adds what a running machine lacks of processors and memory. A balloon takes
// back what whole blocks of memory are too much. What was added is recorded at once:
// the next berthd counts with it.
func (h *handle) grow(ctx context.Context, cpus int, memory int64) error {
	if cpus > h.run.CPUs {
		if err := h.addCPUs(ctx, cpus); err != nil {
			return err
		}
	}
	if memory <= h.run.Memory {
		return nil
	}
	more := (memory - h.run.Memory + qemu.MemoryBlock - 1) / qemu.MemoryBlock * qemu.MemoryBlock
	m, err := h.monitor(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	if err := m.AddMemory(ctx, more, len(h.p.Mounts) > 0); err != nil {
		return err
	}
	h.run.Memory += more
	return h.saveRun()
}

// addCPUs adds processors, and has the guest use them.
func (h *handle) addCPUs(ctx context.Context, want int) error {
	m, err := h.monitor(ctx)
	if err != nil {
		return err
	}
	err = m.AddCPUs(ctx, want)
	m.Close()
	if err != nil {
		return err
	}
	h.run.CPUs = want
	if err := h.saveRun(); err != nil {
		return err
	}
	if h.startsItself() && !h.p.Rootfs.Image.Agent {
		return nil // the guest sees them, and does with them as it likes
	}
	return h.withGuest(ctx, func(c *agent.Client) error { return c.UseCPUs(ctx, want) })
}

// saveRun writes run.json anew.
func (h *handle) saveRun() error {
	data, err := json.Marshal(h.run)
	if err != nil {
		return err
	}
	path := h.inRun("run.json")
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// wayToGrow says which machine could grow, to whom that helps.
func (h *handle) wayToGrow() string {
	if h.run.Machine.Type == api.MachineMicroVM {
		return ", or make it with --machine q35, which can grow"
	}
	return ""
}
