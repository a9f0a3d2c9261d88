package engine

import (
	"context"
	"errors"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// Pause freezes an instance in memory.
func (e *Engine) Pause(ctx context.Context, ref string) error {
	return e.freeze(ctx, ref, "pause", api.Running, api.Paused, func(ctx context.Context, p instance.Pauser) error { return p.Pause(ctx) })
}

// Unpause lets a paused instance run on.
func (e *Engine) Unpause(ctx context.Context, ref string) error {
	return e.freeze(ctx, ref, "unpause", api.Paused, api.Running, func(ctx context.Context, p instance.Pauser) error { return p.Unpause(ctx) })
}

func (e *Engine) freeze(ctx context.Context, ref, op string, from, to api.State, act func(context.Context, instance.Pauser) error) error {
	en, err := e.find(ref)
	if err != nil {
		return err
	}
	unlock, err := en.lock(ctx)
	if err != nil {
		return api.E(op, "", ref, err)
	}
	defer unlock()
	h, err := en.handle(op)
	if err != nil {
		return err
	}
	inst := en.instance()
	if inst.Status.State != from {
		return api.E(op, api.Conflict, inst.Name, errors.New("it is "+string(inst.Status.State)+", not "+string(from)))
	}
	p, ok := h.(instance.Pauser)
	if !ok {
		return cannot(op, inst)
	}
	if err := act(ctx, p); err != nil {
		return api.E(op, "", inst.Name, err)
	}
	err = e.change(ctx, en, func(r *record) {
		if r.Status.State == from {
			r.Status.State = to
		}
	})
	e.publish(en, op, nil)
	return err
}

// unpause thaws a run whatever the record says.
func (e *Engine) unpause(ctx context.Context, h instance.Handle) error {
	if p, ok := h.(instance.Pauser); ok {
		return p.Unpause(ctx)
	}
	return nil
}

// cannot says that an instance's kind lacks an ability.
func cannot(op string, inst api.Instance) error {
	return api.E(op, api.Unsupported, inst.Name, errors.New("a "+string(inst.Spec.Kind)+" cannot do this"))
}
