package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/network"
	"github.com/berthcloud/berth/internal/undo"
)

// interfaces are an instance's places on networks, the first one's and the further
// ones'; none where it is on none, or on the host's own.
func interfaces(n api.NetworkSpec) []api.NIC {
	if n.Name == api.NetworkNone || n.Name == api.NetworkHost {
		return nil
	}
	return append([]api.NIC{{Network: n.Name, Address: n.Address, MAC: n.MAC}}, n.NICs...)
}

// networksOf returns the networks of interfaces, which all exist.
func (e *Engine) networksOf(nics []api.NIC) ([]network.Network, error) {
	var list []network.Network
	for _, nic := range nics {
		n, err := e.networks.Network(nic.Network)
		if err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	return list, nil
}

// prepareNetwork attaches an instance to its networks and records where it can be
// reached. The way out, and the way in to published ports, is the first network that
// is not internal; its name servers are asked, and answer for the others.
func (e *Engine) prepareNetwork(ctx context.Context, en *entry, p *instance.Prepared, u *undo.Stack) error {
	want := p.Spec.Network
	p.DNS = want.DNS
	defer func() { p.Hosts = hosts(p, want.Hosts) }()
	nics := interfaces(want)
	if len(nics) == 0 {
		return nil
	}
	networks, err := e.networksOf(nics)
	if err != nil {
		return err
	}
	out, err := wayOut(networks)
	if err != nil {
		return err
	}
	u.Add(func(ctx context.Context) error { return e.releaseNetwork(ctx, p.ID) })
	for i, n := range networks {
		req, err := request(p, nics[i], i)
		if err != nil {
			return err
		}
		if i == out {
			req.Publish = want.Publish
		}
		ep, err := n.Attach(ctx, req)
		if err != nil {
			return err
		}
		if i != out {
			ep.Gateway = netip.Addr{}
		} else {
			p.Ports = ep.Publish
			if len(p.DNS) == 0 {
				p.DNS = texts(ep.DNS)
			}
		}
		p.Interfaces = append(p.Interfaces, plug(ep, i))
	}
	en.observe(func(st *api.Status) { showNetwork(st, p) })
	return nil
}

// wayOut returns the index of the first network that is not internal, or 0.
func wayOut(networks []network.Network) (int, error) {
	for i, n := range networks {
		about, err := n.Describe()
		if err != nil || !about.Internal {
			return i, err
		}
	}
	return 0, nil
}

// request is what an instance wants of the network of its interface of that number.
func request(p *instance.Prepared, nic api.NIC, number int) (network.Request, error) {
	req := network.Request{ID: p.ID, Names: []string{p.Spec.Name}, MAC: nic.MAC, Number: number, LinkKind: network.Veth}
	if p.Spec.Kind == api.VM {
		req.LinkKind = network.Tap
	}
	if p.Hostname != p.Spec.Name {
		req.Names = append(req.Names, p.Hostname)
	}
	if nic.Address != "" {
		var err error
		if req.Address, err = netip.ParseAddr(nic.Address); err != nil {
			return req, api.E("", api.Invalid, nic.Address, err)
		}
	}
	return req, nil
}

// plug is the interface by which an endpoint is reached.
func plug(ep network.Endpoint, number int) instance.Interface {
	i := instance.Interface{Network: ep.Network, Name: interfaceName(number), HostName: ep.HostName, Bridge: ep.Bridge, MAC: ep.MAC, Address: texts(ep.Address), MTU: ep.MTU}
	if ep.Gateway.IsValid() {
		i.Gateway = ep.Gateway.String()
	}
	return i
}

func interfaceName(number int) string { return fmt.Sprintf("eth%d", number) }

// texts writes addresses out.
func texts[T fmt.Stringer](list []T) []string {
	var out []string
	for _, a := range list {
		out = append(out, a.String())
	}
	return out
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

// onNetworks does something with each network there is.
func (e *Engine) onNetworks(f func(network.Network) error) error {
	var failed error
	for _, name := range e.networks.Names() {
		n, err := e.networks.Network(name)
		if err == nil { // it may have gone meanwhile
			failed = errors.Join(failed, f(n))
		}
	}
	return failed
}

// releaseNetwork detaches an instance from all networks, unless it is suspended. It is
// no error if it is not attached.
func (e *Engine) releaseNetwork(ctx context.Context, id string) error {
	if e.saved(id) {
		return nil
	}
	return e.onNetworks(func(n network.Network) error { return n.Detach(ctx, id) })
}

// renameNetwork makes an instance answer to its new name.
func (e *Engine) renameNetwork(ctx context.Context, en *entry, name string) error {
	if en.currentRun() == nil {
		return nil
	}
	networks, err := e.networksOf(interfaces(en.instance().Spec.Network))
	for _, n := range networks {
		err = errors.Join(err, n.Rename(ctx, en.id, name))
	}
	return err
}

// applyNetwork tells the networks which instances are alive or suspended.
func (e *Engine) applyNetwork(ctx context.Context) error {
	ids := make(map[string][]string)
	for _, en := range e.entries() {
		if en.currentRun() == nil && !e.saved(en.id) {
			continue
		}
		for _, nic := range interfaces(en.instance().Spec.Network) {
			ids[nic.Network] = append(ids[nic.Network], en.id)
		}
	}
	var failed error
	for _, name := range e.networks.Names() {
		n, err := e.networks.Network(name)
		if err == nil {
			err = n.Apply(ctx, ids[name])
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

// limitNetwork bounds what each interface of an instance sends and receives, once its
// link is there.
func (e *Engine) limitNetwork(ctx context.Context, id string, s api.Spec) error {
	if s.Limits.NetBandwidth == (api.Rate{}) {
		return nil
	}
	networks, err := e.networksOf(interfaces(s.Network))
	for _, n := range networks {
		err = errors.Join(err, n.Limit(ctx, id, s.Limits.NetBandwidth))
	}
	return err
}
