package engine

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/undo"
)

// idleGrace is how long an idle run may take to bring its disk to rest.
const idleGrace = 10 * time.Second

// idle runs an instance that is at rest without its entrypoint, its network and its
// mounts, for as long as use needs it. Its record says nothing of that: to users it is at
// rest, and an engine that finds the run after a crash ends it. The caller holds entry.op.
func (e *Engine) idle(ctx context.Context, rec record, img image.Image, use func(*instance.Prepared, instance.Handle) error) error {
	if e.saved(rec.ID) {
		return errSuspended("", rec.Name)
	}
	p, err := e.outline(rec, img)
	if err != nil {
		return err
	}
	return e.runIdle(ctx, rec, p, use)
}

// runIdle is idle for an outline of the caller's.
func (e *Engine) runIdle(ctx context.Context, rec record, p *instance.Prepared, use func(*instance.Prepared, instance.Handle) error) (err error) {
	driver, err := e.driver(rec.Spec.Kind)
	if err != nil {
		return err
	}
	p.Idle, p.LogPath, p.HostNet, p.Process = true, "", false, instance.Process{}
	var u undo.Stack
	defer u.Run(ctx, &err) // all of it, when it has been of use
	for _, dir := range []string{p.Dir, p.RunDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return api.E("", api.Exhausted, dir, err)
		}
	}
	u.Add(func(context.Context) error { return os.RemoveAll(p.RunDir) })
	if err := e.prepareKernel(ctx, rec, p); err != nil {
		return err
	}
	if err := writePrepared(p); err != nil {
		return err
	}
	h, err := driver.Create(ctx, p)
	if err != nil {
		return err
	}
	u.Add(h.Delete)
	if _, err := h.Start(ctx); err != nil {
		return err
	}
	u.Add(func(ctx context.Context) error { return h.Stop(ctx, int(unix.SIGTERM), idleGrace) })
	return use(p, h)
}

// endIdle ends the idle run of an instance at rest that an engine before this one has
// left behind.
func (e *Engine) endIdle(ctx context.Context, en *entry) error {
	p, err := readPrepared(e.runDir(en.id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || !p.Idle {
		return err
	}
	if err := e.endRunOf(ctx, p); err != nil {
		// It may run. What is known of it stays, for the next engine, or for a start.
		e.log.Error("find an idle run again", "instance", en.name(), "error", err)
	}
	return nil
}

// endRunOf ends what Prepared has made and no engine has in hand, if it is there, and
// forgets it. After an error it may be there.
func (e *Engine) endRunOf(ctx context.Context, p *instance.Prepared) error {
	driver, err := e.driver(p.Spec.Kind)
	if err != nil {
		return err
	}
	switch h, err := driver.Adopt(ctx, p); {
	case absent(err): // it ended with the engine
	case err != nil:
		return err
	default:
		if err := h.Delete(ctx); err != nil {
			return err
		}
	}
	return os.RemoveAll(p.RunDir)
}
