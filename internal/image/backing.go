package image

import (
	"context"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
)

// Backing is what a Store stands on, for a builder that works in it: what it writes is
// where it belongs at once. Whoever writes keeps a lease, or the next collection takes
// what no name leads to.
type Backing struct {
	Content   content.Store
	Images    images.Store
	Leases    leases.Manager
	Snapshots snapshots.Snapshotter // of Options.Snapshotter
}

// Backing returns what the store stands on. It is used with contexts of Namespace.
func (s *Store) Backing() Backing {
	b := Backing{Content: s.content, Images: s.images, Leases: s.leases}
	if s.opt.Snapshotter != nil {
		b.Snapshots = s.db.Snapshotter(SnapshotterName)
	}
	return b
}

// Ready makes the layers ready that a name leads to, for this host's platform: an image
// is used soon after it was made.
func (s *Store) Ready(ctx context.Context, name string) error {
	_, err := s.Resolve(ctx, name)
	return err
}
