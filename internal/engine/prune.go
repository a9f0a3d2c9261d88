package engine

import (
	"context"
	"errors"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// PruneOptions say what Prune removes beside ended instances.
type PruneOptions struct {
	Images    bool // images that no instance holds, kernels excepted
	Volumes   bool // volumes that no instance mounts
	Templates bool // saved machines that VMs begin as copies of
}

// Prune removes every instance that has ended or was never started, and what
// the options say. Content that nothing refers to goes in any case.
func (e *Engine) Prune(ctx context.Context, o PruneOptions) (api.Pruned, error) {
	var p api.Pruned
	for _, en := range e.entries() {
		st := en.snapshot().State
		if st.Alive() || st == api.Restarting || st == api.Suspended {
			continue
		}
		name := en.name()
		err := e.Remove(ctx, en.id, RemoveOptions{})
		if api.IsKind(err, api.Conflict) || api.IsKind(err, api.NotFound) {
			continue // started or removed meanwhile
		}
		if err != nil {
			return p, err
		}
		p.Instances = append(p.Instances, name)
	}
	if o.Volumes {
		volumes, err := e.Volumes(ctx)
		if err != nil {
			return p, err
		}
		for _, v := range volumes {
			if len(v.Users) > 0 {
				continue
			}
			if err := e.RemoveVolume(ctx, v.Name, true); err != nil {
				return p, err
			}
			p.Volumes = append(p.Volumes, v.Name)
		}
	}
	var err error
	p.Images, p.Bytes, err = e.images.Prune(ctx, o.Images)
	if o.Templates && err == nil {
		err = e.pruneTemplates(ctx, &p)
	}
	return p, errors.Join(err, e.storage.Sweep())
}

// pruneTemplates removes what the next start of a VM can do without.
func (e *Engine) pruneTemplates(ctx context.Context, p *api.Pruned) error {
	t, ok := e.drivers[api.VM].(instance.Templater)
	if !ok {
		return nil
	}
	list, err := t.Templates(ctx)
	if err != nil {
		return api.E("prune", "", "templates", err)
	}
	for _, one := range list {
		if err := t.RemoveTemplate(ctx, one.ID); err != nil {
			return api.E("prune", "", "template "+one.ID, err)
		}
		p.Templates = append(p.Templates, one.ID)
		p.Bytes += one.Size
	}
	return nil
}

// Templates lists the saved machines that VMs begin as copies of.
func (e *Engine) Templates(ctx context.Context) ([]api.Template, error) {
	t, ok := e.drivers[api.VM].(instance.Templater)
	if !ok {
		return nil, nil
	}
	list, err := t.Templates(ctx)
	return list, api.E("list", "", "templates", err)
}
