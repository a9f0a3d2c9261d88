package vm

import (
	"context"
	"io"

	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/keeper"
)

// Console connects to the guest's serial line, which is QEMU's own input and output
// and so the keeper's.
func (h *handle) Console(ctx context.Context, s instance.Streams) error {
	// That of a disk guest is the instance's own input and output.
	options := keeper.AttachOptions{Console: !h.startsItself(), Stdin: s.Stdin != nil, Stdout: s.Stdout != nil}
	a, err := h.driver.cfg.Keeper.Attach(ctx, h.p.ID, options)
	if err != nil {
		return h.fail("console", err)
	}
	defer a.Close()
	if s.Stdin != nil {
		// A blocked reader is left behind; its next write finds the attachment
		// closed. Its end means nothing on a line.
		go func() { _, _ = io.Copy(a, s.Stdin) }()
	}
	_, err = a.Copy(ctx, s.Stdout, nil)
	if ctx.Err() != nil {
		return nil // the client has detached
	}
	return h.fail("console", err)
}
