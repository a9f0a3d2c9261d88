package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"

	"github.com/berthcloud/berth/api"
)

// ErrQuota is the cause of the error of what a repository has no room for.
var ErrQuota = errors.New("the repository is full")

// Limit has a repository take no more than so many bytes: its manifests and blobs, each
// once, whoever else has them. 0 is no limit, as at first. What this host makes itself
// counts and is not refused. It is called before anything is served.
func (r *Repositories) Limit(bytes int64) { r.limit = bytes }

// room returns how many bytes a repository may still take, which are none or fewer where it
// has more than it may.
func (r *Repositories) room(ctx context.Context, name string) (int64, error) {
	if r.limit == 0 {
		return math.MaxInt64, nil
	}
	repo, err := r.find(ctx, name)
	if err == nil {
		err = r.reach(ctx, repo)
	}
	if err != nil {
		return 0, err
	}
	r.mu.Lock()
	all := slices.Concat(slices.Collect(maps.Keys(repo.manifests)), slices.Collect(maps.Keys(repo.blobs)))
	for d, until := range r.loose[name] {
		_, known := repo.blobs[d]
		if _, manifest := repo.manifests[d]; !known && !manifest && time.Now().Before(until) {
			all = append(all, d)
		}
	}
	r.mu.Unlock()
	left := r.limit
	for _, d := range all {
		if info, err := r.s.content.Info(ctx, d); err == nil { // else it is of a platform that is not here
			left -= info.Size
		}
	}
	return left, nil
}

// full is the error of what a repository has no room for.
func (r *Repositories) full() error {
	return api.E("", api.Denied, "", fmt.Errorf("%w: it may have %s; delete images from it, or have berthd's --registry-quota raised", ErrQuota, units.BytesSize(float64(r.limit))))
}

// admit refuses a blob of the store that a repository has not and that it has no room for.
func (r *Repositories) admit(ctx context.Context, name string, d digest.Digest) error {
	if r.limit == 0 {
		return nil
	}
	if has, err := r.has(ctx, name, d); has || err != nil {
		return err
	}
	left, err := r.room(ctx, name)
	if err != nil {
		return err
	}
	if info, err := r.s.content.Info(ctx, d); err == nil && info.Size > left {
		r.dirty()
		return r.full()
	}
	return nil
}

// bounded reads what a repository has room for. Uploads beside each other may take it twice
// on their way; one of them is refused at its end.
type bounded struct {
	in   io.Reader
	left int64
	full func() error
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.in.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, b.full()
	}
	return n, err
}
