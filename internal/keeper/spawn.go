package keeper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/berthcloud/berth/api"
)

func (c *Client) socket() string { return filepath.Join(c.cfg.Run, "keeper.sock") }

// ensure starts a keeper unless one answers by now. The keeper leaves its
// starter behind: it forks into a session of its own and returns once it
// listens, so it is no child of berthd and nobody has to wait for it. Its
// cgroup is the caller's; berthd moves to one of its own first, or its service
// manager would end the keeper with it.
func (c *Client) ensure(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn, err := Dial(ctx, c.socket()); err == nil {
		return conn.Close()
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, c.cfg.Binary, "--run", c.cfg.Run, "--detach")
	cmd.Env = []string{} // neither secrets nor GODEBUG of the daemon
	cmd.Dir = "/"
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return api.E("start", api.Canceled, "keeper", ctx.Err())
	}
	if text := api.OneLine(stderr.String()); text != "" {
		err = errors.New(text)
	}
	return api.E("start", api.Unavailable, "keeper", fmt.Errorf("%s did not start: %w", c.cfg.Binary, err))
}
