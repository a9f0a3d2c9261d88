package image

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
)

// Repositories is the store as a registry shows it (OCI distribution-spec). A
// repository is the images of one name: its tag T is the image NAME:T, a manifest
// without a tag the image NAME@DIGEST. So whatever is pushed can be run, and whatever
// is here can be served.
//
// A repository has what its manifests lead to, and for a day what was uploaded to it;
// a blob is in no other repository because the store has it. Methods may be called
// concurrently. Names are full ones, as localhost/team/app; errors have the kind
// NotFound where the repository has no such thing.
type Repositories struct {
	s     *Store
	limit int64 // bytes of a repository, or 0

	// writing is held by whatever changes a repository: what a manifest refers to
	// must not go between the look and the name.
	writing sync.Mutex

	mu         sync.Mutex
	view       view                                   // as of one state of the names
	loose      map[string]map[digest.Digest]time.Time // until when uploaded blobs are kept, by repository
	parsed     map[digest.Digest]*parsed              // manifests are read once
	references int                                    // that these have
	uploads    map[string]*Upload                     // under way, by ID

	litter chan struct{} // something may be garbage
	stop   context.CancelFunc
	ended  chan struct{}
}

// view is what the names of the store say of its repositories.
type view struct {
	names int64 // state of the names
	repos map[string]*repository
}

// repository is one of them.
type repository struct {
	tags             map[string]ocispec.Descriptor
	targets          map[digest.Digest]ocispec.Descriptor // of tags and of names with a digest
	manifests, blobs map[digest.Digest]ocispec.Descriptor // all that these lead to; nil until it is asked for
}

// looseTime is how long an uploaded blob waits for its manifest.
const looseTime = 24 * time.Hour

// maxParsed bounds what is remembered of manifests, in references.
const maxParsed = 100_000

// Repositories returns the store as a registry shows it. Close ends it; until then
// there is no other.
func (s *Store) Repositories(ctx context.Context) (*Repositories, error) {
	r := &Repositories{
		s: s, loose: map[string]map[digest.Digest]time.Time{}, parsed: map[digest.Digest]*parsed{}, uploads: map[string]*Upload{},
		litter: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	if err := r.recover(s.context(ctx)); err != nil {
		return nil, api.E("open the registry", "", s.root, err)
	}
	ctx, r.stop = context.WithCancel(context.WithoutCancel(ctx))
	go r.tidy(ctx)
	return r, nil
}

// Close waits for what is being written. Uploads that have not ended go on when the store is
// served again.
func (r *Repositories) Close() {
	r.stop()
	<-r.ended
	r.mu.Lock()
	all := slices.Collect(maps.Values(r.uploads))
	r.mu.Unlock()
	for _, u := range all {
		u.rest()
	}
}

// tidyTime is how often abandoned uploads are looked for, and garbage is collected.
const tidyTime = time.Minute

// tidy removes what clients have left behind.
func (r *Repositories) tidy(ctx context.Context) {
	defer close(r.ended)
	tick := time.NewTicker(tidyTime)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, u := range r.idle(uploadTime) {
			u.Cancel()
		}
		select {
		case <-r.litter:
			_, _ = r.s.Collect(ctx) // the next collection takes what this could not
		default:
		}
	}
}

// dirty has garbage collected soon.
func (r *Repositories) dirty() {
	select {
	case r.litter <- struct{}{}:
	default:
	}
}

// nameStore counts the changes of names, so that what follows from them need not be
// found out anew each time.
type nameStore struct {
	images.Store
	changes atomic.Int64
}

// Create implements images.Store.
func (n *nameStore) Create(ctx context.Context, i images.Image) (images.Image, error) {
	defer n.changes.Add(1)
	return n.Store.Create(ctx, i)
}

// Update implements images.Store.
func (n *nameStore) Update(ctx context.Context, i images.Image, fields ...string) (images.Image, error) {
	defer n.changes.Add(1)
	return n.Store.Update(ctx, i, fields...)
}

// Delete implements images.Store.
func (n *nameStore) Delete(ctx context.Context, name string, opts ...images.DeleteOpt) error {
	defer n.changes.Add(1)
	return n.Store.Delete(ctx, name, opts...)
}

