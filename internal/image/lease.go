package image

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/opencontainers/go-digest"

	"github.com/berthcloud/berth/api"
)

// WorkPrefix begins the name of every lease of this package's: they are operations', and
// expire. Others are a builder's.
const WorkPrefix = "work/"

// workTime is how long what an interrupted operation has fetched is kept for
// its next try.
const workTime = 24 * time.Hour

// work begins an operation that writes content: until done is called, or
// workTime has passed, nothing it writes is garbage.
func (s *Store) work(ctx context.Context) (_ context.Context, done func(), err error) {
	ctx = s.context(ctx)
	id := WorkPrefix + rand.Text()
	lease, err := s.leases.Create(ctx, leases.WithID(id), leases.WithExpiration(workTime))
	if err != nil {
		return nil, nil, err
	}
	done = func() {
		// Not worth an error: the lease expires.
		_ = s.leases.Delete(context.WithoutCancel(ctx), lease)
	}
	return leases.WithLease(ctx, id), done, nil
}

// keep adds a blob to the lease of the operation in ctx, so that garbage
// collection spares it, and reports whether the store has the blob.
func (s *Store) keep(ctx context.Context, d digest.Digest) bool {
	if id, ok := leases.FromContext(ctx); ok {
		if err := s.leases.AddResource(ctx, leases.Lease{ID: id}, leases.Resource{ID: d.String(), Type: "content"}); err != nil {
			return false
		}
	}
	_, err := s.content.Info(ctx, d) // only now is the answer lasting
	return err == nil
}

// Collect removes content that no name, hold or running operation needs, and
// returns how many bytes that freed.
func (s *Store) Collect(ctx context.Context) (freed int64, err error) {
	ctx = s.context(ctx)
	s.placing.Lock()
	defer s.placing.Unlock()
	before, err := s.usage(ctx)
	if err != nil {
		return 0, api.E("collect garbage", "", "", err)
	}
	if _, err := s.db.GarbageCollect(ctx); err != nil {
		return 0, api.E("collect garbage", "", "", err)
	}
	if err := s.dropUnwanted(ctx); err != nil {
		return 0, api.E("collect garbage", "", "", err)
	}
	s.forgetResolved()
	after, err := s.usage(ctx)
	return before - after, api.E("collect garbage", "", "", err)
}
