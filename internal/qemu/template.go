package qemu

import (
	"context"
	"errors"
	"os"
	"time"
)

// stateName is what QEMU calls the file of a state.
const stateName = "state"

// Save stops the machine and writes the state of all its devices to a file. Its memory
// is left where it is, in its own file.
//
// The machine stops before it is saved: a running one that writes much was saved
// wrongly by QEMU 7.2 under emulation.
func (m *Monitor) Save(ctx context.Context, state *os.File) error {
	if err := m.Stop(ctx); err != nil {
		return err
	}
	if err := m.ignoreShared(ctx, true); err != nil {
		return err
	}
	return m.migrate(ctx, state)
}

// migrate has QEMU write the machine's state to a file or pipe.
func (m *Monitor) migrate(ctx context.Context, state *os.File) error {
	if err := m.executeWith(ctx, "getfd", map[string]string{"fdname": stateName}, nil, state); err != nil {
		return err
	}
	if err := m.Execute(ctx, "migrate", map[string]string{"uri": "fd:" + stateName}, nil); err != nil {
		return err
	}
	return m.poll(ctx, func() (bool, error) {
		status, err := m.migration(ctx)
		if err != nil {
			return false, err
		}
		if status.Status == "failed" {
			return false, errors.New("QEMU could not save the machine: " + status.Error)
		}
		return status.Status == "completed", nil
	})
}

// migration is what QEMU says of the last migration.
type migration struct {
	Status string `json:"status"` // "" before the first
	Error  string `json:"error-desc"`
}

func (m *Monitor) migration(ctx context.Context) (status migration, err error) {
	err = m.Execute(ctx, "query-migrate", nil, &status)
	return status, err
}

// Load makes a machine that has just been started a copy of what Save saved. It
// stands still after it, until Cont. A QEMU that cannot read the state ends.
func (m *Monitor) Load(ctx context.Context, state *os.File) error {
	if err := m.ignoreShared(ctx, true); err != nil {
		return err
	}
	return m.incoming(ctx, state)
}

// incoming has QEMU read a machine's state.
func (m *Monitor) incoming(ctx context.Context, state *os.File) error {
	if err := m.executeWith(ctx, "getfd", map[string]string{"fdname": stateName}, nil, state); err != nil {
		return err
	}
	if err := m.Execute(ctx, "migrate-incoming", map[string]string{"uri": "fd:" + stateName}, nil); err != nil {
		return err
	}
	return m.poll(ctx, func() (bool, error) {
		state, err := m.Status(ctx)
		return state != StateIncoming, err
	})
}

// ignoreShared leaves memory that is a file out of a saved state, or not.
func (m *Monitor) ignoreShared(ctx context.Context, yes bool) error {
	type capability struct {
		Capability string `json:"capability"`
		State      bool   `json:"state"`
	}
	return m.Execute(ctx, "migrate-set-capabilities", map[string][]capability{"capabilities": {{"x-ignore-shared", yes}}}, nil)
}

// poll asks until the answer is yes: QEMU reports the end of a migration by an event
// only to who asked for one in time.
func (m *Monitor) poll(ctx context.Context, done func() (bool, error)) error {
	for wait := 100 * time.Microsecond; ; wait = min(2*wait, 5*time.Millisecond) {
		yes, err := done()
		if yes || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}
