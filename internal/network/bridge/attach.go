package bridge

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/link"
	"github.com/berthcloud/berth/internal/network"
)

// Attach implements network.Network.
func (n *Network) Attach(ctx context.Context, req network.Request) (network.Endpoint, error) {
	req, err := network.Check(req)
	if err != nil {
		return network.Endpoint{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return network.Endpoint{}, api.E("attach", api.Canceled, req.ID, err)
	}
	if err := n.ensure(); err != nil {
		return network.Endpoint{}, err
	}
	old := n.endpoints[req.ID]
	if old != nil && old.asksFor(req) {
		return old.Endpoint, nil
	}
	r, err := n.decide(req, old)
	if err != nil {
		return network.Endpoint{}, err
	}
	if err := n.enact(r, old); err != nil {
		return network.Endpoint{}, err
	}
	return r.Endpoint, nil
}

// decide makes the record of a request. What it takes is the record's: release
// and the pool's give take it back. The caller holds mu.
func (n *Network) decide(req network.Request, old *record) (_ *record, err error) {
	if n.cfg.Internal && len(req.Publish) > 0 {
		return nil, api.E("publish", api.Invalid, network.PortName(req.Publish[0]), fmt.Errorf("network %s is internal: nothing from outside leads into it; leave out -p, or use another network", n.cfg.Name))
	}
	r := &record{Request: req}
	r.Request.Publish = slices.Clone(req.Publish)
	// An instance keeps its address when it asks anew for any.
	want := req.Address
	if !want.IsValid() && old != nil {
		want = old.address()
	}
	addr, err := n.pool.take(req.ID, want)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && (old == nil || old.address() != addr) {
			n.pool.give(req.ID, addr)
		}
	}()
	if old != nil {
		old.release() // its ports may be wanted again
	}
	r.Endpoint = network.Endpoint{
		ID: req.ID, Network: n.cfg.Name, Bridge: n.cfg.Bridge,
		HostName: hostName(req.ID, req.LinkKind, req.Number),
		MAC:      req.MAC,
		Address:  []netip.Prefix{netip.PrefixFrom(addr, n.subnet.Bits())},
		DNS:      n.nameServers(),
		MTU:      n.mtu,
		Names:    slices.Clone(req.Names),
	}
	if r.Endpoint.MAC == "" {
		r.Endpoint.MAC = macOf(addr)
	}
	if !n.cfg.Internal {
		r.Endpoint.Gateway = n.pool.gateway()
	}
	if err := n.publish(r); err != nil {
		if old != nil {
			old.hold()
		}
		return nil, err
	}
	return r, nil
}

// enact records the decision and makes the host follow it. On failure the
// former state is back. The caller holds mu.
func (n *Network) enact(r, old *record) (err error) {
	id := r.Endpoint.ID
	n.endpoints[id] = r
	defer func() {
		if err == nil {
			return
		}
		r.release()
		if old == nil {
			delete(n.endpoints, id)
			n.pool.give(id, r.address())
			err = errors.Join(err, n.drop(id))
		} else {
			n.endpoints[id] = old
			old.hold()
			err = errors.Join(err, n.save(old))
		}
	}()
	if err := n.save(r); err != nil {
		return err
	}
	if len(r.Endpoint.Publish) > 0 || old != nil && len(old.Endpoint.Publish) > 0 {
		if err := n.replaceRules(); err != nil {
			return err
		}
		n.forgetUDP(r, old)
	}
	if old != nil && old.address() != r.address() {
		n.pool.give(id, old.address())
	}
	if old != nil && old.Endpoint.HostName != r.Endpoint.HostName {
		if err := n.unplug(old.Endpoint.HostName); err != nil {
			return err
		}
	}
	n.announce()
	return nil
}

// Detach implements network.Network.
func (n *Network) Detach(_ context.Context, id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.endpoints[id]
	if r == nil {
		return nil
	}
	if err := n.forget(r); err != nil {
		return err
	}
	n.announce()
	if len(r.Endpoint.Publish) == 0 || !n.ready {
		return nil
	}
	if err := n.replaceRules(); err != nil {
		return err
	}
	n.forgetUDP(r)
	return nil
}

// forgetUDP has clients that go on sending to a port of these records follow
// the new rules.
func (n *Network) forgetUDP(records ...*record) {
	var ports []uint16
	for _, r := range records {
		if r == nil {
			continue
		}
		for _, p := range r.Endpoint.Publish {
			if p.Protocol == "udp" {
				ports = append(ports, p.HostPort)
			}
		}
	}
	if err := link.ForgetUDP(ports...); err != nil {
		n.log.Warn("clients may send to a former instance for a while", "error", err)
	}
}

// forget gives back all that r has, except for its rules. The caller holds mu.
func (n *Network) forget(r *record) error {
	if err := n.unplug(r.Endpoint.HostName); err != nil {
		return api.E("detach", api.Internal, r.Endpoint.ID, err)
	}
	if err := n.drop(r.Endpoint.ID); err != nil {
		return err
	}
	r.release()
	n.pool.give(r.Endpoint.ID, r.address())
	delete(n.endpoints, r.Endpoint.ID)
	return nil
}

// unplug has the device deleted in the background, so that nobody waits for it
// who only wants an instance to be gone. What a killed daemon does not get to
// do, the next one's Apply does. The caller holds mu.
func (n *Network) unplug(name string) error {
	if err := n.unlimit(name); err != nil {
		return err
	}
	work, err := link.DeleteLater(name)
	if err != nil || work == nil {
		return err
	}
	n.unplugging.Go(func() {
		if err := work(); err != nil {
			n.log.Warn("a device of a former instance stays", "error", err)
		}
	})
	return nil
}

// Rename implements network.Network.
func (n *Network) Rename(_ context.Context, id, name string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.endpoints[id]
	if r == nil {
		return api.E("rename", api.NotFound, id, errors.New("the instance is not attached to the network"))
	}
	renamed := *r
	renamed.Endpoint.Names = append([]string{name}, r.Endpoint.Names[1:]...)
	renamed.Request.Names = slices.Clone(renamed.Endpoint.Names)
	if err := n.save(&renamed); err != nil {
		return err
	}
	n.endpoints[id] = &renamed
	n.announce()
	return nil
}

// announce tells the name server and the other networks who is there. The caller holds mu.
func (n *Network) announce() {
	names := make(map[string]netip.Addr)
	for _, id := range sortedKeys(n.endpoints) {
		r := n.endpoints[id]
		for _, name := range r.Endpoint.Names {
			names[name] = r.address()
		}
	}
	// An instance's own name wins over another's host name.
	for _, r := range n.endpoints {
		names[r.Endpoint.Names[0]] = r.address()
	}
	n.dns.SetNames(names)
	var members []member
	for _, id := range sortedKeys(n.endpoints) {
		ep := &n.endpoints[id].Endpoint
		members = append(members, member{id: id, name: ep.Names[0], address: ep.Address[0].Addr(), publish: ep.Publish})
	}
	n.cfg.ledger.tell(n.cfg.Bridge, func(p *page) { p.members = members })
}

// nameServers returns what instances ask for names: the gateway or, where
// something else has its port 53, what the host itself asks. The caller holds
// mu.
func (n *Network) nameServers() []netip.Addr {
	if n.dnsErr == nil {
		return []netip.Addr{n.pool.gateway()}
	}
	return n.dns.Upstreams()
}
