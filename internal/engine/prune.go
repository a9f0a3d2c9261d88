package engine

import (
	"context"
	"errors"

	"github.com/berthcloud/berth/api"
)

// PruneOptions say what Prune removes beside ended instances.
type PruneOptions struct {
	Images  bool // images that no instance holds, kernels excepted
	Volumes bool // volumes that no instance mounts
}

// Prune removes every instance that has ended or was never started, and what
// the options say. Content that nothing refers to goes in any case.
func (e *Engine) Prune(ctx context.Context, o PruneOptions) (api.Pruned, error) {
	var p api.Pruned
	for _, en := range e.entries() {
		st := en.snapshot().State
		if st.Alive() || st == api.Restarting {
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
	return p, errors.Join(err, e.storage.Sweep())
}
