package vm

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

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
	plan := &plan{
		Machine: run.Machine, Notice: run.Notice, Limits: given(resources(p.Spec.Limits, run.Layout.Memory), d.cfg.Host),
		machine: *run.Layout, state: filepath.Join(p.SavedDir(), instance.SavedState), saved: true,
	}
	if run.Dir != "" && run.Dir != p.Dir {
		if err := plan.takeOver(run.Dir, p); err != nil {
			return fail(err)
		}
	}
	m := &plan.machine
	m.Incoming, m.MaxFile = true, maxFile(p, p.Rootfs.DiskSize, m.Memory)
	if m.Template != nil {
		m.Template = &qemu.Template{Copy: true} // its memory was saved too
	}
	if plan.TPM, err = planTPM(p, d.cfg.Host, run.Machine); err != nil {
		return fail(err)
	}
	if plan.QEMU, err = qemu.NewPlan(*m); err != nil {
		return fail(err)
	}
	return d.create(ctx, p, plan)
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
	err = m.LoadAll(ctx, state, h.run.Copied != nil)
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
	defer m.Close()
	if err := errors.Join(h.guardDisplay(ctx, m), throttle(ctx, m, h.p.Spec.Limits)); err != nil {
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
	return h.letResumed(ctx, m)
}

// usedPath is where a saved machine is until it is removed that was gone on from.
func (h *handle) usedPath() string { return h.p.SavedDir() + ".old" }

// recoverResumed lets a machine go on whose berthd did not come to that.
func (h *handle) recoverResumed(ctx context.Context) error {
	m, err := h.monitor(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	return h.letResumed(ctx, m)
}

// letResumed lets the processors go, whatever becomes of the caller's request. What is
// left to do then nobody waits for who does not call the guest.
func (h *handle) letResumed(ctx context.Context, m *qemu.Monitor) error {
	if h.run.Copied != nil {
		return h.letCopied(ctx, m)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), monitorTimeout)
	defer cancel()
	if err := os.WriteFile(h.inRun("woken"), nil, 0o600); err != nil {
		return err
	}
	// Before it is removed: its other name is a snapshot's.
	shared := isShared(filepath.Join(h.usedPath(), instance.SavedState))
	if err := m.Cont(ctx); err != nil {
		return err
	}
	h.settle(context.WithoutCancel(ctx))
	if shared {
		// Others go on from there too: nobody is told that this one does before it has
		// randomness of its own. As with the clock, it goes on in any case.
		_ = h.awaitSettled(ctx)
	}
	return nil
}

// isShared reports whether a file has another name.
func isShared(path string) bool {
	var info unix.Stat_t
	return unix.Stat(path, &info) == nil && info.Nlink > 1
}

// settle begins what follows a resume: the guest gets the time and new randomness, which
// takes an emulated processor 40 ms, and the saved machine is removed.
func (h *handle) settle(ctx context.Context) {
	settled := make(chan struct{})
	h.mu.Lock()
	h.settled = settled
	h.mu.Unlock()
	h.driver.background.Go(func() {
		defer close(settled)
		var beside sync.WaitGroup
		beside.Go(func() {
			if err := os.RemoveAll(h.usedPath()); err != nil {
				h.driver.cfg.Log.Warn("remove what a machine has gone on from", "instance", h.p.Spec.Name, "error", err)
			}
		})
		if err := h.unhold(ctx, refresh); err != nil {
			h.driver.cfg.Log.Error("a machine that goes on is still held", "instance", h.p.Spec.Name, "error", err)
		}
		beside.Wait()
	})
}

// awaitSettled returns when what follows a resume is done: no call of the guest comes
// before its new randomness.
func (h *handle) awaitSettled(ctx context.Context) error {
	h.mu.Lock()
	settled := h.settled
	h.mu.Unlock()
	if settled == nil {
		return nil
	}
	select {
	case <-settled:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// refresh gives the guest new randomness, and the time: what it was saved with another
// machine may go on with too.
func refresh(ctx context.Context, c *agent.Client) error {
	w := agent.Wake{Time: time.Now()}
	rand.Read(w.Seed[:])
	err := c.Refresh(ctx, w)
	if api.IsKind(err, api.Unsupported) { // an older agent
		return setClock(ctx, c)
	}
	return err
}
