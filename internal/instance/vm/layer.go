package vm

import (
	"context"
	"errors"
	"io"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/agent"
	"github.com/berthcloud/berth/internal/instance"
)

// Layer writes what the guest has changed in its root filesystem. Only the guest can
// say: its disk is its own, and no filesystem for the host's kernel to read. The guest
// freezes the disk meanwhile.
func (d *Driver) Layer(ctx context.Context, p *instance.Prepared, run instance.Handle, namesOnly bool, tar io.Writer) error {
	h, ok := run.(*handle)
	if !ok {
		return api.E("layer", api.Conflict, p.Spec.Name, errors.New("only a running VM can say what it has changed; start it first"))
	}
	return h.fail("layer", h.withAgent(ctx, func(c *agent.Client) error { return c.Layer(ctx, namesOnly, tar) }))
}
