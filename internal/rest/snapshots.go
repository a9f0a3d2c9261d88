package rest

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/engine"
)

type newSnapshotInput struct {
	RefInput
	Name    string `query:"name" maxLength:"63" doc:"default: the first that is free of snap0, snap1 and so on"`
	Volumes bool   `query:"volumes" doc:"of one that runs, the further disks too that it writes to; a restore puts them back"`
}

type snapshotInput struct {
	RefInput
	Snapshot string `path:"snapshot" maxLength:"63"`
}

type cloneInput struct {
	RefInput
	Name     string `query:"name" maxLength:"63" doc:"default: one is chosen"`
	Snapshot string `query:"snapshot" maxLength:"63" doc:"of the source, to begin from; default: the source as it is now"`
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
			return s.Snapshots.CreateSnapshot(ctx, in.Ref, engine.SnapshotOptions{Name: in.Name, Volumes: in.Volumes})
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
	handle(a, route{id: "clone-instance", method: "POST", path: "/v1/instances/{ref}/clone", tag: tag, summary: "Make another VM of a VM", status: http.StatusCreated,
		description: "It goes on from the memory and disk of a VM that runs, is paused or suspended, or of a snapshot; of one at rest it has the disk. Name, addresses and keys are its own."},
		func(ctx context.Context, in *cloneInput) (api.Instance, error) {
			return s.Snapshots.Clone(ctx, in.Ref, engine.CloneOptions{Name: in.Name, Snapshot: in.Snapshot})
		})
}
