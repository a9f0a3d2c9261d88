package engine

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/berthcloud/berth/api"
)

// ListOptions choose instances.
type ListOptions struct {
	All     bool                // not only those that run
	Filters map[string][]string // name, id, label, status, kind, image: any value of each key matches
}

// List returns instances, the newest first.
func (e *Engine) List(_ context.Context, o ListOptions) ([]api.Instance, error) {
	for key := range o.Filters {
		switch key {
		case "name", "id", "label", "status", "kind", "image":
		default:
			return nil, api.E("list", api.Invalid, key, errors.New("no such filter; use name, id, label, status, kind or image"))
		}
	}
	_, byStatus := o.Filters["status"]
	list := []api.Instance{}
	for _, en := range e.entries() {
		inst := en.instance()
		visible := o.All || byStatus || inst.Status.State.Alive() || inst.Status.State == api.Restarting || inst.Status.State == api.Suspended
		if visible && matchInstance(o.Filters, inst) {
			list = append(list, inst)
		}
	}
	slices.SortFunc(list, func(a, b api.Instance) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
	})
	return list, nil
}

func (e *Engine) entries() []*entry {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := make([]*entry, 0, len(e.byID))
	for _, en := range e.byID {
		list = append(list, en)
	}
	return list
}

func matchInstance(filters map[string][]string, inst api.Instance) bool {
	matches := map[string]func(string) bool{
		"name":   func(v string) bool { return strings.Contains(inst.Name, v) },
		"id":     func(v string) bool { return strings.HasPrefix(inst.ID, v) },
		"status": func(v string) bool { return string(inst.Status.State) == v },
		"kind":   func(v string) bool { return string(inst.Spec.Kind) == v },
		"image":  func(v string) bool { return inst.Spec.Image == v || inst.Digest == v },
		"label": func(v string) bool {
			key, value, hasValue := strings.Cut(v, "=")
			have, ok := inst.Spec.Labels[key]
			return ok && (!hasValue || have == value)
		},
	}
	for key, wants := range filters {
		if !matchAny(wants, matches[key]) {
			return false
		}
	}
	return true
}
