package engine

import (
	"context"
	"errors"
	"io"
	"path"
	"strings"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// Exec runs a command in a running instance and returns how it ended.
func (e *Engine) Exec(ctx context.Context, ref string, x api.Exec, s instance.Streams) (api.Exit, error) {
	en, h, err := e.running(ref, "exec")
	if err != nil {
		return api.Exit{}, err
	}
	inst := en.instance()
	switch {
	case len(x.Command) == 0:
		return api.Exit{}, api.E("exec", api.Invalid, inst.Name, errors.New("no command was given"))
	case x.WorkingDir != "" && !path.IsAbs(x.WorkingDir):
		return api.Exit{}, api.E("exec", api.Invalid, inst.Name, errors.New("the working directory "+x.WorkingDir+" is not an absolute path"))
	case inst.Status.State == api.Paused:
		return api.Exit{}, api.E("exec", api.Conflict, inst.Name, errors.New("it is paused; 'berth unpause "+inst.Name+"' first"))
	}
	ex, ok := h.(instance.Execer)
	if !ok {
		return api.Exit{}, cannot("exec", inst)
	}
	e.publish(en, "exec", map[string]string{"command": strings.Join(x.Command, " ")})
	exit, err := ex.Exec(ctx, x, s)
	return exit, api.E("exec", "", inst.Name, err)
}

// running returns the entry that ref names and the handle of its run.
func (e *Engine) running(ref, op string) (*entry, instance.Handle, error) {
	en, err := e.find(ref)
	if err != nil {
		return nil, nil, err
	}
	h, err := en.handle(op)
	return en, h, err
}

// Stats measures a running instance.
func (e *Engine) Stats(ctx context.Context, ref string) (api.Stats, error) {
	en, h, err := e.running(ref, "stats")
	if err != nil {
		return api.Stats{}, err
	}
	inst := en.instance()
	s, ok := h.(instance.Statser)
	if !ok {
		return api.Stats{}, cannot("stats", inst)
	}
	st, err := s.Stats(ctx)
	st.ID, st.Name = inst.ID, inst.Name
	if st.MemoryLimit == 0 {
		st.MemoryLimit = e.host.Memory
	}
	return st, api.E("stats", "", inst.Name, err)
}

// Top lists the processes of a running instance.
func (e *Engine) Top(ctx context.Context, ref string) (api.Top, error) {
	en, h, err := e.running(ref, "top")
	if err != nil {
		return api.Top{}, err
	}
	t, ok := h.(instance.Topper)
	if !ok {
		return api.Top{}, cannot("top", en.instance())
	}
	top, err := t.Top(ctx)
	return top, api.E("top", "", en.name(), err)
}

// CopyIn unpacks a tar stream into a directory of a running instance.
func (e *Engine) CopyIn(ctx context.Context, ref, dir string, tar io.Reader) error {
	return e.copier(ref, dir, func(c instance.Copier) error { return c.CopyIn(ctx, dir, tar) })
}

// CopyOut packs a file or directory of a running instance.
func (e *Engine) CopyOut(ctx context.Context, ref, path string, tar io.Writer) error {
	return e.copier(ref, path, func(c instance.Copier) error { return c.CopyOut(ctx, path, tar) })
}

func (e *Engine) copier(ref, p string, f func(instance.Copier) error) error {
	en, h, err := e.running(ref, "cp")
	if err != nil {
		return err
	}
	if !path.IsAbs(p) {
		return api.E("cp", api.Invalid, p, errors.New("the path in the instance must be absolute"))
	}
	c, ok := h.(instance.Copier)
	if !ok {
		return cannot("cp", en.instance())
	}
	return api.E("cp", "", en.name(), f(c))
}
