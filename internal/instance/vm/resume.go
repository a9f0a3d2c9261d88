package vm

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/agent"
	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/qemu"
)

// loadTimeout bounds the reading of a saved machine: some gigabytes from a slow disk.
const loadTimeout = 10 * time.Minute

// createSaved makes the machine that goes on from a saved one.
func (d *Driver) createSaved(ctx context.Context, p *instance.Prepared) (*handle, error) {
	fail := func(err error) (*handle, error) { return nil, api.E("create", "", p.Spec.Name, err) }
	run, err := readRun(p.SavedDir())
	if err == nil && run.Layout == nil {
		err = errors.New("it does not say what it was made of")
	}
	if err != nil {
		return fail(api.E("", api.Corrupt, p.SavedDir(), err))
	}
	m := *run.Layout
	m.Incoming, m.MaxFile = true, maxFile(p, p.Rootfs.DiskSize, m.Memory)
	if m.Template != nil {
		m.Template = &qemu.Template{Copy: true} // its memory was saved too
	}
	qp, err := qemu.NewPlan(m)
	if err != nil {
		return fail(err)
	}
	return d.create(ctx, p, &plan{
		Machine: run.Machine, Notice: run.Notice, QEMU: qp, Limits: given(resources(p.Spec.Limits, m.Memory), d.cfg.Host),
		machine: m, state: filepath.Join(p.SavedDir(), instance.SavedState), saved: true,
	})
}

// takeFiles gives a run the files of the saved machine that it goes on from.
func (h *handle) takeFiles() error {
	for name, path := range h.keptFiles() {
		err := os.Remove(path)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			err = disk.Clone(path, filepath.Join(h.p.SavedDir(), name))
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// loadSaved has a QEMU that has just been started read a saved machine.
func (h *handle) loadSaved(ctx context.Context, path string) error {
	state, err := os.Open(path)
	if err != nil {
		return err
	}
	defer state.Close()
	m, err := h.monitor(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	err = m.LoadAll(ctx, state)
	if err == nil || ctx.Err() != nil {
		return err
	}
	// A QEMU that cannot read the state ends, and has said why.
	short, stop := context.WithTimeout(ctx, signalTimeout)
	defer stop()
	if exit, werr := h.driver.cfg.Keeper.Wait(short, h.p.ID); werr == nil {
		err = errors.New("QEMU cannot read what was saved: " + unreadable(exit.Stderr))
	}
	return err
}

// unreadable is why QEMU could not read a state: what it says first, because all that
// follows is that it could not.
func unreadable(said string) string {
	why, _, _ := strings.Cut(strings.TrimSpace(said), "\n")
	why = api.OneLine(why)
	return why[:min(len(why), 200)]
}

// resume lets a machine go on from where it was saved. From here on that is not to be
// gone on from again: its disks change.
func (h *handle) resume(ctx context.Context) error {
	m, err := h.monitor(ctx)
	if err != nil {
		return err
	}
	err = errors.Join(h.guardDisplay(ctx, m), throttle(ctx, m, h.p.Spec.Limits))
	m.Close()
	if err != nil {
		return err
	}
	if err := os.RemoveAll(h.usedPath()); err != nil {
		return err
	}
	if err := os.Rename(h.p.SavedDir(), h.usedPath()); err != nil {
		return err
	}
	if err := disk.Sync(h.p.Dir); err != nil {
		return errors.Join(err, os.Rename(h.usedPath(), h.p.SavedDir()))
	}
	return h.letResumed(ctx)
}

// usedPath is where a saved machine is until it is removed that was gone on from.
func (h *handle) usedPath() string { return h.p.SavedDir() + ".old" }

// letResumed lets the processors go, whatever becomes of the caller's request.
func (h *handle) letResumed(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), monitorTimeout)
	defer cancel()
	if err := os.WriteFile(h.inRun("woken"), nil, 0o600); err != nil {
		return err
	}
	m, err := h.monitor(ctx)
	if err != nil {
		return err
	}
	err = m.Cont(ctx)
	m.Close()
	if err != nil {
		return err
	}
	h.refresh(ctx)
	return os.RemoveAll(h.usedPath())
}

// refresh gives the guest new randomness, and the time: what it was saved with another
// machine may go on with too. As with the clock, the machine goes on in any case.
func (h *handle) refresh(ctx context.Context) {
	if h.startsItself() && !h.p.Rootfs.Image.Agent {
		return
	}
	short, cancel := context.WithTimeout(ctx, clockTimeout)
	defer cancel()
	w := agent.Wake{Time: time.Now()}
	rand.Read(w.Seed[:])
	err := h.withAgent(short, func(c *agent.Client) error { return c.Refresh(short, w) })
	if api.IsKind(err, api.Unsupported) { // an older agent
		h.tellTime(ctx)
	}
}
