package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/docker/go-units"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
)

// CheckOptions say how to check the image store.
type CheckOptions struct {
	Repair   bool // fetch or make anew what is broken
	Insecure bool // allow plain HTTP and unknown certificates for that
}

// StartCheck begins to read the whole image store and to tell what is broken. It ends with
// an error of kind Corrupt while something is.
func (e *Engine) StartCheck(_ context.Context, o CheckOptions) (api.Operation, error) {
	return e.begin("fsck", "images", func(ctx context.Context, report func(api.Progress)) (string, error) {
		found, err := e.images.Check(ctx, image.CheckOptions{Repair: o.Repair, Access: image.Access{Insecure: o.Insecure}, Progress: report})
		if err != nil {
			return "", err
		}
		if left := found.Broken - found.Repaired; left > 0 {
			way := errors.New("run it again with --repair, or pull, import or build the images again")
			if o.Repair {
				way = errors.New("pull, import or build the images again, or remove them")
			}
			return "", api.E("check the image store", api.Corrupt, "", fmt.Errorf("%d of %d blobs are broken; %w", left, found.Blobs, way))
		}
		result := fmt.Sprintf("%d blobs, %s: all are whole", found.Blobs, units.HumanSize(float64(found.Bytes)))
		if found.Repaired > 0 {
			result += fmt.Sprintf(", %d of them again; restart instances that use those", found.Repaired)
		}
		return result, nil
	})
}
