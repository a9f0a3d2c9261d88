package qemu

import (
	"context"
	"slices"
)

// Event is QEMU's word for something that happened to a machine (run-state.json).
type Event string

// The events that say that a machine's processors stand still, or run again.
const (
	EventStop   Event = "STOP"
	EventResume Event = "RESUME"
)

// eventMigration tells how far the writing or reading of a machine's state has come, to
// who has asked for that (Monitor.capabilities).
const eventMigration Event = "MIGRATION"

// Crashed reports whether a machine stands still because its guest crashed: its kernel
// panicked, or fed its watchdog no more.
func (s RunState) Crashed() bool { return s == StatePanicked || s == StateWatchdog }

// Await waits for one of the events. Those that came while a command was carried out
// are not among them: their effect shows in what the command answered.
func (m *Monitor) Await(ctx context.Context, events ...Event) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.bound(ctx)()
	for {
		msg, err := m.read()
		if err != nil {
			return contextError(ctx, err)
		}
		if slices.Contains(events, Event(msg.Event)) {
			return nil
		}
	}
}
