package qemu

import (
	"context"
	"errors"
	"os"
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
	if err := m.capabilities(ctx, true); err != nil {
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
	if done, err := m.streamed(ctx); done || err != nil {
		return err
	}
	status, err := m.migration(ctx)
	if err != nil {
		return err
	}
	return errors.New("QEMU could not save the machine: " + status.Error)
}

// streamed returns once QEMU has written or read a state, and whether it could. It waits
// for QEMU's word: a monitor that is asked takes the lock away from who does the work.
func (m *Monitor) streamed(ctx context.Context) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.bound(ctx)()
	for {
		switch m.stream {
		case "completed":
			return true, nil
		case "failed", "cancelled": //nolint:misspell // QEMU's word
			return false, nil
		}
		if _, err := m.read(); err != nil {
			return false, contextError(ctx, err)
		}
	}
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
	if err := m.capabilities(ctx, true); err != nil {
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
	done, err := m.streamed(ctx)
	if err == nil && !done {
		err = errors.New("QEMU could not read the machine's state")
	}
	return err
}

// capabilities says how a state is written or read: without memory that is a file, or
// with all of it; and has QEMU tell how far that has come.
func (m *Monitor) capabilities(ctx context.Context, ignoreShared bool) error {
	type capability struct {
		Capability string `json:"capability"`
		State      bool   `json:"state"`
	}
	return m.Execute(ctx, "migrate-set-capabilities", map[string][]capability{"capabilities": {{"x-ignore-shared", ignoreShared}, {"events", true}}}, nil)
}
