package client

import (
	"context"
	"time"

	"github.com/berthcloud/berth/api"
)

// EventOptions narrows Events. Keys of filters are type, action, name, id.
type EventOptions struct {
	Since, Until time.Time // zero Until: go on until ctx ends
	Filters      map[string][]string
}

// Events hands what happens to f: first what is remembered since Since, then
// what is new.
func (c *Client) Events(ctx context.Context, o EventOptions, f func(api.Event) error) error {
	q := query("since", stamp(o.Since), "until", stamp(o.Until))
	addFilters(q, o.Filters)
	return lines(ctx, c, request{method: "GET", path: "/v1/events", query: q}, f)
}

// Info describes the daemon and its host.
func (c *Client) Info(ctx context.Context) (api.Info, error) {
	return get[api.Info](ctx, c, nil, "info")
}

// Version names the daemon's build.
func (c *Client) Version(ctx context.Context) (api.VersionInfo, error) {
	return get[api.VersionInfo](ctx, c, nil, "version")
}

// Templates lists the saved machines that VMs begin as copies of.
func (c *Client) Templates(ctx context.Context) ([]api.Template, error) {
	return call[[]api.Template](ctx, c, request{path: "/v1/templates"})
}

// Usage tells what there is, and what it takes of the disk.
func (c *Client) Usage(ctx context.Context) (api.Usage, error) {
	return get[api.Usage](ctx, c, nil, "usage")
}

// PruneOptions says what Prune removes beside stopped instances and images without a tag.
type PruneOptions struct {
	ImagesOnly bool // no instances; but images without a tag that were pushed here
	Images     bool // images that no instance uses; what was pushed here stays
	Volumes    bool // volumes that no instance mounts
	Templates  bool // saved machines that VMs begin as copies of
	BuildCache bool // what of the cache of builds no build uses now, whatever the filters
	// Filters: until, a time or a duration before now; label and label!.
	Filters map[string][]string
}

// Prune removes what is not in use.
func (c *Client) Prune(ctx context.Context, o PruneOptions) (api.Pruned, error) {
	q := query("images-only", flag(o.ImagesOnly), "images", flag(o.Images), "volumes", flag(o.Volumes), "templates", flag(o.Templates), "build-cache", flag(o.BuildCache))
	addFilters(q, o.Filters)
	return call[api.Pruned](ctx, c, request{method: "POST", path: "/v1/prune", query: q})
}
