package engine

import (
	"context"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// watchCrash looks after a run that can stand still without ending.
func (e *Engine) watchCrash(en *entry, r *run) {
	w, ok := r.handle.(instance.Watcher)
	if !ok {
		return
	}
	e.background(func(ctx context.Context) {
		err := w.Watch(ctx, func(observed instance.Status) { e.crashed(en, r, observed) })
		if err != nil && ctx.Err() == nil {
			e.log.Error("nobody looks for a crash any more", "instance", en.name(), "error", err)
		}
	})
}

// crashed shows what became of a run whose guest crashed and is kept, whose disk cannot be
// written, or which went on.
func (e *Engine) crashed(en *entry, r *run, observed instance.Status) {
	if en.currentRun() != r {
		return
	}
	en.observe(func(st *api.Status) {
		if st.State == api.Running || st.State == api.Paused {
			st.State, st.Notice = observed.State, observed.Notice
		}
	})
	switch {
	case observed.Crashed:
		e.publish(en, "crash", map[string]string{"notice": observed.Notice})
	case observed.State == api.Paused:
		e.publish(en, "disk-error", map[string]string{"notice": observed.Notice})
	}
}
