package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image/chunks"
)

// PullOptions say how to pull an image.
type PullOptions struct {
	// Platform is which one of the image to pull, as in linux/arm64. Empty means the
	// host's. An image that is pulled for a named platform has no other here: its
	// name means that one until the next pull.
	Platform string
	// Lazy returns once the image can be used, and has what is missing of it arrive
	// behind, where its layers and the registry allow that.
	Lazy bool
	Access
	Progress Progress
}

// pullStreams is how many blobs are downloaded, or uploaded, at a time.
const pullStreams = 4

// Pull gets an image, for one platform, from the registry in its name, and returns the name in the short form. What an interrupted pull has fetched
// is used by the next for a day.
func (s *Store) Pull(ctx context.Context, name string, opt PullOptions) (string, error) {
	full, err := fullName(name)
	if err != nil {
		return "", api.E("pull", "", "", err)
	}
	ctx, done, err := s.work(ctx)
	if err != nil {
		return "", api.E("pull", "", Familiar(full), err)
	}
	p := &puller{s: s, progress: opt.Progress, access: opt.Access, lazy: opt.Lazy, full: full, match: platforms.Default(), platform: platforms.DefaultString(), named: opt.Platform != ""}
	if p.named {
		platform, err := platforms.Parse(opt.Platform)
		if err != nil {
			done()
			return "", api.E("pull", api.Invalid, Familiar(full), fmt.Errorf("platform %q: write one as in linux/arm64", opt.Platform))
		}
		p.match, p.platform = platforms.OnlyStrict(platform), platforms.Format(platform)
	}
	p.source = sourceLabels(full)
	p.guard = newGuard(s.opt.Stall)
	resolver := s.resolver(ctx, opt.Access, p.guard)
	err = p.pull(ctx, resolver, full)
	p.guard.close()
	// An interrupted pull leaves its lease, and so what it has, to its successor.
	if k := api.KindOf(err); k != api.Unavailable && k != api.Canceled {
		s.finish(ctx, done)
	}
	return Familiar(full), api.E("pull", "", Familiar(full), diskFull(err))
}

// puller is one pull.
type puller struct {
	s        *Store
	guard    *guard
	fetcher  remotes.Fetcher
	progress Progress
	access   Access
	lazy     bool
	full     string
	source   map[string]string // the labels of a blob that say where it is from

	match    platforms.MatchComparer
	platform string // that match stands for
	named    bool   // the user named it
}

func (p *puller) pull(ctx context.Context, resolver remotes.Resolver, full string) error {
	_, target, err := resolver.Resolve(ctx, full)
	if err != nil {
		return remoteError(ctx, err)
	}
	if p.fetcher, err = resolver.Fetcher(ctx, full); err != nil {
		return err
	}
	if !images.IsManifestType(target.MediaType) && !images.IsIndexType(target.MediaType) {
		return api.E("", api.Unsupported, "", fmt.Errorf("the registry offers %.80q, which is no image", target.MediaType))
	}
	if err := p.s.checkPolicy(ctx, resolver, full, target.Digest); err != nil {
		return err
	}
	desc, err := p.manifests(ctx, target)
	if err != nil {
		return err
	}
	_, m, err := p.s.manifest(ctx, desc)
	if err != nil {
		return err
	}
	if err := p.fetch(ctx, m.Config, maxConfig); err != nil {
		return err
	}
	switch {
	case m.ArtifactType == diskArtifact && inChunks(m):
		err = p.disk(ctx, m)
	case m.Config.MediaType == ocispec.MediaTypeEmptyJSON || m.ArtifactType == diskArtifact:
		err = p.blobs(ctx, m.Layers) // an artifact: a kernel, a disk kept whole
	default:
		err = p.layers(ctx, desc, m)
	}
	if err != nil {
		return err
	}
	if err := p.attestations(ctx, target, desc); err != nil {
		return err
	}
	if p.named {
		target = desc
	}
	if err := p.s.prepare(ctx, target, nil); err != nil { // labels; all is converted
		return err
	}
	return p.s.setName(ctx, full, target, nil)
}

// manifests fetches what leads from target to the manifest for the platform.
func (p *puller) manifests(ctx context.Context, target ocispec.Descriptor) (ocispec.Descriptor, error) {
	desc := target
	for range 4 {
		if err := p.fetch(ctx, desc, maxManifest); err != nil {
			return desc, err
		}
		if !images.IsIndexType(desc.MediaType) {
			return desc, nil
		}
		b, err := p.s.readBlob(ctx, desc, maxManifest)
		if err != nil {
			return desc, err
		}
		index, err := parseIndex(b)
		if err != nil {
			return desc, err
		}
		if desc, err = choose(index, p.match, p.platform); err != nil {
			return desc, err
		}
	}
	return desc, api.E("", api.Invalid, "", errors.New("indexes nested too deep"))
}

