package oci

import (
	"context"
	"fmt"

	"github.com/berthcloud/berth/internal/oci/rdt"
)

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
