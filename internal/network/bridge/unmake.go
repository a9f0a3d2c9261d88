package bridge

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/network"
)

// Remove implements network.Set.
func (s *Set) Remove(_ context.Context, name string) error {
	if name == api.NetworkDefault {
		return api.E("remove network", api.Invalid, name, errors.New("the default network stays"))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.networks[name]
	if n == nil {
		return api.E("remove network", "", name, network.Unknown(name))
	}
	if err := n.retire(); err != nil {
		return err
	}
	delete(s.networks, name)
	s.ledger.leave(n.cfg.Bridge)
	// The file goes first: without it, the next daemon removes what is left.
	if err := os.Remove(n.lastingPath()); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(n.cfg.Dir), os.RemoveAll(n.cfg.RunDir))
}

// retire closes a network without endpoints, and refuses where there are some.
func (n *Network) retire() error {
	n.mu.Lock()
	for _, r := range n.endpoints {
		n.mu.Unlock()
		return api.E("remove network", api.InUse, n.cfg.Name, fmt.Errorf("instance %s is on it; remove that first", r.Endpoint.Names[0]))
	}
	n.closed = true // nobody attaches any more
	n.mu.Unlock()
	if err := n.dns.Close(); err != nil {
		return err
	}
	n.unplugging.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	err := n.remove()
	n.closed = err == nil
	return err
}
