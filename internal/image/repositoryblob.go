package image

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
)

// What a repository has without a manifest is written down as a lease that expires:
// loose/NAME@DIGEST. Uploads under way have leases too, upload/ID, whose labels say what is
// to become of them.
const (
	loosePrefix  = "loose/"
	uploadPrefix = "upload/"

	uploadRepositoryLabel = "berth.upload.repository"
	uploadAlgorithmLabel  = "berth.upload.algorithm"
)

// recover finds the blobs that wait for their manifests, and the uploads of another life.
func (r *Repositories) recover(ctx context.Context) error {
	all, err := r.s.leases.List(ctx)
	if err != nil {
		return err
	}
	for _, l := range all {
		if id, ok := strings.CutPrefix(l.ID, uploadPrefix); ok {
			name, algorithm := l.Labels[uploadRepositoryLabel], digest.Algorithm(l.Labels[uploadAlgorithmLabel])
			if CheckRepository(name) == nil && algorithm.Available() {
				r.uploads[id] = r.newUpload(ctx, id, name, algorithm)
			} else if err := r.s.leases.Delete(ctx, l); err != nil {
				return err
			}
		}
		rest, ok := strings.CutPrefix(l.ID, loosePrefix)
		name, d, _ := strings.Cut(rest, "@")
		if ok {
			r.remember(name, digest.Digest(d), l.CreatedAt.Add(looseTime))
		}
	}
	return nil
}

func (r *Repositories) remember(name string, d digest.Digest, until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.loose[name] == nil {
		r.loose[name] = map[digest.Digest]time.Time{}
	}
	r.loose[name][d] = until
	maps.DeleteFunc(r.loose[name], func(_ digest.Digest, until time.Time) bool { return time.Now().After(until) })
}

// adopt makes a blob of the store one of a repository, for as long as an upload waits.
func (r *Repositories) adopt(ctx context.Context, name string, d digest.Digest) error {
	if err := r.admit(ctx, name, d); err != nil {
		return err
	}
	lease := leases.Lease{ID: loosePrefix + name + "@" + d.String()}
	if err := r.s.leases.Delete(ctx, lease); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if _, err := r.s.leases.Create(ctx, leases.WithID(lease.ID), leases.WithExpiration(looseTime)); err != nil {
		return err
	}
	if !r.s.keep(leases.WithLease(ctx, lease.ID), d) {
		return api.E("", api.NotFound, "", errors.New("the blob has just been removed"))
	}
	r.remember(name, d, time.Now().Add(looseTime))
	return nil
}

// has reports whether a repository has a blob.
func (r *Repositories) has(ctx context.Context, name string, d digest.Digest) (bool, error) {
	r.mu.Lock()
	until, ok := r.loose[name][d]
	r.mu.Unlock()
	if ok && time.Now().Before(until) {
		return true, nil
	}
	repo, err := r.find(ctx, name)
	if err == nil {
		err = r.reach(ctx, repo)
	}
	if err != nil {
		return false, err
	}
	_, ok = repo.blobs[d]
	return ok, nil
}

func noBlob(d digest.Digest) error {
	return api.E("", api.NotFound, "", fmt.Errorf("the repository has no blob %.140s", d))
}

// Blob opens a blob of a repository, and returns its size. The caller closes it.
func (r *Repositories) Blob(ctx context.Context, name string, d digest.Digest) (*os.File, int64, error) {
	ctx = r.s.context(ctx)
	fail := func(err error) (*os.File, int64, error) { return nil, 0, api.E("get blob", "", name, err) }
	has, err := r.has(ctx, name, d)
	if err != nil {
		return fail(err)
	}
	if !has {
		return fail(noBlob(d))
	}
	info, err := r.s.content.Info(ctx, d)
	if err != nil {
		return fail(noBlob(d)) // of a platform that was not pulled
	}
	f, err := os.Open(r.s.blobPath(d.String()))
	if errors.Is(err, os.ErrNotExist) {
		err = noBlob(d)
	}
	if err != nil {
		return fail(err)
	}
	return f, info.Size, nil
}

