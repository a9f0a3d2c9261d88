package client

import (
	"context"

	"github.com/berthcloud/berth/api"
)

// Networks returns all networks, the default one first.
func (c *Client) Networks(ctx context.Context) ([]api.Network, error) {
	return get[[]api.Network](ctx, c, nil, "networks")
}

// Network returns one network with the instances that belong to it.
func (c *Client) Network(ctx context.Context, name string) (api.Network, error) {
	return get[api.Network](ctx, c, nil, "networks", name)
}

// CreateNetwork makes a network of the wanted name, subnet ("" for one that is free),
// labels, and whether it is internal.
func (c *Client) CreateNetwork(ctx context.Context, want api.Network) (api.Network, error) {
	body := struct {
		Name     string            `json:"name"`
		Subnet   string            `json:"subnet,omitempty"`
		Internal bool              `json:"internal,omitempty"`
		Labels   map[string]string `json:"labels,omitempty"`
	}{want.Name, want.Subnet, want.Internal, want.Labels}
	return call[api.Network](ctx, c, request{method: "POST", path: "/v1/networks", body: body})
}

// RemoveNetwork removes a network that no instance belongs to. With force a missing
// one is a success.
func (c *Client) RemoveNetwork(ctx context.Context, name string, force bool) error {
	path, err := at("networks", name)
	if err != nil {
		return err
	}
	return c.send(ctx, request{method: "DELETE", path: path, query: query("force", flag(force))})
}
