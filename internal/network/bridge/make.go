package bridge

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/network"
	"github.com/berthcloud/berth/internal/undo"
)

// Create implements network.Set.
func (s *Set) Create(ctx context.Context, want api.Network) (_ api.Network, err error) {
	if err := network.CheckNew(want); err != nil {
		return api.Network{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.networks[want.Name] != nil {
		return api.Network{}, network.Taken(want.Name)
	}
	cfg := s.named(want.Name)
	cfg.Internal, cfg.Labels, cfg.Created = want.Internal, want.Labels, time.Now().UTC()
	if want.Subnet != "" {
		cfg.Subnet = netip.MustParsePrefix(want.Subnet) // checked
		if err := free(cfg.Bridge, cfg.Subnet); err != nil {
			return api.Network{}, err
		}
	}
	var u undo.Stack
	defer u.Run(ctx, &err)
	u.Add(func(context.Context) error { return errors.Join(os.RemoveAll(cfg.Dir), os.RemoveAll(cfg.RunDir)) })
	n, err := New(cfg)
	if err != nil {
		return api.Network{}, err
	}
	u.Add(func(context.Context) error { s.ledger.leave(cfg.Bridge); return n.Close() })
	made, err := n.Describe()
	if err != nil {
		return made, err
	}
	u.Release()
	s.networks[want.Name] = n
	return made, nil
}

// free refuses a subnet that the host knows already.
func free(bridge string, want netip.Prefix) error {
	used, err := usedSubnets(bridge)
	if err != nil {
		return err
	}
	for _, other := range used {
		if other.Overlaps(want) {
			return network.SubnetInUse(want, other)
		}
	}
	return nil
}

// Describe implements network.Network.
func (n *Network) Describe() (api.Network, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.settle(); err != nil {
		return api.Network{}, err
	}
	return api.Network{
		Name: n.cfg.Name, Subnet: n.subnet.String(), Gateway: n.pool.gateway().String(), Internal: n.cfg.Internal,
		Bridge: n.cfg.Bridge, Labels: n.cfg.Labels, Created: n.cfg.Created,
	}, nil
}
