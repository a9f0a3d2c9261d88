package vm

import (
	"context"
	"fmt"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/agent"
	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/qemu"
)

// A machine's own disk grows, and never shrinks.
//
//	it runs      QEMU may make a larger file, makes the disk larger, and tells the guest's
//	             driver; the agent has the partition and the filesystem follow
//	it starts    the file is larger (of layers), or the overlay is before the first
//	             instruction (of a disk guest); the guest follows as at its first boot

// canGrowDisk refuses what a running machine's disk cannot become. A size of 0 is no
// wish.
func (h *handle) canGrowDisk(size int64) error {
	bus := h.run.Machine.DiskBus
	switch {
	case size <= h.diskSize():
		return nil
	case bus != api.DiskVirtio:
		return unsupported("a running guest does not see its disk on %s grow: stop it first", bus)
	case h.p.Rootfs.Disk == "":
		return unsupported("it has no disk of its own")
	}
	return nil
}

// diskSize is what the disk has, in bytes.
func (h *handle) diskSize() int64 { return max(h.run.Disk, h.p.Rootfs.DiskSize) }

// growDisk makes the disk of a running machine larger, and has the guest use it.
func (h *handle) growDisk(ctx context.Context, size int64) error {
	if size <= h.diskSize() {
		return nil
	}
	st, err := h.driver.cfg.Keeper.Status(ctx, h.p.ID)
	if err != nil {
		return err
	}
	most := maxFile(h.p, size, max(h.run.Memory, h.run.MaxMemory))
	if err := qemu.RaiseFileLimit(ctx, h.driver.cfg.Launcher, st.PID, h.p.Users.First, most); err != nil {
		return fmt.Errorf("let QEMU make a larger file: %w", err)
	}
	m, err := h.monitor(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	if err := m.GrowDisk(ctx, h.diskNumber(), size); err != nil {
		return err
	}
	h.run.Disk = size
	if err := h.saveRun(); err != nil {
		return err
	}
	if h.startsItself() && !h.p.Rootfs.Image.Agent {
		return nil // the guest sees it, and does with it as it likes
	}
	if err := h.withGuest(ctx, func(c *agent.Client) error { return c.GrowDisk(ctx, size) }); err != nil {
		return api.E("", api.Unavailable, "", fmt.Errorf("the disk has its new size, which the guest does not use yet (its next boot tries again): %w", err))
	}
	return nil
}

// diskNumber is the number of the machine's own disk among those that it has.
func (h *handle) diskNumber() int {
	if h.startsItself() {
		return 0
	}
	return 1 // after that of layers
}

// growOverlay makes a disk guest's disk as large as it should be, before the guest's
// first instruction. What the file's header says decides nothing but whether to ask.
func (h *handle) growOverlay(ctx context.Context, m *qemu.Monitor) error {
	if !h.startsItself() {
		return nil
	}
	have, err := disk.Qcow2Size(h.p.Rootfs.Disk)
	if err != nil || have >= h.p.Rootfs.DiskSize {
		return err
	}
	return m.GrowDisk(ctx, h.diskNumber(), h.p.Rootfs.DiskSize)
}
