package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/instance"
)

// PruneOptions say what Prune removes.
type PruneOptions struct {
	ImagesOnly bool // no instances
	Images     bool // images that no instance holds, kernels and what was pushed excepted
	Volumes    bool // volumes that no instance mounts
	Templates  bool // saved machines that VMs begin as copies of
	// Filters narrow instances, images and volumes. Keys: until, a time or a duration
	// before now by which they were created; label and label!, KEY or KEY=VALUE that
	// they have and have not.
	Filters map[string][]string
}

// pruneFilter is PruneOptions.Filters, understood.
type pruneFilter struct {
	until     time.Time // zero for any
	with, not []string
}

func parsePruneFilter(filters map[string][]string, now time.Time) (f pruneFilter, err error) {
	for key, values := range filters {
		switch key {
		case "until":
			for _, v := range values {
				at, err := time.Parse(time.RFC3339, v)
				if d, e := time.ParseDuration(v); err != nil && e == nil && d >= 0 {
					at, err = now.Add(-d), nil
				}
				if err != nil {
					return f, api.E("prune", api.Invalid, "until="+v, errors.New("write a duration, as in 24h, or a time, as in 2026-01-31T12:00:00Z"))
				}
				if f.until.IsZero() || at.Before(f.until) {
					f.until = at
				}
			}
		case "label":
			f.with = values
		case "label!":
			f.not = values
		default:
			return f, api.E("prune", api.Invalid, key, fmt.Errorf("no such filter; use label, label! or until"))
		}
	}
	return f, nil
}

// match tells whether something is to be removed.
func (f *pruneFilter) match(created time.Time, labels map[string]string) bool {
	has := func(want string) bool {
		key, value, exact := strings.Cut(want, "=")
		got, ok := labels[key]
		return ok && (!exact || got == value)
	}
	return (f.until.IsZero() || created.Before(f.until)) && !slices.ContainsFunc(f.not, has) &&
		!slices.ContainsFunc(f.with, func(want string) bool { return !has(want) })
}

// Prune removes every instance that has ended or was never started, images that have no
// tag, and what the options say. Content that nothing refers to goes in any case.
func (e *Engine) Prune(ctx context.Context, o PruneOptions) (api.Pruned, error) {
	var p api.Pruned
	filter, err := parsePruneFilter(o.Filters, time.Now())
	if err != nil {
		return p, err
	}
	if !o.ImagesOnly {
		err = e.pruneInstances(ctx, filter, &p)
	}
	if o.Volumes && err == nil {
		err = e.pruneVolumes(ctx, filter, &p)
	}
	if err != nil {
		return p, err
	}
	p.Images, p.Bytes, err = e.images.Prune(ctx, image.PruneOptions{All: o.Images, Dangling: true, Pushed: o.ImagesOnly, Match: filter.match})
	for _, name := range p.Images {
		e.announce("image", "remove", name)
	}
	if o.Templates && err == nil {
		err = e.pruneTemplates(ctx, &p)
	}
	return p, errors.Join(err, e.storage.Sweep())
}

// pruneInstances removes those that have ended or were never started.
func (e *Engine) pruneInstances(ctx context.Context, filter pruneFilter, p *api.Pruned) error {
	for _, en := range e.entries() {
		inst := en.instance()
		if st := inst.Status.State; st.Alive() || st == api.Restarting || st == api.Suspended || st == api.Removing || !filter.match(inst.Created, inst.Spec.Labels) {
			continue
		}
		name := en.name()
		err := e.Remove(ctx, en.id, RemoveOptions{})
		if api.IsKind(err, api.Conflict) || api.IsKind(err, api.NotFound) {
			continue // started or removed meanwhile
		}
		if err != nil {
			return err
		}
		p.Instances = append(p.Instances, name)
	}
	return nil
}

// pruneVolumes removes those that no instance mounts.
func (e *Engine) pruneVolumes(ctx context.Context, filter pruneFilter, p *api.Pruned) error {
	volumes, err := e.Volumes(ctx)
	if err != nil {
		return err
	}
	for _, v := range volumes {
		if len(v.Users) > 0 || !filter.match(v.Created, v.Labels) {
			continue
		}
		if err := e.RemoveVolume(ctx, v.Name, true); err != nil {
			return err
		}
		p.Volumes = append(p.Volumes, v.Name)
	}
	return nil
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
