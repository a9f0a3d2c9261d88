package oci

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Pause stops all processes of a running container. A paused one is a success.
func (r *Runtime) Pause(id string) error { return r.freeze(id, true) }

// Resume lets the processes of a paused container go on.
func (r *Runtime) Resume(id string) error { return r.freeze(id, false) }

func (r *Runtime) freeze(id string, frozen bool) error {
	c, err := r.Load(id)
	if err != nil {
		return err
	}
	status, err := c.Status()
	if err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	switch status {
	case specs.StateRunning, specs.StateCreated, StatusPaused:
	default:
		return fmt.Errorf("%s: %w", id, ErrNotRunning)
	}
	g, err := c.cgroups()
	if err == nil && g == nil {
		err = fmt.Errorf("the container has no cgroups, so it cannot be paused")
	}
	if err == nil {
		err = g.Freeze(frozen)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	return nil
}
