package qemu

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// memorySlots is how many times a machine can get more memory.
const memorySlots = 16

// MemoryBlock is what memory is added in, in bytes: Linux on x86-64 takes whole
// sections of it (Documentation/admin-guide/mm/memory-hotplug.rst).
const MemoryBlock = 128 << 20

// AddMemory gives a running machine a module of memory, of whole MemoryBlocks. A
// machine with shares has memory that their servers can map.
func (m *Monitor) AddMemory(ctx context.Context, size int64, shared bool) error {
	var modules []struct{}
	if err := m.Execute(ctx, "query-memory-devices", nil, &modules); err != nil {
		return err
	}
	id := fmt.Sprintf("dimm%d", len(modules))
	backend := map[string]any{"qom-type": "memory-backend-ram", "id": "ram-" + id, "size": size}
	if shared {
		backend["qom-type"], backend["share"] = "memory-backend-memfd", true
	}
	if err := m.Execute(ctx, "object-add", backend, nil); err != nil {
		return err
	}
	err := m.Execute(ctx, "device_add", map[string]any{"driver": "pc-dimm", "id": id, "memdev": "ram-" + id}, nil)
	if err != nil {
		return errors.Join(err, m.Execute(ctx, "object-del", map[string]any{"id": "ram-" + id}, nil))
	}
	return nil
}

// GrowDisk makes a disk of a running machine size bytes large, which must not be less
// than it is. disk is its number among Machine.Disks.
func (m *Monitor) GrowDisk(ctx context.Context, disk int, size int64) error {
	return m.Execute(ctx, "block_resize", map[string]any{"node-name": fmt.Sprintf("disk%d", disk), "size": size}, nil)
}

// AddCPUs gives a running machine processors until it has as many as wanted.
func (m *Monitor) AddCPUs(ctx context.Context, want int) error {
	var places []struct {
		Type  string         `json:"type"`
		Props map[string]any `json:"props"`
		Path  string         `json:"qom-path"` // "" where there is none yet
	}
	if err := m.Execute(ctx, "query-hotpluggable-cpus", nil, &places); err != nil {
		return err
	}
	have := 0
	for _, p := range places {
		if p.Path != "" {
			have++
		}
	}
	if have < want {
		if err := m.canTranslate(ctx, have, want, len(places)); err != nil {
			return err
		}
	}
	slices.Reverse(places) // QEMU begins with the last
	for _, p := range places {
		if have >= want {
			break
		}
		if p.Path != "" {
			continue
		}
		device := map[string]any{"driver": p.Type, "id": fmt.Sprintf("cpu%d", have)}
		maps.Copy(device, p.Props)
		if err := m.Execute(ctx, "device_add", device, nil); err != nil {
			return err
		}
		have++
	}
	if have < want {
		return fmt.Errorf("the machine has room for %d processors, not %d", have, want)
	}
	return nil
}
