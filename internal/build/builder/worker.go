package builder

import (
	"context"
	"path/filepath"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	contentproxy "github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/containerd/v2/core/diff/apply"
	leasesproxy "github.com/containerd/containerd/v2/core/leases/proxy"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	snapshotsproxy "github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/pkg/gc"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/cache/metadata"
	"github.com/moby/buildkit/client"
	containerdsnapshot "github.com/moby/buildkit/snapshot/containerd"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/moby/buildkit/util/network"
	"github.com/moby/buildkit/worker/base"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/moby/buildkit/solver/pb"

	"github.com/berthcloud/berth/internal/build"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/storage"
	"github.com/berthcloud/berth/internal/undo"
)

// newWorker makes BuildKit's worker of what the daemon shows and of Berth's executor.
func newWorker(ctx context.Context, c build.Config, daemon build.Daemon, hosts docker.RegistryHosts, u *undo.Stack) (*base.Worker, error) {
	conn := daemon.Conn
	content := containerdsnapshot.NewContentStore(contentproxy.NewContentStore(contentapi.NewContentClient(conn)), image.Namespace)
	shown := snapshotsproxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), image.SnapshotterName)
	disks, err := openStorage(&c, u)
	if err != nil {
		return nil, err
	}
	applier := &layers{daemon: daemon, unpack: apply.NewFileSystemApplier(content), storage: disks, known: map[string]storage.Layer{}}
	snapshots := newSnapshotter(containerdsnapshot.NewSnapshotter(image.SnapshotterName, shown, image.Namespace, nil), applier)
	id, err := base.ID(c.Root)
	if err != nil {
		return nil, err
	}
	own := &ownLeases{leasesproxy.NewLeaseManager(leasesapi.NewLeasesClient(conn)), c.VM}
	manager := leaseutil.WithNamespace(own, image.Namespace)
	if err := reopen(ctx, c, manager, u); err != nil {
		return nil, err
	}
	index, err := metadata.NewStore(filepath.Join(c.Root, "metadata.db"))
	if err != nil {
		return nil, err
	}
	if err := unsynced(index.DB()); err != nil {
		return nil, err
	}
	policy, err := limits(c.Root)
	if err != nil {
		return nil, err
	}
	x, err := newExecutor(ctx, c, daemon, snapshots, u)
	if err != nil {
		return nil, err
	}
	return base.NewWorker(ctx, base.WorkerOpt{
		ID:               id,
		Root:             c.Root,
		Labels:           map[string]string{"org.mobyproject.buildkit.worker.executor": "berth"},
		Platforms:        []ocispec.Platform{platforms.Normalize(platforms.DefaultSpec())},
		GCPolicy:         policy,
		BuildkitVersion:  client.BuildkitVersion{Package: "github.com/berthcloud/berth", Version: c.Version},
		NetworkProviders: map[pb.NetMode]network.Provider{}, // endpoints are the executor's business
		Executor:         x,
		Snapshotter:      snapshots,
		ContentStore:     content,
		Applier:          applier,
		Differ:           &differ{content, walking.NewWalkingDiff(content)},
		ImageStore:       names{daemon},
		RegistryHosts:    hosts,
		LeaseManager:     manager,
		GarbageCollect:   func(ctx context.Context) (gc.Stats, error) { return nil, daemon.Collect(ctx) },
		MetadataStore:    index,
		MountPoolRoot:    filepath.Join(c.Tmp(), "mounts"),
	})
}

// openStorage opens a place for mounted layers, in the builder's own mount namespace.
func openStorage(c *build.Config, u *undo.Stack) (*storage.Storage, error) {
	open := storage.Open
	if c.Host.Rootless() {
		open = storage.OpenUnpacked
	}
	s, err := open(c.Tmp(), c.Run)
	if err == nil {
		u.Add(func(context.Context) error { return s.Sweep() })
	}
	return s, err
}
