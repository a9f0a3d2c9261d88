// Package fakenet is the network that touches no host: it hands out addresses
// and ports from memory.
package fakenet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/network"
)

// firstFreePort begins the range that free ports are chosen from.
const firstFreePort = 49152

// Network implements network.Network.
type Network struct {
	about api.Network
	pool  netip.Prefix

	mu        sync.Mutex
	endpoints map[string]network.Endpoint
	requests  map[string]network.Request
}

// New returns the default network, without endpoints.
func New() *Network {
	return newNetwork(api.Network{Name: api.NetworkDefault, Subnet: "10.99.0.0/24", Bridge: "fake0"})
}

func newNetwork(about api.Network) *Network {
	pool := netip.MustParsePrefix(about.Subnet)
	about.Gateway = pool.Addr().Next().String()
	return &Network{about: about, pool: pool, endpoints: make(map[string]network.Endpoint), requests: make(map[string]network.Request)}
}

// Describe implements network.Network.
func (n *Network) Describe() (api.Network, error) { return n.about, nil }

// Attach implements network.Network.
func (n *Network) Attach(ctx context.Context, r network.Request) (network.Endpoint, error) {
	r, err := network.Check(r)
	if err == nil {
		err = api.E("attach", api.Canceled, r.ID, ctx.Err())
	}
	if err != nil {
		return network.Endpoint{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if old, ok := n.endpoints[r.ID]; ok && sameRequest(n.requests[r.ID], r) {
		return old, nil
	}
	delete(n.endpoints, r.ID)
	addr, err := n.address(r.Address)
	if err != nil {
		return network.Endpoint{}, err
	}
	ports, err := n.ports(r.Publish)
	if err != nil {
		return network.Endpoint{}, err
	}
	if n.about.Internal && len(ports) > 0 {
		return network.Endpoint{}, api.E("publish", api.Invalid, network.PortName(ports[0]), errors.New("the network is internal"))
	}
	b := addr.As4()
	gateway := n.pool.Addr().Next()
	ep := network.Endpoint{
		ID: r.ID, Network: n.about.Name, Bridge: n.about.Bridge, HostName: fmt.Sprintf("f%s%d", r.ID[:min(len(r.ID), 12)], r.Number), MAC: r.MAC,
		Address: []netip.Prefix{netip.PrefixFrom(addr, n.pool.Bits())}, DNS: []netip.Addr{gateway}, MTU: 1500,
		Publish: ports, Names: r.Names,
	}
	if !n.about.Internal {
		ep.Gateway = gateway
	}
	if ep.MAC == "" {
		ep.MAC = fmt.Sprintf("02:42:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3])
	}
	n.endpoints[r.ID], n.requests[r.ID] = ep, r
	return ep, nil
}

// Limit implements network.Network.
func (n *Network) Limit(_ context.Context, id string, _ api.Rate) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.endpoints[id]; !ok {
		return api.E("limit", api.NotFound, id, errors.New("the instance is not attached to the network"))
	}
	return nil
}

func sameRequest(a, b network.Request) bool {
	return slices.Equal(a.Names, b.Names) && a.Address == b.Address && a.MAC == b.MAC && a.Number == b.Number && slices.Equal(a.Publish, b.Publish) && a.LinkKind == b.LinkKind
}

// address returns the wanted address or a free one. The caller holds mu.
func (n *Network) address(want netip.Addr) (netip.Addr, error) {
	pool := n.pool
	taken := map[netip.Addr]string{pool.Addr(): "the network", pool.Addr().Next(): "the gateway"}
	for id, ep := range n.endpoints {
		taken[ep.Address[0].Addr()] = id
	}
	if want.IsValid() {
		if !pool.Contains(want) {
			return want, api.E("attach", api.Invalid, want.String(), fmt.Errorf("it is not in the network's %s", pool))
		}
		if by, ok := taken[want]; ok {
			return want, api.E("attach", api.InUse, want.String(), fmt.Errorf("taken by %s; choose another", by))
		}
		return want, nil
	}
	for a := pool.Addr(); pool.Contains(a.Next()); a = a.Next() {
		if _, ok := taken[a]; !ok {
			return a, nil
		}
	}
	return netip.Addr{}, api.E("attach", api.Exhausted, pool.String(), errors.New("no address is free; remove instances that are no longer needed"))
}

// ports fills in free ports and refuses taken ones. The caller holds mu.
func (n *Network) ports(want []api.Port) ([]api.Port, error) {
	type key struct {
		port  uint16
		proto string
	}
	taken := make(map[key]string)
	for _, ep := range n.endpoints {
		for _, p := range ep.Publish {
			taken[key{p.HostPort, p.Protocol}] = ep.Names[0]
		}
	}
	got := slices.Clone(want)
	for i, p := range got {
		for next := uint16(firstFreePort); p.HostPort == 0; next++ {
			if _, ok := taken[key{next, p.Protocol}]; !ok {
				p.HostPort = next
			}
		}
		k := key{p.HostPort, p.Protocol}
		if by, ok := taken[k]; ok {
			return nil, api.E("publish", api.InUse, fmt.Sprintf("port %d/%s", p.HostPort, p.Protocol), fmt.Errorf("taken by %s; choose another", by))
		}
		taken[k], got[i] = "this instance", p
	}
	return got, nil
}

// Detach implements network.Network.
func (n *Network) Detach(_ context.Context, id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.endpoints, id)
	delete(n.requests, id)
	return nil
}

// Rename implements network.Network.
func (n *Network) Rename(_ context.Context, id, name string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	ep, ok := n.endpoints[id]
	if !ok {
		return api.E("rename", api.NotFound, id, errors.New("it is not attached"))
	}
	ep.Names = append([]string{name}, ep.Names[1:]...)
	n.endpoints[id] = ep
	return nil
}

// Apply implements network.Network.
func (n *Network) Apply(_ context.Context, ids []string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id := range n.endpoints {
		if !slices.Contains(ids, id) {
			delete(n.endpoints, id)
			delete(n.requests, id)
		}
	}
	return nil
}

// Warnings implements network.Network.
func (n *Network) Warnings(context.Context) []string { return nil }

// Close implements network.Network.
func (n *Network) Close() error { return nil }
