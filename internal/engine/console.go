package engine

import (
	"context"
	"errors"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// Console connects the streams to the serial console of a machine that runs or boots,
// and returns how the run ended.
func (e *Engine) Console(ctx context.Context, ref string, s instance.Streams) (api.Exit, error) {
	en, err := e.find(ref)
	if err != nil {
		return api.Exit{}, err
	}
	if inst := en.instance(); inst.Spec.Kind != api.VM {
		return api.Exit{}, api.E("console", api.Unsupported, inst.Name,
			errors.New("a "+string(inst.Spec.Kind)+" has no serial console; 'berth attach "+inst.Name+"' connects to its streams"))
	}
	r, err := en.visible("console")
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