// CheckRepository refuses what is no full name of a repository.
func CheckRepository(name string) error {
	named, err := reference.ParseNormalizedNamed(name)
	if err == nil && (len(name) > 255 || named.String() != name || !reference.IsNameOnly(named)) {
		err = errors.New("write it in full, in small letters, as in localhost/team/app")
	}
	if err != nil {
		return api.E("", api.Invalid, fmt.Sprintf("%.100q", name), fmt.Errorf("no name of a repository: %w", err))
	}
	return nil
}

// split takes the name of an image apart.
func split(name string) (repo, tag string, d digest.Digest) {
	if repo, d, ok := strings.Cut(name, "@"); ok {
		return repo, "", digest.Digest(d)
	}
	at := strings.LastIndexByte(name, ':') // a port stands before a slash
	return name[:at], name[at+1:], ""
}

// find returns a repository; one of which nothing is known is empty, and not found. It
// must not be changed.
func (r *Repositories) find(ctx context.Context, name string) (*repository, error) {
	names := r.s.images.changes.Load()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.view.repos == nil || r.view.names != names {
		all, err := r.s.images.List(ctx)
		if err != nil {
			return nil, err
		}
		r.view = view{names: names, repos: map[string]*repository{}}
		for _, rec := range all {
			r.view.add(rec)
		}
	}
	if repo, ok := r.view.repos[name]; ok {
		return repo, nil
	}
	return &repository{manifests: map[digest.Digest]ocispec.Descriptor{}, blobs: map[digest.Digest]ocispec.Descriptor{}}, nil
}

func (v *view) add(rec images.Image) {
	name, tag, _ := split(rec.Name)
	repo := v.repos[name]
	if repo == nil {
		repo = &repository{tags: map[string]ocispec.Descriptor{}, targets: map[digest.Digest]ocispec.Descriptor{}}
		v.repos[name] = repo
	}
	if tag != "" {
		repo.tags[tag] = rec.Target
	}
	repo.targets[rec.Target.Digest] = rec.Target
}

// reach fills in what the manifests of a repository lead to.
func (r *Repositories) reach(ctx context.Context, repo *repository) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if repo.manifests != nil {
		return nil
	}
	manifests, blobs := maps.Clone(repo.targets), map[digest.Digest]ocispec.Descriptor{}
	queue := slices.Collect(maps.Values(repo.targets))
	for len(queue) > 0 {
		m, err := r.parse(ctx, queue[0])
		queue = queue[1:]
		if notFound(err) || api.KindOf(err) == api.Corrupt {
			continue // another platform's, or damaged: it leads nowhere
		} else if err != nil {
			return err
		}
		for _, d := range m.blobs {
			blobs[d.Digest] = d
		}
		for _, d := range m.manifests {
			if _, known := manifests[d.Digest]; !known {
				manifests[d.Digest] = d
				queue = append(queue, d)
			}
		}
	}
	repo.manifests, repo.blobs = manifests, blobs
	return nil
}

// Names returns the names of all repositories, sorted.
func (r *Repositories) Names(ctx context.Context) ([]string, error) {
	ctx = r.s.context(ctx)
	if _, err := r.find(ctx, ""); err != nil {
		return nil, api.E("list repositories", "", "", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	all := map[string]bool{}
	for name := range r.view.repos {
		all[name] = true
	}
	for name, blobs := range r.loose {
		if len(blobs) > 0 {
			all[name] = true
		}
	}
	return slices.Sorted(maps.Keys(all)), nil
}

// Tags returns the tags of a repository, sorted.
func (r *Repositories) Tags(ctx context.Context, name string) ([]string, error) {
	repo, err := r.find(r.s.context(ctx), name)
	if err != nil {
		return nil, api.E("list tags", "", name, err)
	}
	return slices.Sorted(maps.Keys(repo.tags)), nil
}

// Exists reports whether there is anything in a repository.
func (r *Repositories) Exists(ctx context.Context, name string) (bool, error) {
	repo, err := r.find(r.s.context(ctx), name)
	if err != nil {
		return false, api.E("find repository", "", name, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(repo.targets) > 0 || len(r.loose[name]) > 0, nil
}
