package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// Explain says what was decided for a VM, why, and what each other way to
// virtualize it would give or need.
func (e *Engine) Explain(ctx context.Context, ref string) (api.Explanation, error) {
	const op = "explain"
	fail := func(kind api.ErrorKind, name string, err error) (api.Explanation, error) {
		return api.Explanation{}, api.E(op, kind, name, err)
	}
	en, err := e.find(ref)
	if err != nil {
		return fail("", "", err)
	}
	en.mu.Lock()
	rec := en.rec
	en.mu.Unlock()
	driver, err := e.driver(rec.Spec.Kind)
	if err != nil {
		return fail("", rec.Name, err)
	}
	explainer, ok := driver.(instance.Explainer)
	if !ok {
		return fail(api.Unsupported, rec.Name, errors.New("it is a container, which shares the host's kernel: there is no virtualization to choose, only a VM in its place (--vm)"))
	}
	img, err := e.images.ResolveDigest(ctx, rec.Digest)
	if err != nil {
		return fail("", rec.Name, err)
	}
	p, err := e.outline(rec, img)
	if err != nil {
		return fail(api.Invalid, rec.Name, err)
	}
	p.Mounts, p.Interfaces = rec.outlineMounts(), rec.outlineInterfaces()
	if err := e.prepareKernel(ctx, rec, p); err != nil {
		return fail("", rec.Name, err)
	}
	explanation, err := explainer.Explain(p, e.host)
	if err != nil {
		return fail("", rec.Name, err)
	}
	explanation.State = rec.Status.State
	if rec.Status.Machine != nil && rec.Status.State.Alive() {
		explanation.Machine = *rec.Status.Machine // as it runs, whatever the host has become
	}
	return explanation, nil
}

// outlineInterfaces are an instance's before it has its place on the network.
func (r *record) outlineInterfaces() []instance.Interface {
	var list []instance.Interface
	for i, nic := range interfaces(r.Spec.Network) {
		list = append(list, instance.Interface{Network: nic.Network, Name: interfaceName(i), HostName: "none", MAC: fmt.Sprintf("02:00:00:00:00:%02x", i)})
	}
	return list
}

// outlineMount is a mount before its source is resolved.
func outlineMount(m api.Mount) instance.Mount {
	out := instance.Mount{Type: m.Type, Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly}
	if m.Type == api.MountDisk {
		out.Name, out.Size = m.Source, m.Size
	}
	return out
}

// outlineMounts are the record's mounts before their sources are resolved.
func (r *record) outlineMounts() []instance.Mount {
	var mounts []instance.Mount
	for _, m := range r.Spec.Mounts {
		mounts = append(mounts, outlineMount(m))
	}
	return mounts
}
