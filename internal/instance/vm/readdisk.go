package vm

import (
	"context"
	"errors"
	"io"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/agent"
	"github.com/berthcloud/berth/internal/instance"
)

// ReadDisk writes the root filesystem on a further disk of an idle run. A guest whose
// kernel a hostile filesystem has taken over can write what it likes, but no more than
// the disk could hold twice, and not for ever.
func (d *Driver) ReadDisk(ctx context.Context, p *instance.Prepared, run instance.Handle, disk instance.Mount, tar io.Writer) (init string, err error) {
	h, ok := run.(*handle)
	if !ok {
		return "", api.E("read disk", api.Conflict, p.Spec.Name, errors.New("no machine runs that could read it"))
	}
	bound := agent.Bound{Bytes: 2*disk.Size + 64<<20, Stall: layerStall}
	err = h.withAgent(ctx, func(c *agent.Client) error {
		root, err := c.Root(ctx, diskSerial(disk.Name), bound, tar)
		init = root.Init
		return err
	})
	return init, h.fail("read disk", err)
}
