package rest

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/berthcloud/berth/api"
)

// VolumeInput names a volume.
type VolumeInput struct {
	Name string `path:"name" maxLength:"256"`
}

// NewVolume says which volume to make.
type NewVolume struct {
	Name   string            `json:"name,omitempty" maxLength:"256" doc:"default: a made-up one"`
	Size   int64             `json:"size,omitempty" minimum:"0" doc:"bytes of a disk; 0 for a file tree"`
	Labels map[string]string `json:"labels,omitempty"`
}

type createVolumeInput struct{ Body NewVolume }

type removeVolumeInput struct {
	VolumeInput
	Force bool `query:"force" doc:"a missing volume is a success"`
}

// volumeRoutes registers what concerns volumes.
func (s *Server) volumeRoutes(a huma.API) {
	const tag, base, one = "volumes", "/v1/volumes", "/v1/volumes/{name}"
	handle(a, route{id: "list-volumes", method: "GET", path: base, tag: tag, summary: "List volumes, by name"},
		func(ctx context.Context, _ *struct{}) ([]api.Volume, error) { return orEmpty(s.Volumes.Volumes(ctx)) })
	handle(a, route{id: "create-volume", method: "POST", path: base, tag: tag, summary: "Make a volume", status: http.StatusCreated},
		func(ctx context.Context, in *createVolumeInput) (api.Volume, error) {
			return s.Volumes.CreateVolume(ctx, in.Body.Name, in.Body.Size, in.Body.Labels)
		})
	handle(a, route{id: "get-volume", method: "GET", path: one, tag: tag, summary: "Get a volume"},
		func(ctx context.Context, in *VolumeInput) (api.Volume, error) { return s.Volumes.Volume(ctx, in.Name) })
	handle(a, route{id: "remove-volume", method: "DELETE", path: one, tag: tag, summary: "Remove a volume with what it holds"},
		func(ctx context.Context, in *removeVolumeInput) (struct{}, error) {
			return none(s.Volumes.RemoveVolume(ctx, in.Name, in.Force))
		})
}
