package builder

import (
	"context"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/moby/buildkit/util/resolver"

	"github.com/berthcloud/berth/internal/image"
)

// registries returns the hosts of registries: as the daemon's files have them, or as
// usual, which is https, and http on loopback.
func registries(ctx context.Context, files string) docker.RegistryHosts {
	usual := resolver.NewRegistryConfig(nil)
	return func(registry string) ([]docker.RegistryHost, error) {
		hosts, err := image.Hosts(ctx, files, registry)
		if err != nil || hosts != nil {
			return hosts, err
		}
		return usual(registry)
	}
}
