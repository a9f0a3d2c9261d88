package oci

import (
	"context"
	"fmt"

	"github.com/berthcloud/berth/internal/oci/rdt"
)

// UpdateSchemata changes the schemata of the class of resctrl that a container is in. A
// line that is empty stays as it is.
func (r *Runtime) UpdateSchemata(id string, lines ...string) error {
	c, err := r.Load(id)
	if err != nil {
		return err
	}
	if c.rec.Resctrl == nil {
		return fmt.Errorf("%s: linux.intelRdt: is not set, so the container is in no class whose schemata could be changed", id)
	}
	if err := c.rec.Resctrl.Write(lines...); err != nil {
		return fmt.Errorf("%s: linux.intelRdt: %w", id, err)
	}
	return nil
}

// joinResctrl puts the waiting child into the class of service of linux.intelRdt. Its
// directories are on disk before they exist: whatever kills us, delete finds them.
func (k *creator) joinResctrl() error {
	want := k.b.Spec.Linux.IntelRdt
	if want == nil {
		return nil
	}
	root, err := rdt.Mounted()
	if err != nil {
		return fmt.Errorf("linux.intelRdt: %w", err)
	}
	g := rdt.Plan(root, k.o.ID, want)
	k.rec.Resctrl = g
	if err := k.dir.writeRecord(&k.rec); err != nil {
		return err
	}
	if err := g.Apply(); err != nil {
		return fmt.Errorf("linux.intelRdt: %w", err)
	}
	k.undo.Add(func(context.Context) error { return g.Undo() })
	if err := g.Join(k.child.Pid); err != nil {
		return fmt.Errorf("linux.intelRdt: %w", err)
	}
	return nil
}
