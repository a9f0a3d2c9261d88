package engine

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/berthcloud/berth/api"
)

// Networks lists all networks, the default one first.
func (e *Engine) Networks(ctx context.Context) ([]api.Network, error) {
	var list []api.Network
	for _, name := range e.networks.Names() {
		n, err := e.Network(ctx, name)
		if api.IsKind(err, api.NotFound) {
			continue // it has gone meanwhile
		}
		if err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	return list, nil
}

// Network returns one network.
func (e *Engine) Network(_ context.Context, name string) (api.Network, error) {
	n, err := e.networks.Network(name)
	if err != nil {
		return api.Network{}, err
	}
	about, err := n.Describe()
	about.Users = e.networkUsers()[name]
	return about, err
}

// CreateNetwork makes a network of the wanted name, subnet, labels, and whether it is
// internal.
func (e *Engine) CreateNetwork(ctx context.Context, want api.Network) (api.Network, error) {
	made, err := e.networks.Create(ctx, want)
	if err == nil {
		e.announce("network", "create", made.Name)
	}
	return made, err
}

// RemoveNetwork removes a network that no instance belongs to. With force, one that
// does not exist is no error.
func (e *Engine) RemoveNetwork(ctx context.Context, name string, force bool) error {
	if users := e.networkUsers()[name]; len(users) > 0 && name != api.NetworkDefault {
		return api.E("remove network", api.InUse, name, errors.New("instances belong to it: "+strings.Join(users, ", ")+"; remove them first"))
	}
	err := e.networks.Remove(ctx, name)
	if force && api.IsKind(err, api.NotFound) {
		return nil
	}
	if err == nil {
		e.announce("network", "remove", name)
	}
	return err
}

// networkUsers returns the names of the instances that belong to each network.
func (e *Engine) networkUsers() map[string][]string {
	users := make(map[string][]string)
	for _, en := range e.entries() {
		inst := en.instance()
		for _, nic := range interfaces(inst.Spec.Network) {
			users[nic.Network] = append(users[nic.Network], inst.Name)
		}
	}
	for _, names := range users {
		slices.Sort(names)
	}
	return users
}