// layers fetches the layers and converts each as soon as it is there.
func (p *puller) layers(ctx context.Context, desc ocispec.Descriptor, m *ocispec.Manifest) error {
	doc, err := p.s.config(ctx, m)
	if err != nil {
		return err
	}
	if has := doc.platform(); p.named && !p.match.Match(platforms.Normalize(ocispec.Platform{OS: "linux", Architecture: doc.arch(), Variant: doc.Variant})) {
		return api.E("", api.Unsupported, "", fmt.Errorf("not offered for %s, only for %s", p.platform, api.OneLine(has)))
	}
	for _, l := range m.Layers {
		p.progress.report(short(l.Digest), StageWaiting, 0, l.Size)
	}
	if p.lazy {
		if err := p.arrive(ctx, desc, m, doc.RootFS.DiffIDs); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(pullStreams)
	for i, l := range m.Layers {
		if p.lazy && p.s.arriving(l.Digest) != nil {
			p.progress.report(short(l.Digest), StageArriving, 0, l.Size)
			continue
		}
		g.Go(func() error {
			if err := p.fetch(ctx, l, 0); err != nil {
				return err
			}
			return p.s.convert(ctx, l, doc.RootFS.DiffIDs[i], p.progress)
		})
	}
	return g.Wait()
}

// disk fetches the chunks of a disk that are not here, once its index is known to be
// sound, and puts them together.
func (p *puller) disk(ctx context.Context, m *ocispec.Manifest) error {
	if err := p.fetch(ctx, m.Layers[0], chunks.MaxIndex); err != nil {
		return err
	}
	if _, err := p.s.chunkIndex(ctx, m); err != nil {
		return err
	}
	all := *p
	all.progress = p.progress.together("disk", m.Layers[1:])
	if err := all.blobs(ctx, m.Layers[1:]); err != nil {
		return err
	}
	_, err := p.s.wholeDisk(ctx, m, p.progress)
	return err
}

func (p *puller) blobs(ctx context.Context, all []ocispec.Descriptor) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(pullStreams)
	for _, l := range all {
		g.Go(func() error { return p.fetch(ctx, l, 0) })
	}
	return g.Wait()
}

// fetchTries is how often a download is resumed after the connection broke.
const fetchTries = 3

// fetch makes sure that the store has a blob of at most limit bytes, 0 being
// no limit but the blob's size. It goes on where an earlier try ended.
func (p *puller) fetch(ctx context.Context, desc ocispec.Descriptor, limit int64) error {
	if err := checkDescriptor(desc); err != nil {
		return api.E("", api.Corrupt, "", err)
	}
	if limit > 0 && desc.Size > limit {
		return api.E("", api.Invalid, "", fmt.Errorf("%s has %d bytes, more than %d", short(desc.Digest), desc.Size, limit))
	}
	desc.URLs = nil // the registry that was named, and no other host it may name
	var err error
	for try := range fetchTries {
		var got int64
		got, err = p.fetchOnce(ctx, desc)
		if err == nil || api.KindOf(err) != api.Unavailable || ctx.Err() != nil || got == 0 && try > 0 {
			return err
		}
	}
	return err
}

// fetchOnce returns how many bytes it got.
func (p *puller) fetchOnce(ctx context.Context, desc ocispec.Descriptor) (int64, error) {
	ref := "fetch-" + desc.Digest.Encoded()
	w, err := content.OpenWriter(ctx, p.s.content, content.WithRef(ref), content.WithDescriptor(desc))
	if errdefs.IsAlreadyExists(err) {
		p.progress.report(short(desc.Digest), StageExists, desc.Size, desc.Size)
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer w.Close()
	st, err := w.Status()
	if err != nil {
		return 0, err
	}
	if st.Offset > desc.Size { // of another try, with a registry that lied
		if err := w.Truncate(0); err != nil {
			return 0, err
		}
		st.Offset = 0
	}
	n := int64(0)
	if st.Offset < desc.Size {
		n, err = p.download(ctx, w, desc, st.Offset)
		if st.Offset > 0 && refusesRange(err) {
			if err := w.Truncate(0); err != nil {
				return 0, err
			}
			n, err = p.download(ctx, w, desc, 0)
		}
		if err != nil {
			return n, err
		}
	}
	err = w.Commit(ctx, desc.Size, desc.Digest, content.WithLabels(p.source))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		if errdefs.IsFailedPrecondition(err) {
			err = api.E("", api.Corrupt, "", fmt.Errorf("what the registry sent is not %s; the image or the registry is damaged", short(desc.Digest)))
			return n, errors.Join(err, p.s.abort(ctx, w, ref)) // what was fetched is of no use
		}
		return n, err
	}
	return n, nil
}

// refusesRange reports whether a registry does not send a blob from where it broke off: some
// know no range without an end.
func refusesRange(err error) bool {
	var status remoteerrors.ErrUnexpectedStatus
	return errors.As(err, &status) && status.StatusCode == http.StatusRequestedRangeNotSatisfiable
}

