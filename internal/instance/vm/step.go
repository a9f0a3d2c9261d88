package vm

import (
	"context"
	"io"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/agent"
	"github.com/berthcloud/berth/internal/instance"
)

// Place mounts a file over a path, in the guest's memory.
func (h *handle) Place(ctx context.Context, path string, tar io.Reader) error {
	return h.fail("place "+path, h.withGuest(ctx, func(c *agent.Client) error { return c.Place(ctx, path, tar) }))
}

// Step runs a command of a build.
func (h *handle) Step(ctx context.Context, x api.Exec, s instance.Streams) (api.Exit, error) {
	return h.exec(ctx, x, s, true)
}

// Changes writes what was changed in a tree.
func (h *handle) Changes(ctx context.Context, mount int, tar io.Writer) error {
	l := agent.Layer{Exact: true}
	if mount >= 0 {
		l.Part = partOf(h.p, mount)
	}
	return h.fail("layer", h.withGuest(ctx, func(c *agent.Client) error { return c.Layer(ctx, l, h.layerBound(), tar) }))
}
