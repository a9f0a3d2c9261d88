package image

import (
	"context"
	"crypto/rand"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"github.com/berthcloud/berth/api"
)

// Leases have names of one of two forms.
const (
	holdPrefix = "hold/" // an instance's: stays until released
	workPrefix = "work/" // of an operation: expires
)

// workTime is how long what an interrupted operation has fetched is kept for
// its next try.
const workTime = 24 * time.Hour

const holdImageLabel = "berth/image"

// work begins an operation that writes content: until done is called, or
// workTime has passed, nothing it writes is garbage.
func (s *Store) work(ctx context.Context) (_ context.Context, done func(), err error) {
	ctx = s.context(ctx)
	id := workPrefix + rand.Text()
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

// Hold keeps the content of an image alive, whatever happens to its name,
// until Release is called with the same holder: an instance's ID. A holder
// has one image; holding another replaces it. Holds survive restarts.
func (s *Store) Hold(ctx context.Context, holder string, img Image) error {
	id := holdPrefix + holder
	lease := leases.Lease{ID: id}
	err := s.db.Update(func(tx *bolt.Tx) error {
		ctx := boltutil.WithTransaction(s.context(ctx), tx)
		if err := s.leases.Delete(ctx, lease); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		if _, err := s.leases.Create(ctx, leases.WithID(id), leases.WithLabel(holdImageLabel, img.Name)); err != nil {
			return err
		}
		return s.leases.AddResource(ctx, lease, leases.Resource{ID: img.Digest, Type: "content"})
	})
	return api.E("hold image", "", img.Name, err)
}

// Release ends a Hold. It is no error if there is none.
func (s *Store) Release(ctx context.Context, holder string) error {
	err := s.leases.Delete(s.context(ctx), leases.Lease{ID: holdPrefix + holder})
	if errdefs.IsNotFound(err) {
		return nil
	}
	return api.E("release the image of", "", holder, err)
}

// Held is one Hold.
type Held struct {
	Holder string
	Name   string // of the image when it was held
	Digest string // of its manifest
}

// Holds lists all holds, so that after a restart those of instances that are
// gone can be released.
func (s *Store) Holds(ctx context.Context) ([]Held, error) {
	ctx = s.context(ctx)
	all, err := s.leases.List(ctx)
	if err != nil {
		return nil, api.E("list the holders of images", "", "", err)
	}
	var held []Held
	for _, l := range all {
		holder, ok := strings.CutPrefix(l.ID, holdPrefix)
		if !ok {
			continue
		}
		h := Held{Holder: holder, Name: l.Labels[holdImageLabel]}
		resources, err := s.leases.ListResources(ctx, l)
		if err != nil {
			return nil, api.E("list the holders of images", "", "", err)
		}
		for _, r := range resources {
			h.Digest = r.ID
		}
		held = append(held, h)
	}
	return held, nil
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
	after, err := s.usage(ctx)
	return before - after, api.E("collect garbage", "", "", err)
}
