package builder

import (
	"context"
	"slices"

	"github.com/containerd/containerd/v2/core/leases"
)

// untrustedLabel marks the leases of builds in VMs.
const untrustedLabel = "berthcloud.com/untrusted-builds"

// ownLeases are the leases of this builder in the daemon's store. BuildKit drops those that
// it finds and does not know, and there may be two builders.
type ownLeases struct {
	leases.Manager
	untrusted bool
}

// Create implements leases.Manager.
func (o *ownLeases) Create(ctx context.Context, opts ...leases.Opt) (leases.Lease, error) {
	if o.untrusted {
		opts = append(slices.Clone(opts), leases.WithLabel(untrustedLabel, "true"))
	}
	return o.Manager.Create(ctx, opts...)
}

// List implements leases.Manager.
func (o *ownLeases) List(ctx context.Context, filters ...string) ([]leases.Lease, error) {
	list, err := o.Manager.List(ctx, filters...)
	return slices.DeleteFunc(list, func(l leases.Lease) bool { return (l.Labels[untrustedLabel] != "") != o.untrusted }), err
}
