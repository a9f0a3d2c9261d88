package rest

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/berthcloud/berth/api"
)

type newSnapshotInput struct {
	RefInput
	Name string `query:"name" maxLength:"63" doc:"default: the first that is free of snap0, snap1 and so on"`
}

type snapshotInput struct {
	RefInput
	Snapshot string `path:"snapshot" maxLength:"63"`
}

// snapshotRoutes registers what concerns snapshots of instances.
func (s *Server) snapshotRoutes(a huma.API) {
	const tag, base, one = "snapshots", "/v1/instances/{ref}/snapshots", "/v1/instances/{ref}/snapshots/{snapshot}"
	handle(a, route{id: "list-snapshots", method: "GET", path: base, tag: tag, summary: "List the snapshots of a VM, oldest first"},
		func(ctx context.Context, in *RefInput) ([]api.Snapshot, error) {
			return orEmpty(s.Snapshots.Snapshots(ctx, in.Ref))
		})
	handle(a, route{id: "create-snapshot", method: "POST", path: base, tag: tag, summary: "Keep a VM as it is now", status: http.StatusCreated,
		description: "The disk, and of a running VM the memory. It stands still meanwhile."},
		func(ctx context.Context, in *newSnapshotInput) (api.Snapshot, error) {
			return s.Snapshots.CreateSnapshot(ctx, in.Ref, in.Name)
		})
	handle(a, route{id: "restore-snapshot", method: "POST", path: one + "/restore", tag: tag, summary: "Put a VM back to where it was",
		description: "What it has become since is lost. A snapshot with memory goes on from there."},
		func(ctx context.Context, in *snapshotInput) (api.Instance, error) {
			return s.Snapshots.RestoreSnapshot(ctx, in.Ref, in.Snapshot)
		})
	handle(a, route{id: "remove-snapshot", method: "DELETE", path: one, tag: tag, summary: "Remove a snapshot"},
		func(ctx context.Context, in *snapshotInput) (struct{}, error) {
			return none(s.Snapshots.RemoveSnapshot(ctx, in.Ref, in.Snapshot))
		})
}
