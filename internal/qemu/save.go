package qemu

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// unlimited is a bandwidth of migration that nothing reaches, in bytes per second:
// QEMU spares a network by default, and a disk needs no sparing.
const unlimited = 1 << 40

// SaveAll writes a machine that stands still to a file or pipe: its memory and the
// state of all its devices, but not its disks, which are at rest when it returns.
// Disks that QEMU does not save have to be set aside before. On an error the machine
// can go on; while an end of ctx leaves QEMU writing, Settle waits for that.
func (m *Monitor) SaveAll(ctx context.Context, state *os.File) error {
	// A copy of a template was loaded without its memory, and is saved with it.
	if err := m.capabilities(ctx, false); err != nil {
		return err
	}
	if err := m.Execute(ctx, "migrate-set-parameters", map[string]int64{"max-bandwidth": unlimited}, nil); err != nil {
		return err
	}
	return m.migrate(ctx, state)
}

// LoadAll fills an Incoming machine with what SaveAll saved. It stands still after
// it, until Cont. A QEMU that cannot read the state ends.
//
// QEMU announces the machine's addresses to the network, unless it is a copy of another
// one, whose addresses they are.
func (m *Monitor) LoadAll(ctx context.Context, state *os.File, isCopy bool) error {
	if err := m.capabilities(ctx, false); err != nil {
		return err
	}
	if isCopy {
		if err := m.Execute(ctx, "migrate-set-parameters", map[string]int{"announce-rounds": 0}, nil); err != nil {
			return err
		}
	}
	return m.incoming(ctx, state)
}

// SetLinks plugs all network cards in, or out: what the guest sends goes nowhere then.
func (m *Monitor) SetLinks(ctx context.Context, layout *Machine, up bool) error {
	for i := range layout.NICs {
		if err := m.Execute(ctx, "set_link", map[string]any{"name": netdev(i), "up": up}, nil); err != nil {
			return err
		}
	}
	return nil
}

// Settle returns once QEMU is not writing a state any more: one that another monitor
// had begun, so it is asked.
func (m *Monitor) Settle(ctx context.Context) error {
	for wait := 100 * time.Microsecond; ; wait = min(2*wait, 5*time.Millisecond) {
		status, err := m.migration(ctx)
		if err != nil || !slices.Contains([]string{"setup", "active", "device", "cancelling"}, status.Status) { //nolint:misspell // QEMU's word
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// SetAside takes the disks away that QEMU refuses to save (vmdk_open in block/vmdk.c),
// of a machine that stands still, and puts nothing in their place. They are read only,
// so nothing of them is in the state.
func (m *Monitor) SetAside(ctx context.Context, layout *Machine) error {
	for i, d := range layout.Disks {
		if d.Format != VMDK {
			continue
		}
		drive, err := m.driveWith(ctx, top(i))
		if err != nil {
			return err
		}
		null := map[string]any{"driver": "null-co", "node-name": aside(i), "size": drive.Inserted.Image.Size, "read-only": drive.Inserted.ReadOnly}
		if err := m.Execute(ctx, "blockdev-add", null, nil); err != nil {
			return err
		}
		if err := m.insert(ctx, drive.Device, aside(i)); err != nil {
			return err
		}
		for _, node := range slices.Backward(layout.nodes(i)) {
			if err := m.removeNode(ctx, node["node-name"].(string)); err != nil {
				return err
			}
		}
	}
	return nil
}

// PutBack undoes SetAside, however far that has come.
func (m *Monitor) PutBack(ctx context.Context, layout *Machine) error {
	var present []struct {
		Name string `json:"node-name"`
	}
	if err := m.Execute(ctx, "query-named-block-nodes", map[string]bool{"flat": true}, &present); err != nil {
		return err
	}
	has := make(map[string]bool)
	for _, node := range present {
		has[node.Name] = true
	}
	for i, d := range layout.Disks {
		if d.Format != VMDK || !has[aside(i)] {
			continue
		}
		for _, node := range layout.nodes(i) {
			if has[node["node-name"].(string)] {
				continue
			}
			if err := m.Execute(ctx, "blockdev-add", node, nil); err != nil {
				return err
			}
		}
		if drive, err := m.driveWith(ctx, aside(i)); err == nil {
			if err := m.insert(ctx, drive.Device, top(i)); err != nil {
				return err
			}
		}
		if err := m.removeNode(ctx, aside(i)); err != nil {
			return err
		}
	}
	return nil
}

// top is the node that a disk's device reads, and aside what is in its place.
func top(disk int) string   { return fmt.Sprintf("disk%d", disk) }
func aside(disk int) string { return fmt.Sprintf("aside%d", disk) }

// nodes are the block nodes of a disk as blockdev-add takes them, the lowest first.
func (m *Machine) nodes(disk int) []map[string]any {
	b := builder{m: *m, plan: new(Plan)}
	b.blocks(disk, m.Disks[disk])
	var nodes []map[string]any
	for i, arg := range b.plan.Args {
		if i > 0 && b.plan.Args[i-1] == "-blockdev" {
			nodes = append(nodes, nodeOf(arg))
		}
	}
	return nodes
}

// nodeOf reads an argument of -blockdev.
func nodeOf(arg string) map[string]any {
	node := make(map[string]any)
	for pair := range strings.SplitSeq(arg, ",") {
		key, value, _ := strings.Cut(pair, "=")
		switch parent, child, nested := strings.Cut(key, "."); {
		case nested:
			inner, _ := node[parent].(map[string]any)
			if inner == nil {
				inner = make(map[string]any)
				node[parent] = inner
			}
			inner[child] = typed(value)
		default:
			node[key] = typed(value)
		}
	}
	return node
}

// typed is a value as JSON has it.
func typed(value string) any {
	switch value {
	case "on":
		return true
	case "off":
		return false
	}
	return value
}

// drive is a device with a disk in it.
type drive struct {
	Device   string `json:"qdev"` // a path of QEMU's objects
	Inserted struct {
		Node     string `json:"node-name"`
		ReadOnly bool   `json:"ro"`
		Image    struct {
			Size int64 `json:"virtual-size"`
		} `json:"image"`
	} `json:"inserted"`
}

// driveWith finds the device that reads a node.
func (m *Monitor) driveWith(ctx context.Context, node string) (drive, error) {
	var drives []drive
	if err := m.Execute(ctx, "query-block", nil, &drives); err != nil {
		return drive{}, err
	}
	i := slices.IndexFunc(drives, func(d drive) bool { return d.Inserted.Node == node })
	if i < 0 {
		return drive{}, fmt.Errorf("no device of QEMU's reads %s", node)
	}
	return drives[i], nil
}

// insert has a device read another node.
func (m *Monitor) insert(ctx context.Context, device, node string) error {
	return m.Execute(ctx, "qom-set", map[string]string{"path": device, "property": "drive", "value": node}, nil)
}

func (m *Monitor) removeNode(ctx context.Context, name string) error {
	return m.Execute(ctx, "blockdev-del", map[string]string{"node-name": name}, nil)
}
