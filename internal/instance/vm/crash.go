package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/qemu"
)

// crashFile of the run directory says why Berth ended a run whose guest had crashed.
const crashFile = "crashed"

// lookForCrashes adds what tells of a crash to a machine that has a policy for it, and to
// all what tells of a disk that cannot be written.
func lookForCrashes(m *qemu.Machine, p *instance.Prepared, chosen api.Machine) {
	m.Events = filepath.Join(p.RunDir, "events")
	m.Crashes, m.Watchdog = chosen.OnCrash != "", chosen.Watchdog
}

// crashes says what each crash is.
var crashes = map[qemu.RunState]string{
	qemu.StatePanicked: "the guest's kernel panicked",
	qemu.StateWatchdog: "the guest fed its watchdog no more",
}

// Watch carries out what is to be done when the guest crashes, and tells when its
// processors are stopped because the host cannot write its disk, until the run has ended.
//
// QEMU stops the processors then, and stays so: a berthd that was not there finds it
// later. The state is asked for whenever processors have stopped or gone on; the
// events alone would be lost with a connection.
func (h *handle) Watch(ctx context.Context, changed func(instance.Status)) error {
	err := h.watch(ctx, changed)
	// A connection that breaks is usually QEMU's end, of which the keeper learns a
	// moment later.
	short, cancel := context.WithTimeout(ctx, signalTimeout)
	defer cancel()
	if _, werr := h.driver.cfg.Keeper.Wait(short, h.p.ID); werr == nil || api.IsKind(werr, api.NotFound) {
		return nil
	}
	return h.fail("watch", err)
}

func (h *handle) watch(ctx context.Context, changed func(instance.Status)) error {
	m, err := h.events(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	for told := false; ; {
		state, err := m.Status(ctx)
		switch {
		case err != nil:
			return err
		case state.Crashed() && h.run.Machine.OnCrash != api.CrashPause:
			return h.endCrashed(ctx, state)
		case (state.Crashed() || state == qemu.StateIOError) != told:
			told = !told
			if st, err := h.Status(ctx); err == nil {
				changed(st)
			}
		}
		if err := m.Await(ctx, qemu.EventStop, qemu.EventResume); err != nil {
			return err
		}
	}
}

// events connects to the monitor that is there to be listened to.
func (h *handle) events(ctx context.Context) (*qemu.Monitor, error) {
	ctx, cancel := context.WithTimeout(ctx, monitorTimeout)
	defer cancel()
	return qemu.Dial(ctx, h.inRun("events"))
}

// watchBoot is Watch of a guest that boots: whether it crashes then for good is not
// left to anybody.
func (h *handle) watchBoot(ctx context.Context) {
	if h.run.Machine.OnCrash == "" {
		return
	}
	m, err := h.events(ctx)
	if err != nil {
		return // QEMU has ended, and the boot with it
	}
	defer m.Close()
	for {
		state, err := m.Status(ctx)
		if err == nil && state.Crashed() {
			err = h.endCrashed(ctx, state)
		}
		if err == nil {
			err = m.Await(ctx, qemu.EventStop)
		}
		if err != nil {
			return
		}
	}
}

// endCrashed ends a crashed run.
func (h *handle) endCrashed(ctx context.Context, state qemu.RunState) error {
	err := os.WriteFile(h.inRun(crashFile), []byte(crashes[state]), 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return nil // it has ended, and its run is being deleted
	} else if err != nil {
		return err
	}
	err = h.driver.cfg.Keeper.Signal(ctx, h.p.ID, sigKill)
	if api.IsKind(err, api.Conflict) {
		return nil
	}
	return err
}

// crashExit is how a run ended that Berth ended because its guest had crashed; nil where
// it did not.
func (h *handle) crashExit(said string, at time.Time) *api.Exit {
	reason, err := os.ReadFile(h.inRun(crashFile))
	if err != nil {
		return nil
	}
	e := &api.Exit{Code: crashCode, Crashed: true, Error: string(reason), Time: at}
	if words := lastWords(said); strings.HasPrefix(words, panicWords) {
		e.Error += "; last words: " + words
	}
	return e
}

// crashNotice is what a user should know of a guest that was left as it crashed.
func (h *handle) crashNotice(state qemu.RunState) string {
	name := h.p.Spec.Name
	return crashes[state] + ", and is left as it was: 'berth console " + name + "' shows its last words, 'berth restart " + name + "' starts it anew"
}
