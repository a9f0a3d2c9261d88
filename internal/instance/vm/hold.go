package vm

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/agent"
)

// A machine is saved, or paused, with nothing in its guest moving but the agent: what
// goes on from there can be given time, randomness and a name before a single
// instruction of a user's runs. So two that go on from one memory never draw the same.
//
// heldMark of the run directory exists from before its guest is held until after it was
// let go, and holds heldWord where the guest has said that it is held. A saved machine
// has it too.
const (
	heldMark = "held"
	heldWord = "held"
)

const (
	// holdTimeout bounds the holding of a guest, which one that hangs does not do.
	holdTimeout = 5 * time.Second
	// pauseTimeout bounds it where nobody waits for more than that the machine stands still.
	pauseTimeout = time.Second
	// unholdTimeout bounds the letting go, of a machine that becomes another one too: to
	// make an RSA key takes an emulated processor ten seconds.
	unholdTimeout = 3 * time.Minute
)

// hold has the guest hold itself still. On an error it may be held or not.
func (h *handle) hold(ctx context.Context) error {
	if isHeld(h.p.RunDir) {
		return nil
	}
	if !h.hasAgent() {
		return unsupported("its guest has no agent (docs/disk-images.md)")
	}
	if h.insisting.Load() {
		return api.E("", api.Unavailable, "", errors.New("its guest has not answered since it was to go on"))
	}
	if err := os.WriteFile(h.inRun(heldMark), nil, 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, holdTimeout)
	defer cancel()
	if err := h.withAgent(ctx, func(c *agent.Client) error { return c.Hold(ctx) }); err != nil {
		return err
	}
	return os.WriteFile(h.inRun(heldMark), []byte(heldWord), 0o600)
}

// isHeld reports whether the machine in a directory, of a run or saved, is held.
func isHeld(dir string) bool {
	word, err := os.ReadFile(dir + "/" + heldMark)
	return err == nil && string(word) == heldWord
}

// hasAgent reports whether an agent is promised to be in the guest.
func (h *handle) hasAgent() bool { return !h.startsItself() || h.p.Rootfs.Image.Agent }

// unhold lets the guest go on, after it was told what it has to know first.
func (h *handle) unhold(ctx context.Context, first func(context.Context, *agent.Client) error) error {
	if !h.hasAgent() {
		return nil
	}
	if isHeld(h.p.RunDir) {
		return h.insist(ctx, first)
	}
	// It goes on in any case: a wrong clock is no reason to say that it does not.
	short, cancel := context.WithTimeout(ctx, clockTimeout)
	defer cancel()
	if h.tell(short, first) == nil {
		return removeAny(h.inRun(heldMark))
	}
	_, err := os.Stat(h.inRun(heldMark))
	if err == nil && h.insisting.CompareAndSwap(false, true) {
		go func() { // it may have held itself, though it did not say so in time
			defer h.insisting.Store(false)
			_ = h.insist(context.WithoutCancel(ctx), first)
		}()
	}
	return nil
}

// tell lets the guest go, after it was told what it has to know first.
func (h *handle) tell(ctx context.Context, first func(context.Context, *agent.Client) error) error {
	c, release, err := h.connectAgent(ctx)
	if err != nil {
		return err
	}
	defer release()
	return errors.Join(first(ctx, c), older(c.LetGo(ctx)))
}

// insist tells the guest until it answers, or is no more.
func (h *handle) insist(ctx context.Context, first func(context.Context, *agent.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, unholdTimeout)
	defer cancel()
	for {
		err := h.tell(ctx, first)
		if err == nil {
			return removeAny(h.inRun(heldMark))
		}
		st, gone := h.driver.cfg.Keeper.Status(ctx, h.p.ID)
		if gone != nil || st.Exit != nil || !api.IsKind(err, api.Unavailable) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// removeAny removes a file that need not be there.
func removeAny(path string) error {
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// older takes it for no error that an agent does not know a call.
func older(err error) error {
	if api.IsKind(err, api.Unsupported) {
		return nil
	}
	return err
}

// setClock tells the guest the time, while it stood still.
func setClock(ctx context.Context, c *agent.Client) error { return c.SetClock(ctx, time.Now()) }
