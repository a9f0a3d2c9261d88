package engine

import (
	"context"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
)

// PullOptions say what to pull.
type PullOptions struct {
	Ref      string
	Platform string // as in linux/arm64; "" for the host's
	Insecure bool   // allow plain HTTP and unknown certificates
	Lazy     bool   // be done once the image can be used, where that can be before it has arrived
}

// StartPull begins to fetch an image from its registry, with the credentials
// that the docker client's configuration on this host has for it.
func (e *Engine) StartPull(_ context.Context, o PullOptions) (api.Operation, error) {
	return e.begin("pull", o.Ref, func(ctx context.Context, report func(api.Progress)) (string, error) {
		return e.images.Pull(ctx, o.Ref, image.PullOptions{Platform: o.Platform, Lazy: o.Lazy, Access: image.Access{Insecure: o.Insecure}, Progress: report})
	})
}

// PushOptions say what to push.
type PushOptions struct {
	Ref               string
	Insecure          bool   // allow plain HTTP and unknown certificates
	CompressionFormat string // of layers: gzip, zstd, or "" for as they are
	CompressionLevel  int    // 0 for the format's usual one
}

// StartPush begins to put an image into the registry in its name, with the credentials
// that the docker client's configuration on this host has for it.
func (e *Engine) StartPush(_ context.Context, o PushOptions) (api.Operation, error) {
	as := image.Compression{Format: o.CompressionFormat, Level: o.CompressionLevel}
	if err := as.Check(); err != nil {
		return api.Operation{}, api.E("push", "", o.Ref, err)
	}
	return e.begin("push", o.Ref, func(ctx context.Context, report func(api.Progress)) (string, error) {
		return e.images.Push(ctx, o.Ref, image.PushOptions{Access: image.Access{Insecure: o.Insecure}, Compression: as, Progress: report})
	})
}