// DeleteBlob removes a blob from a repository that has no manifest which refers to it.
func (r *Repositories) DeleteBlob(ctx context.Context, name string, d digest.Digest) error {
	ctx = r.s.context(ctx)
	r.writing.Lock()
	defer r.writing.Unlock()
	has, err := r.has(ctx, name, d)
	if err == nil && !has {
		err = noBlob(d)
	}
	if err != nil {
		return api.E("delete blob", "", name, err)
	}
	r.mu.Lock()
	delete(r.loose[name], d)
	r.mu.Unlock()
	err = r.s.leases.Delete(ctx, leases.Lease{ID: loosePrefix + name + "@" + d.String()})
	if err != nil && !errdefs.IsNotFound(err) {
		return api.E("delete blob", "", name, err)
	}
	if has, err = r.has(ctx, name, d); err == nil && has {
		err = api.E("", api.InUse, "", errors.New("a manifest of the repository refers to it; delete that first"))
	}
	r.dirty()
	return api.E("delete blob", "", name, err)
}

// Mount makes a blob of the repository from one of the repository name too.
func (r *Repositories) Mount(ctx context.Context, name string, d digest.Digest, from string) error {
	ctx = r.s.context(ctx)
	r.writing.Lock()
	defer r.writing.Unlock()
	has, err := r.has(ctx, from, d)
	if err == nil && !has {
		err = noBlob(d)
	}
	if err == nil {
		err = r.adopt(ctx, name, d)
	}
	return api.E("mount blob", "", name, err)
}

// Bounds of uploads.
const (
	maxUploads = 256              // at a time
	uploadTime = 15 * time.Minute // without a byte, and it is abandoned
)

// Upload is a blob on its way into a repository, in one piece or in several. Its methods
// wait for each other.
type Upload struct {
	ID string

	r         *Repositories
	repo      string
	algorithm digest.Algorithm // of the digest that it will have
	ctx       context.Context  // of the upload, which outlives the requests that carry it

	mu    sync.Mutex
	w     content.Writer // nil until it is used
	ended bool
	size  int64
	used  time.Time
}

// errEnded is the cause of the error of an upload that is no more.
var errEnded = api.E("", api.NotFound, "", errors.New("no such upload; it was ended, or left alone for too long: begin anew"))

// newUpload returns an upload that has a lease.
func (r *Repositories) newUpload(ctx context.Context, id, name string, algorithm digest.Algorithm) *Upload {
	ctx = leases.WithLease(r.s.context(context.WithoutCancel(ctx)), uploadPrefix+id)
	return &Upload{ID: id, r: r, repo: name, algorithm: algorithm, ctx: ctx, used: time.Now()}
}

