package builder

import (
	"context"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/worker/base"
	"golang.org/x/sys/unix"
)

// cacheShare is which part of its filesystem the cache may take until what was used least
// recently goes, and freeShare which part is to stay free.
const (
	cacheShare = 10
	freeShare  = 20
)

// limits bound the cache by itself, once builds are done.
func limits(root string) ([]client.PruneInfo, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(root, &fs); err != nil {
		return nil, err
	}
	size := int64(fs.Blocks) * fs.Bsize
	return []client.PruneInfo{{All: true, MaxUsedSpace: size / cacheShare, MinFreeSpace: size / freeShare}}, nil
}

// prune removes what of the cache no build uses now. What that frees the daemon finds out:
// a record counts layers that images share with it.
func prune(ctx context.Context, w *base.Worker) error {
	return w.CacheMgr.Prune(ctx, nil, client.PruneInfo{All: true})
}
