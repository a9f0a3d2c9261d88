package vm

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/agent"
	"github.com/berthcloud/berth/internal/instance"
)

// LayerAtRest is never so: only the guest can read its disk.
func (d *Driver) LayerAtRest() bool { return false }

// Layer writes what the guest has changed in its root filesystem. Only the guest can
// say: its disk is its own, and no filesystem for the host's kernel to read. The guest
// freezes the disk meanwhile. A hostile one is not let hold the instance for ever.
func (d *Driver) Layer(ctx context.Context, p *instance.Prepared, run instance.Handle, namesOnly bool, tar io.Writer) error {
	h, ok := run.(*handle)
	if !ok {
		return api.E("layer", api.Conflict, p.Spec.Name, errors.New("only a running VM can say what it has changed; start it first"))
	}
	return h.fail("layer", h.withAgent(ctx, func(c *agent.Client) error {
		return c.Layer(ctx, agent.Layer{NamesOnly: namesOnly}, h.layerBound(), tar)
	}))
}

// layerStall is how long a guest may keep the host waiting for what it has changed.
const layerStall = time.Minute

// layerBound is the most that a guest can have changed: what its disk holds, or its
// memory where it has none, and as much again for what a tar says of each file.
func (h *handle) layerBound() agent.Bound {
	room := h.run.Memory
	if h.p.Rootfs.Disk != "" {
		room = h.p.Rootfs.DiskSize
	}
	return agent.Bound{Bytes: 2 * room, Stall: layerStall}
}

// freezeTime bounds how long a guest's disks may take to come to rest, and its agent to
// say that they are let go.
const freezeTime = 30 * time.Second

// Freeze stops the machine, after its guest has brought its disks to rest where an agent
// is there to ask for it. A machine that is paused stays so.
func (h *handle) Freeze(ctx context.Context) (thaw func() error, err error) {
	st, err := h.Status(ctx)
	if err != nil || st.State == api.Paused {
		return func() error { return nil }, err
	}
	thawGuest, release := func() error { return nil }, func() {}
	if h.p.Rootfs.Image == nil || h.p.Rootfs.Image.Agent {
		if thawGuest, release, err = h.freezeGuest(ctx); err != nil {
			return nil, h.fail("freeze", err)
		}
	}
	if err := h.Pause(ctx); err != nil {
		defer release()
		return nil, errors.Join(err, thawGuest())
	}
	return func() error {
		defer release()
		// Whatever has become of the caller's request, the machine goes on.
		err := h.Unpause(context.WithoutCancel(ctx))
		return errors.Join(err, h.fail("thaw", thawGuest()))
	}, nil
}

// freezeGuest has the agent hold the disks, on a connection that stays until release.
func (h *handle) freezeGuest(ctx context.Context) (thaw func() error, release func(), err error) {
	greet, end := context.WithTimeout(ctx, monitorTimeout)
	defer end()
	client, leave, err := h.dialAgent(greet)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	drop := func() {
		leave()
		cancel()
	}
	defer time.AfterFunc(freezeTime, cancel).Stop()
	letGo, err := client.Freeze(ctx)
	if err != nil {
		drop()
		return nil, nil, err
	}
	inTime := func() error {
		defer time.AfterFunc(freezeTime, cancel).Stop()
		return letGo()
	}
	return inTime, drop, nil
}