// download appends the blob's bytes from offset on to w.
func (p *puller) download(ctx context.Context, w io.Writer, desc ocispec.Descriptor, offset int64) (int64, error) {
	ctx, cancel := context.WithCancelCause(context.WithValue(ctx, blobKey{}, true))
	defer cancel(nil)
	rc, err := p.fetcher.Fetch(ctx, desc)
	if err != nil {
		return 0, remoteError(ctx, err)
	}
	defer rc.Close()
	if offset > 0 {
		seeker, ok := rc.(io.Seeker)
		if !ok {
			return 0, api.E("", api.Internal, "", errors.New("a download that cannot be resumed"))
		}
		if _, err := seeker.Seek(offset, io.SeekStart); err != nil {
			return 0, remoteError(ctx, err)
		}
	}
	in := &transfer{in: rc, progress: p.progress, part: short(desc.Digest), stage: StageDownloading, at: offset, size: desc.Size}
	stop := in.watch(p.s.opt.Stall, cancel)
	defer stop()
	n, err := io.CopyBuffer(onlyWriter{w}, io.LimitReader(in, desc.Size-offset), make([]byte, 256<<10))
	if err != nil {
		return n, remoteError(ctx, err)
	}
	if n < desc.Size-offset {
		return n, api.E("", api.Unavailable, "", fmt.Errorf("the registry sent %d of the %d bytes of %s", offset+n, desc.Size, in.part))
	}
	return n, nil
}

// transfer reads a blob that comes or goes, reports progress and notices when nothing
// moves.
type transfer struct {
	in       io.Reader
	progress Progress
	part     string
	stage    string
	at, size int64
	told     int64
	seen     atomic.Int64
}

// Read implements io.Reader.
func (r *transfer) Read(p []byte) (int, error) {
	n, err := r.in.Read(p)
	r.at += int64(n)
	r.seen.Add(int64(n))
	if r.at-r.told >= progressStep/4 || r.at == r.size && r.told != r.at {
		r.told = r.at
		r.progress.report(r.part, r.stage, r.at, r.size)
	}
	return n, err
}

// leastBytes is what must move within every stall time: a registry that sends or takes
// byte by byte is as good as dead.
const leastBytes = 4 << 10

var errStalled = errors.New("the registry has stopped sending or taking data; try again, what is done is kept")

// watch cancels the transfer when too little moves within every stall time. What has
// moved as a whole is no concern of it any more.
func (r *transfer) watch(stall time.Duration, cancel context.CancelCauseFunc) (stop func()) {
	done := make(chan struct{})
	go func() {
		tick := time.NewTicker(stall)
		defer tick.Stop()
		last := int64(0)
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				now := r.seen.Load()
				if now-last < leastBytes && now < r.size {
					cancel(errStalled)
					return
				}
				last = now
			}
		}
	}()
	return func() { close(done) }
}

// remoteError gives an error of the registry client its kind and a way out.
func remoteError(ctx context.Context, err error) error {
	var known *api.Error
	var status remoteerrors.ErrUnexpectedStatus
	var dns *net.DNSError
	var slow net.Error
	var dial *net.OpError // which says more itself
	cause := context.Cause(ctx)
	switch {
	case errors.As(err, &known):
		return known
	case errors.Is(cause, errStalled), errors.As(err, &slow) && slow.Timeout() && !errors.As(err, &dial):
		return api.E("", api.Unavailable, "", errStalled)
	case ctx.Err() != nil:
		return api.E("", api.Canceled, "", ctx.Err())
	case errors.Is(err, docker.ErrInvalidAuthorization), errors.As(err, &status) && (status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden):
		return denied(status)
	case errdefs.IsNotFound(err):
		return api.E("", api.NotFound, "", errors.New("the registry has no such image or tag; check the name"))
	case errors.As(err, &dns):
		return api.E("", api.Unavailable, "", fmt.Errorf("the registry's host %s is unknown; check the name and the network", dns.Name))
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return api.E("", api.Unavailable, "", errors.New("the registry speaks plain http only; allow that with --insecure if you trust the network"))
	case strings.Contains(err.Error(), "x509:"):
		return api.E("", api.Unavailable, "", fmt.Errorf("the registry's certificate is not trusted: %w; allow that with --insecure", err))
	}
	return api.E("", api.Unavailable, "", fmt.Errorf("the registry cannot be reached: %w; check the name and the network", err))
}

// denied is the error of what a registry denies; it may say why (distribution-spec, "Error
// Codes").
func denied(status remoteerrors.ErrUnexpectedStatus) error {
	var said struct {
		Errors []struct {
			Message string `json:"message"`
		} `json:"errors"`
	}
	if status.StatusCode == http.StatusForbidden && json.Unmarshal(status.Body, &said) == nil && len(said.Errors) > 0 && said.Errors[0].Message != "" {
		return api.E("", api.Denied, "", fmt.Errorf("the registry denies access: %.500s", api.OneLine(said.Errors[0].Message)))
	}
	return api.E("", api.Denied, "", errors.New("the registry denies access, or has no such image; check the name, or log in with docker login"))
}
