package vm

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/agent"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/keeper"
	"github.com/berthcloud/berth/internal/qemu"
)

// createWarm carries out a plan by a copy of its template where there is one. Where
// that fails the machine is booted, and the template is given up.
func (d *Driver) createWarm(ctx context.Context, p *instance.Prepared, plan *plan) (*handle, error) {
	plan.Machine.Start = d.startOf(plan)
	if d.coldReason(plan) != "" {
		return d.create(ctx, p, plan)
	}
	machine, key, err := d.templateFor(plan)
	if err != nil {
		return nil, api.E("create", "", p.Spec.Name, err)
	}
	h, err := d.createCopy(ctx, p, plan, key)
	if h != nil {
		return h, nil
	}
	if _, unfit := errors.AsType[*unfitError](err); err != nil && (!unfit || ctx.Err() != nil) {
		return nil, err
	}
	if err != nil {
		err = errors.Join(err, d.templates.distrust(key))
		d.cfg.Log.Warn("a template is of no use; machines like it are booted", "template", key, "error", err)
		plan.Machine.Start = d.startOf(plan)
	}
	if h, err = d.create(ctx, p, plan); err == nil {
		d.templates.want(key, machine)
	}
	return h, err
}

// coldReason is why a planned machine is booted in any case, or "".
func (d *Driver) coldReason(plan *plan) string {
	if d.cfg.Templates == 0 && plan.NoTemplate == "" {
		return "berthd keeps no templates (--vm-templates 0)"
	}
	return plan.NoTemplate
}

// templateFor lays out the template of a planned machine and names it.
func (d *Driver) templateFor(plan *plan) (qemu.Machine, string, error) {
	m := templateOf(plan.machine, d.templateDir(), d.cfg.TemplateUser)
	key, err := d.templateKey(m)
	return m, key, err
}

// startOf says how a planned machine would begin now.
func (d *Driver) startOf(plan *plan) string {
	if why := d.coldReason(plan); why != "" {
		return "a boot: " + why
	}
	_, key, err := d.templateFor(plan)
	switch {
	case err != nil || !d.templates.has(key) && !d.templates.hopeless(key):
		return "a boot: there is no template for it yet, and this boot has one made"
	case d.templates.hopeless(key):
		return "a boot: its template failed, as berthd's log says"
	}
	return "a copy of template " + key + ", without a boot"
}

// unfitError is why a template cannot be used.
type unfitError struct{ cause error }

func (e *unfitError) Error() string { return e.cause.Error() }
func (e *unfitError) Unwrap() error { return e.cause }

// createCopy carries out a plan by a copy of the template with the key; nil where
// there is none.
func (d *Driver) createCopy(ctx context.Context, p *instance.Prepared, plan *plan, key string) (*handle, error) {
	t, err := d.templates.take(key)
	if err != nil {
		return nil, &unfitError{err}
	}
	if t == nil {
		return nil, nil
	}
	// From here on QEMU has what it needs.
	defer d.templates.release(t)
	copied, err := plan.copyOf(t, p.RunDir)
	if err != nil {
		return nil, &unfitError{err}
	}
	copied.state = t.state
	return d.create(ctx, p, copied)
}

// load has a QEMU that has just been started read the template's state.
func (h *handle) load(ctx context.Context, path string) error {
	state, err := os.Open(path)
	if err != nil {
		return &unfitError{err}
	}
	defer state.Close()
	m, err := h.monitor(ctx)
	if err != nil {
		return &unfitError{err}
	}
	defer m.Close()
	ctx, cancel := context.WithTimeout(ctx, monitorTimeout)
	defer cancel()
	if err := m.Load(ctx, state); err != nil {
		return &unfitError{err}
	}
	return nil
}

// wake gives a copy of a template its clock and its randomness, which it waits for
// once it goes. The caller closes what it gets when the guest has answered.
func (h *handle) wake(ctx context.Context) (io.Closer, error) {
	conn, err := keeper.Dial(ctx, h.inRun("wake"))
	if err != nil {
		return nil, err
	}
	w := agent.Wake{Time: time.Now()}
	rand.Read(w.Seed[:])
	if _, err := conn.Write(w.Encode()); err != nil {
		conn.Close()
		return nil, err
	}
	// The mark tells an engine that finds this run that it was started.
	if err := os.WriteFile(h.inRun("woken"), nil, 0o600); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}
