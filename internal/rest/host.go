package rest

import (
	"context"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/engine"
)

type eventsInput struct {
	Since time.Time `query:"since" doc:"begin with what is remembered since then"`
	Until time.Time `query:"until" doc:"end then; default: never"`
	FilterInput
}

type pruneInput struct {
	ImagesOnly bool `query:"images-only" doc:"no instances; and images without a tag though they were pushed here"`
	Images     bool `query:"images" doc:"also images that no instance uses; what was pushed here stays"`
	Volumes    bool `query:"volumes" doc:"also volumes that no instance mounts"`
	Templates  bool `query:"templates" doc:"also the saved machines that VMs begin as copies of"`
	BuildCache bool `query:"build-cache" doc:"also what of the cache of builds no build uses now, whatever the filters"`
	FilterInput
}

// hostRoutes registers what concerns the host as a whole.
func (s *Server) hostRoutes(a huma.API) {
	const tag = "host"
	handle(a, route{id: "get-version", method: "GET", path: "/v1/version", tag: tag, summary: "The daemon's build"},
		func(context.Context, *struct{}) (api.VersionInfo, error) { return s.Host.Version(), nil })
	handle(a, route{id: "get-info", method: "GET", path: "/v1/info", tag: tag, summary: "The daemon and its host"},
		func(ctx context.Context, _ *struct{}) (api.Info, error) { return s.Host.Info(ctx) })
	handle(a, route{id: "list-templates", method: "GET", path: "/v1/templates", tag: tag, summary: "List the saved machines that VMs begin as copies of, the one used last first"},
		func(ctx context.Context, _ *struct{}) ([]api.Template, error) { return orEmpty(s.Host.Templates(ctx)) })
	handle(a, route{id: "prune", method: "POST", path: "/v1/prune", tag: tag, summary: "Remove stopped instances, and what nothing uses",
		description: "Filters: until, a time or a duration before now; label, label!."},
		func(ctx context.Context, in *pruneInput) (api.Pruned, error) {
			filters, err := in.filters()
			if err != nil {
				return api.Pruned{}, err
			}
			pruned, err := s.Host.Prune(ctx, engine.PruneOptions{ImagesOnly: in.ImagesOnly, Images: in.Images, Volumes: in.Volumes, Templates: in.Templates, Filters: filters})
			if err != nil || !in.BuildCache || s.Builds == nil {
				return pruned, err
			}
			freed, err := s.pruneBuilds(ctx)
			pruned.Bytes += freed
			return pruned, err
		})
	handle(a, route{id: "get-usage", method: "GET", path: "/v1/usage", tag: tag, summary: "What there is, and what it takes of the disk"},
		func(ctx context.Context, _ *struct{}) (api.Usage, error) { return s.Host.Usage(ctx) })
	handleRaw(a, route{id: "watch-events", method: "GET", path: "/v1/events", tag: tag, summary: "What happens, as it happens", stream: linesType, schema: api.Event{},
		description: "Filters: type, action, name, id."},
		func(in *eventsInput) *raw {
			return lines(s, true, func(ctx context.Context, f func(api.Event) error) error {
				filters, err := in.filters()
				if err != nil {
					return err
				}
				return s.Host.Events(ctx, engine.EventOptions{Since: in.Since, Until: in.Until, Filters: filters}, f)
			})
		})
}