// NewUpload begins an upload of a blob whose digest will be of an algorithm.
func (r *Repositories) NewUpload(ctx context.Context, name string, algorithm digest.Algorithm) (*Upload, error) {
	fail := func(err error) (*Upload, error) { return nil, api.E("upload blob", "", name, diskFull(err)) }
	u := r.newUpload(ctx, strings.ToLower(rand.Text()), name, algorithm)
	r.mu.Lock()
	full := len(r.uploads) >= maxUploads
	if !full {
		r.uploads[u.ID] = u
	}
	r.mu.Unlock()
	if full {
		return fail(api.E("", api.Unavailable, "", fmt.Errorf("%d uploads are under way; try again later", maxUploads)))
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	_, err := r.s.leases.Create(u.ctx, leases.WithID(uploadPrefix+u.ID), leases.WithExpiration(workTime),
		leases.WithLabels(map[string]string{uploadRepositoryLabel: name, uploadAlgorithmLabel: algorithm.String()}))
	if err == nil {
		err = u.open()
	}
	if err != nil {
		u.end()
		return fail(err)
	}
	return u, nil
}

// open makes the upload ready for its next bytes: one of another life is read again, for its
// digest. u.mu is held.
func (u *Upload) open() error {
	if u.ended {
		return errEnded
	}
	if u.w != nil {
		return nil
	}
	// An algorithm is told by the digest that is expected; this one nobody has.
	w, err := u.r.s.content.Writer(u.ctx, content.WithRef(uploadPrefix+u.ID), content.WithDescriptor(ocispec.Descriptor{Digest: u.algorithm.FromString(u.ID)}))
	if err != nil {
		return err
	}
	st, err := w.Status()
	if err != nil {
		w.Close()
		return err
	}
	u.w, u.size = w, st.Offset
	return nil
}

// Upload returns an upload of a repository.
func (r *Repositories) Upload(name, id string) (*Upload, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if u, ok := r.uploads[id]; ok && u.repo == name {
		return u, nil
	}
	return nil, api.E("upload blob", "", name, errEnded)
}

// idle returns the uploads that nobody has used for a time.
func (r *Repositories) idle(since time.Duration) (found []*Upload) {
	r.mu.Lock()
	all := maps.Clone(r.uploads)
	r.mu.Unlock()
	for _, u := range all {
		if u.mu.TryLock() { // else it is in use now
			if time.Since(u.used) >= since {
				found = append(found, u)
			}
			u.mu.Unlock()
		}
	}
	return found
}

// end forgets the upload. u.mu is held.
func (u *Upload) end() {
	if u.w != nil {
		u.w.Close()
		u.w = nil
	}
	u.ended = true
	_ = u.r.s.content.Abort(u.ctx, uploadPrefix+u.ID)                     // what is left goes with its lease,
	_ = u.r.s.leases.Delete(u.ctx, leases.Lease{ID: uploadPrefix + u.ID}) // which expires
	u.r.mu.Lock()
	delete(u.r.uploads, u.ID)
	u.r.mu.Unlock()
}

// Cancel ends the upload and removes what has arrived.
func (u *Upload) Cancel() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.end()
}

// rest leaves the upload to the next life.
func (u *Upload) rest() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.w != nil {
		u.w.Close()
		u.w = nil
	}
	u.ended = true
}

// Size returns how many bytes have arrived.
func (u *Upload) Size() (int64, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.used = time.Now()
	err := u.open()
	return u.size, api.E("upload blob", "", u.repo, diskFull(err))
}

// Append adds what body has, whose first byte is the one at the offset at; -1 is
// wherever the upload stands. What arrives before an error stays. It returns the size
// so far.
func (u *Upload) Append(body io.Reader, at int64) (int64, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	fail := func(err error) (int64, error) { return u.size, api.E("upload blob", "", u.repo, diskFull(err)) }
	if err := u.open(); err != nil {
		return fail(err)
	}
	if at >= 0 && at != u.size {
		return fail(api.E("", api.Conflict, "", fmt.Errorf("%d bytes have arrived, and what comes begins at %d", u.size, at)))
	}
	left, err := u.r.room(u.ctx, u.repo)
	if err != nil {
		return fail(err)
	}
	n, err := io.CopyBuffer(onlyWriter{u.w}, &bounded{body, left - u.size, u.r.full}, make([]byte, 256<<10))
	u.size += n
	u.used = time.Now()
	if errors.Is(err, ErrQuota) {
		u.end()
	}
	if err != nil {
		return fail(err)
	}
	return u.size, nil
}

// Commit makes what has arrived a blob of the repository. Where it has another digest the
// upload is lost.
func (u *Upload) Commit(d digest.Digest) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	fail := func(err error) error { return api.E("upload blob", "", u.repo, diskFull(err)) }
	if err := u.open(); err != nil {
		return fail(err)
	}
	defer u.end()
	err := u.w.Commit(u.ctx, u.size, d)
	switch {
	case errdefs.IsAlreadyExists(err):
		if !u.r.s.keep(u.ctx, d) {
			return fail(api.E("", api.Unavailable, "", errors.New("the blob was removed meanwhile; try again")))
		}
	case errdefs.IsFailedPrecondition(err):
		return fail(api.E("", api.Corrupt, "", fmt.Errorf("what has arrived is not %s", d)))
	case err != nil:
		return fail(err)
	}
	u.w.Close()
	u.w = nil
	u.r.writing.Lock()
	defer u.r.writing.Unlock()
	return fail(u.r.adopt(u.ctx, u.repo, d))
}
