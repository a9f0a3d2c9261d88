package client

import (
	"context"

	"github.com/berthcloud/berth/api"
)

// CreateSnapshot keeps an instance as it is now, with volumes also the further disks that
// it writes to; "" has a name chosen.
func (c *Client) CreateSnapshot(ctx context.Context, ref, name string, volumes bool) (api.Snapshot, error) {
	path, err := at("instances", ref, "snapshots")
	if err != nil {
		return api.Snapshot{}, err
	}
	return call[api.Snapshot](ctx, c, request{method: "POST", path: path, query: query("name", name, "volumes", flag(volumes))})
}

// Snapshots lists the snapshots of an instance, the oldest first.
func (c *Client) Snapshots(ctx context.Context, ref string) ([]api.Snapshot, error) {
	path, err := at("instances", ref, "snapshots")
	if err != nil {
		return nil, err
	}
	return call[[]api.Snapshot](ctx, c, request{method: "GET", path: path})
}

// RestoreSnapshot puts an instance back to where it was.
func (c *Client) RestoreSnapshot(ctx context.Context, ref, name string) (api.Instance, error) {
	path, err := at("instances", ref, "snapshots", name, "restore")
	if err != nil {
		return api.Instance{}, err
	}
	return call[api.Instance](ctx, c, request{method: "POST", path: path})
}

// RemoveSnapshot removes a snapshot.
func (c *Client) RemoveSnapshot(ctx context.Context, ref, name string) error {
	path, err := at("instances", ref, "snapshots", name)
	if err != nil {
		return err
	}
	return c.send(ctx, request{method: "DELETE", path: path})
}

// Clone makes another VM of a VM, as it is now or, where the snapshot is not "", as it was
// then. Without a name one is chosen.
func (c *Client) Clone(ctx context.Context, ref, name, snapshot string) (api.Instance, error) {
	path, err := at("instances", ref, "clone")
	if err != nil {
		return api.Instance{}, err
	}
	return call[api.Instance](ctx, c, request{method: "POST", path: path, query: query("name", name, "snapshot", snapshot)})
}
