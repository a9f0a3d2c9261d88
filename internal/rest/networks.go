package rest

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/berthcloud/berth/api"
)

// NetworkInput names a network.
type NetworkInput struct {
	Name string `path:"name" maxLength:"63"`
}

// NewNetwork says which network to make.
type NewNetwork struct {
	Name     string            `json:"name"`
	Subnet   string            `json:"subnet,omitempty" doc:"IPv4 with prefix length; default: one that is free"`
	Internal bool              `json:"internal,omitempty" doc:"without a way out, and without published ports"`
	Labels   map[string]string `json:"labels,omitempty"`
}

type createNetworkInput struct{ Body NewNetwork }

type removeNetworkInput struct {
	NetworkInput
	Force bool `query:"force" doc:"a missing network is a success"`
}

// networkRoutes registers what concerns networks.
func (s *Server) networkRoutes(a huma.API) {
	const tag, base, one = "networks", "/v1/networks", "/v1/networks/{name}"
	handle(a, route{id: "list-networks", method: "GET", path: base, tag: tag, summary: "List networks, the default one first"},
		func(ctx context.Context, _ *struct{}) ([]api.Network, error) {
			return orEmpty(s.Networks.Networks(ctx))
		})
	handle(a, route{id: "create-network", method: "POST", path: base, tag: tag, summary: "Make a network", status: http.StatusCreated},
		func(ctx context.Context, in *createNetworkInput) (api.Network, error) {
			b := in.Body
			return s.Networks.CreateNetwork(ctx, api.Network{Name: b.Name, Subnet: b.Subnet, Internal: b.Internal, Labels: b.Labels})
		})
	handle(a, route{id: "get-network", method: "GET", path: one, tag: tag, summary: "Get a network"},
		func(ctx context.Context, in *NetworkInput) (api.Network, error) {
			return s.Networks.Network(ctx, in.Name)
		})
	handle(a, route{id: "remove-network", method: "DELETE", path: one, tag: tag, summary: "Remove a network that no instance belongs to"},
		func(ctx context.Context, in *removeNetworkInput) (struct{}, error) {
			return none(s.Networks.RemoveNetwork(ctx, in.Name, in.Force))
		})
}
