package engine

import (
	"context"
	"net/netip"
	"slices"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/network"
	"github.com/berthcloud/berth/internal/undo"
)

// prepareNetwork attaches an instance to its network and records where it can
// be reached.
func (e *Engine) prepareNetwork(ctx context.Context, en *entry, p *instance.Prepared, u *undo.Stack) error {
	want := p.Spec.Network
	p.DNS = want.DNS
	defer func() { p.Hosts = hosts(p, want.Hosts) }()
	if want.Name != api.NetworkDefault {
		return nil
	}
	req := network.Request{ID: p.ID, Names: []string{p.Spec.Name}, MAC: want.MAC, Publish: want.Publish, LinkKind: network.Veth}
	if p.Spec.Kind == api.VM {
		req.LinkKind = network.Tap
	}
	if p.Hostname != p.Spec.Name {
		req.Names = append(req.Names, p.Hostname)
	}
	if want.Address != "" {
		var err error
		if req.Address, err = netip.ParseAddr(want.Address); err != nil {
			return api.E("", api.Invalid, want.Address, err)
		}
	}
	ep, err := e.network.Attach(ctx, req)
	if err != nil {
		return err
	}
	u.Add(func(ctx context.Context) error { return e.releaseNetwork(ctx, p.ID) })
	plug := instance.Interface{Network: ep.Network, Name: "eth0", HostName: ep.HostName, Bridge: ep.Bridge, MAC: ep.MAC, MTU: ep.MTU}
	for _, a := range ep.Address {
		plug.Address = append(plug.Address, a.String())
	}
	if ep.Gateway.IsValid() {
		plug.Gateway = ep.Gateway.String()
	}
	p.Interfaces = []instance.Interface{plug}
	if len(p.DNS) == 0 {
		for _, a := range ep.DNS {
			p.DNS = append(p.DNS, a.String())
		}
	}
	p.Ports = ep.Publish
	en.observe(func(st *api.Status) { showNetwork(st, p) })
	return nil
}

// showNetwork says where a run can be reached.
func showNetwork(st *api.Status, p *instance.Prepared) {
	st.Interfaces, st.Ports = nil, slices.Clone(p.Ports)
	for _, i := range p.Interfaces {
		shown := api.Interface{Network: i.Network, Name: i.Name, MAC: i.MAC, Gateway: i.Gateway}
		if len(i.Address) > 0 {
			shown.Address = i.Address[0]
		}
		st.Interfaces = append(st.Interfaces, shown)
	}
}

// releaseNetwork detaches an instance, unless it is suspended. It is no error if it is
// not attached.
func (e *Engine) releaseNetwork(ctx context.Context, id string) error {
	if e.saved(id) {
		return nil
	}
	return e.network.Detach(ctx, id)
}

// renameNetwork makes an instance answer to its new name.
func (e *Engine) renameNetwork(ctx context.Context, en *entry, name string) error {
	if r := en.currentRun(); r == nil || len(r.prepared.Interfaces) == 0 {
		return nil
	}
	return e.network.Rename(ctx, en.id, name)
}

// applyNetwork tells the network which instances are alive or suspended.
func (e *Engine) applyNetwork(ctx context.Context) error {
	var ids []string
	for _, en := range e.entries() {
		if r := en.currentRun(); r != nil && len(r.prepared.Interfaces) > 0 || e.saved(en.id) {
			ids = append(ids, en.id)
		}
	}
	return e.network.Apply(ctx, ids)
}

// limitNetwork bounds what an instance sends and receives, once its link is there.
func (e *Engine) limitNetwork(ctx context.Context, id string, s api.Spec) error {
	if s.Network.Name != api.NetworkDefault || s.Limits.NetBandwidth == (api.Rate{}) {
		return nil
	}
	return e.network.Limit(ctx, id, s.Limits.NetBandwidth)
}
