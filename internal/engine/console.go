package engine

import (
	"context"
	"errors"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// Console connects the streams to the serial console of a machine that runs or boots,
// and returns how the run ended.
func (e *Engine) Console(ctx context.Context, ref string, s instance.Streams) (api.Exit, error) {
	en, r, err := e.machine("console", ref, "serial console")
	if err != nil {
		return api.Exit{}, err
	}
	c, ok := r.handle.(instance.Consoler)
	if !ok {
		return api.Exit{}, cannot("console", en.instance())
	}
	if err := c.Console(ctx, s); err != nil {
		return api.Exit{}, api.E("console", "", en.name(), err)
	}
	if err := en.await(ctx, func() bool { return en.booting != r }); err != nil {
		return api.Exit{}, api.E("console", "", en.name(), err)
	}
	if !en.hasRun(r) {
		return api.Exit{}, api.E("console", api.Conflict, en.name(), errors.New("it ended before it had started; 'berth inspect "+en.name()+"' says why"))
	}
	return e.awaitExit(ctx, en, r)
}

// hasRun reports whether r is the present run, or has been and ended.
func (en *entry) hasRun(r *run) bool {
	en.mu.Lock()
	defer en.mu.Unlock()
	select {
	case <-r.ended:
		return true
	default:
		return en.run == r
	}
}

// Screenshot returns what a machine has on its display, as a PNG image.
func (e *Engine) Screenshot(ctx context.Context, ref string) ([]byte, error) {
	en, d, err := e.display("screenshot", ref)
	if err != nil {
		return nil, err
	}
	image, err := d.Screenshot(ctx)
	return image, api.E("screenshot", "", en.name(), err)
}

// VNC connects one more VNC client to a machine's display until it or the machine
// leaves.
func (e *Engine) VNC(ctx context.Context, ref string, s instance.Streams) (api.Exit, error) {
	en, d, err := e.display("vnc", ref)
	if err != nil {
		return api.Exit{}, err
	}
	return api.Exit{Time: time.Now()}, api.E("vnc", "", en.name(), d.VNC(ctx, s))
}

// VNCAccess returns what a VNC client has to know.
func (e *Engine) VNCAccess(ctx context.Context, ref string) (api.VNCAccess, error) {
	en, d, err := e.display("vnc", ref)
	if err != nil {
		return api.VNCAccess{}, err
	}
	password, err := d.VNCPassword(ctx)
	return api.VNCAccess{Password: password}, api.E("vnc", "", en.name(), err)
}

func (e *Engine) display(op, ref string) (*entry, instance.Displayer, error) {
	en, r, err := e.machine(op, ref, "display")
	if err != nil {
		return nil, nil, err
	}
	d, ok := r.handle.(instance.Displayer)
	if !ok {
		return nil, nil, cannot(op, en.instance())
	}
	return en, d, nil
}

// machine returns the run of a VM, or says that anything else lacks what is asked for.
func (e *Engine) machine(op, ref, what string) (*entry, *run, error) {
	en, err := e.find(ref)
	if err != nil {
		return nil, nil, err
	}
	if inst := en.instance(); inst.Spec.Kind != api.VM {
		return nil, nil, api.E(op, api.Unsupported, inst.Name,
			errors.New("a "+string(inst.Spec.Kind)+" has no "+what+"; 'berth attach "+inst.Name+"' connects to its streams"))
	}
	r, err := en.visible(op)
	return en, r, err
}

// visible returns the run, also one that is being started, or says why there is none.
func (en *entry) visible(op string) (*run, error) {
	en.mu.Lock()
	r := en.run
	if r == nil {
		r = en.booting
	}
	en.mu.Unlock()
	if r != nil {
		return r, nil
	}
	_, err := en.handle(op)
	return nil, err
}
