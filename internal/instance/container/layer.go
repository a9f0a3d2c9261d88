package container

import (
	"archive/tar"
	"context"
	"errors"
	"io"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/pack"
)

// LayerAtRest is always so: the host's kernel reads the upper directory.
func (d *Driver) LayerAtRest() bool { return true }

// Layer writes what the container has changed in its root filesystem: the upper
// directory of its overlay, whose owners are the container's own ids, which the mount
// maps. Its processes are frozen meanwhile.
func (d *Driver) Layer(ctx context.Context, p *instance.Prepared, run instance.Handle, namesOnly bool, to io.Writer) (err error) {
	h := &handle{driver: d, p: p}
	if p.Spec.Security.ReadOnly {
		return h.fail("layer", tar.NewWriter(to).Close())
	}
	resume, err := freeze(ctx, run)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, resume()) }()
	fd, err := unix.Open(p.Rootfs.Upper, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) { // it was never started
		return h.fail("layer", tar.NewWriter(to).Close())
	}
	if err != nil {
		return h.fail("layer", err)
	}
	defer unix.Close(fd)
	out := tar.NewWriter(to)
	err = pack.Tree(ctx, out, fd, "", pack.Options{Upper: true, Leave: instance.Furnished, Names: namesOnly})
	if err != nil {
		return h.fail("layer", err)
	}
	return h.fail("layer", out.Close())
}

// freeze freezes a run, where there is one that is not frozen already, and returns what
// undoes that.
func freeze(ctx context.Context, run instance.Handle) (resume func() error, err error) {
	nothing := func() error { return nil }
	if run == nil {
		return nothing, nil
	}
	st, err := run.Status(ctx)
	if err != nil || st.State != api.Running {
		return nothing, err
	}
	p, ok := run.(instance.Pauser)
	if !ok {
		return nothing, nil
	}
	if err := p.Pause(ctx); err != nil {
		return nothing, err
	}
	return func() error { return p.Unpause(context.WithoutCancel(ctx)) }, nil
}
