package fakenet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/network"
)

// Set implements network.Set.
type Set struct {
	mu       sync.Mutex
	networks map[string]*Network
	made     int
}

// NewSet returns a set of the default network alone.
func NewSet() *Set { return &Set{networks: map[string]*Network{api.NetworkDefault: New()}} }

// Network implements network.Set.
func (s *Set) Network(name string) (network.Network, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.networks[name]; n != nil {
		return n, nil
	}
	return nil, network.Unknown(name)
}

// Names implements network.Set.
func (s *Set) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(s.networks)), func(n string) bool { return n == api.NetworkDefault })
	return append([]string{api.NetworkDefault}, names...)
}

// Create implements network.Set.
func (s *Set) Create(_ context.Context, want api.Network) (api.Network, error) {
	if err := network.CheckNew(want); err != nil {
		return api.Network{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.networks[want.Name] != nil {
		return api.Network{}, network.Taken(want.Name)
	}
	s.made++
	if want.Subnet == "" {
		want.Subnet = fmt.Sprintf("10.99.%d.0/24", s.made)
	}
	subnet := netip.MustParsePrefix(want.Subnet)
	for _, other := range s.networks {
		if other.pool.Overlaps(subnet) {
			return api.Network{}, network.SubnetInUse(subnet, other.pool)
		}
	}
	want.Bridge, want.Created = fmt.Sprintf("fake%d", s.made), time.Now().UTC()
	n := newNetwork(want)
	s.networks[want.Name] = n
	return n.about, nil
}

// Remove implements network.Set.
func (s *Set) Remove(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.networks[name]
	switch {
	case name == api.NetworkDefault:
		return api.E("remove network", api.Invalid, name, errors.New("the default network stays"))
	case n == nil:
		return network.Unknown(name)
	case n.used():
		return api.E("remove network", api.InUse, name, errors.New("an instance is on it"))
	}
	delete(s.networks, name)
	return nil
}

func (n *Network) used() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.endpoints) > 0
}

// Close implements network.Set.
func (s *Set) Close() error { return nil }
