package builder

import (
	"context"
	"errors"

	"github.com/containerd/containerd/v2/core/images"

	"github.com/berthcloud/berth/internal/build"
)

// names are the names of the daemon's images, as containerd's libraries know them.
type names struct{ daemon build.Daemon }

// Get implements images.Store.
func (n names) Get(ctx context.Context, name string) (images.Image, error) {
	return n.daemon.Image(ctx, name)
}

// List implements images.Store.
func (n names) List(ctx context.Context, filters ...string) ([]images.Image, error) {
	return n.daemon.Images(ctx, filters...)
}

// Create implements images.Store.
func (n names) Create(ctx context.Context, img images.Image) (images.Image, error) {
	return n.daemon.Name(ctx, img)
}

// Update implements images.Store: all of the image is said anew.
func (n names) Update(ctx context.Context, img images.Image, _ ...string) (images.Image, error) {
	return n.daemon.Name(ctx, img)
}

// Delete implements images.Store: no build takes a name away.
func (names) Delete(context.Context, string, ...images.DeleteOpt) error {
	return errors.New("a build removes no image")
}
