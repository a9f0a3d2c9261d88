package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
)

// uploader puts blobs into one repository of a registry. containerd's pusher, which sends
// manifests, begins a blob anew where a connection broke; this one asks the registry how
// far it came, and goes on (distribution-spec, "Pushing a blob in chunks").
type uploader struct {
	host  docker.RegistryHost
	repo  string
	stall time.Duration
}

// newUploader returns one for the repository in a full name.
func (s *Store) newUploader(ctx context.Context, full string, opt Access, g *guard) (*uploader, error) {
	named, err := reference.ParseNormalizedNamed(full)
	if err != nil {
		return nil, err
	}
	hosts, err := s.hosts(ctx, opt, g)(reference.Domain(named))
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(hosts, func(h docker.RegistryHost) bool { return h.Capabilities.Has(docker.HostCapabilityPush) })
	if i < 0 {
		return nil, api.E("", api.Unsupported, "", fmt.Errorf("nothing may be pushed to %s, as its hosts.toml says", reference.Domain(named)))
	}
	return &uploader{host: hosts[i], repo: reference.Path(named), stall: s.opt.Stall}, nil
}

const (
	// uploadTries is how often an upload may fail with uploadStep bytes, or fewer, that
	// arrived since the last failure.
	uploadTries = 6
	uploadStep  = 8 << 20
	// uploadWait is how long the first of these tries waits, each next one twice as long:
	// a registry may notice late that a connection has gone, or be starting again.
	uploadWait = 100 * time.Millisecond
	// wholeUpload is the size in bytes up to which a blob is sent in one request, and
	// anew: that is a request less.
	wholeUpload = 4 << 20
)

var (
	errExists = errors.New("the registry has it already")
	errLost   = errors.New("the registry has lost track of an upload")
)

// uploading is one blob on its way.
type uploading struct {
	*uploader
	desc     ocispec.Descriptor
	mount    string // a repository of this registry that has the blob, or ""
	from     io.ReaderAt
	progress Progress
	cancel   context.CancelCauseFunc

	location *url.URL // nil: to be begun
	offset   int64    // bytes that the registry has
	unsure   bool     // it is to be asked how many
	whole    bool     // in one request
}

// put sends a blob that the registry has not, and else returns errExists.
func (u *uploader) put(ctx context.Context, desc ocispec.Descriptor, from io.ReaderAt, labels map[string]string, progress Progress) error {
	ctx, cancel := context.WithCancelCause(docker.WithScope(context.WithValue(ctx, uploadKey{}, true), "repository:"+u.repo+":pull,push"))
	defer cancel(nil)
	resp, err := u.do(ctx, http.MethodHead, u.path("blobs", desc.Digest.String()), nil)
	if err != nil {
		return remoteError(ctx, err)
	}
	resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return errExists
	case http.StatusNotFound:
	default:
		return remoteError(ctx, remoteerrors.NewUnexpectedStatusErr(resp))
	}
	t := &uploading{uploader: u, desc: desc, mount: u.elsewhere(labels), from: from, progress: progress, cancel: cancel, whole: desc.Size <= wholeUpload}
	err = t.run(ctx)
	if errors.Is(err, errExists) {
		return err
	}
	if err != nil {
		return remoteError(ctx, err)
	}
	return nil
}

// elsewhere returns another repository of the registry in which a blob was found.
func (u *uploader) elsewhere(labels map[string]string) string {
	for key := range maps.Keys(sources(labels)) {
		if !strings.HasSuffix(key, "."+hostname(u.host.Host)) && !(u.host.Host == hubHost && strings.HasSuffix(key, ".docker.io")) {
			continue
		}
		for repo := range strings.SplitSeq(labels[key], ",") {
			if repo != u.repo {
				return repo
			}
		}
	}
	return ""
}

// run sends the blob, and goes on where it broke off. It is bounded: by uploadTries where
// little arrives, and by the blob's size where much does.
func (t *uploading) run(ctx context.Context) error {
	last, wait := int64(0), uploadWait
	for try := 1; ; try++ {
		err := t.ask(ctx)
		if t.offset-last > uploadStep {
			last, try, wait = t.offset, 1, uploadWait
		}
		if err == nil {
			err = t.once(ctx)
		}
		var status remoteerrors.ErrUnexpectedStatus
		if errors.As(err, &status) && !t.whole && t.offset == 0 && takesNoChunks(status) {
			t.whole, t.location = true, nil
			err = t.once(ctx)
		}
		switch {
		case err == nil || errors.Is(err, errExists) || ctx.Err() != nil || !passes(err):
			return err
		case try >= uploadTries && errors.Is(err, errLost):
			return api.E("", api.Unavailable, "", err)
		case try >= uploadTries:
			return err
		}
		t.unsure = true
		select {
		case <-time.After(wait):
			wait *= 2
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// takesNoChunks reports whether a registry may have refused a chunk because it takes blobs
// whole alone.
func takesNoChunks(s remoteerrors.ErrUnexpectedStatus) bool {
	switch s.StatusCode {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusLengthRequired,
		http.StatusUnsupportedMediaType, http.StatusRequestedRangeNotSatisfiable, http.StatusNotImplemented:
		return s.RequestMethod == http.MethodPatch
	}
	return false
}

// passes reports whether an error may be another time: of the connection, or of a registry
// that is busy or has lost the thread.
func passes(err error) bool {
	var known *api.Error
	var status remoteerrors.ErrUnexpectedStatus
	switch {
	case errors.As(err, &known), errors.Is(err, docker.ErrInvalidAuthorization):
		return false
	case errors.As(err, &status):
		switch status.StatusCode {
		case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return true
		case http.StatusNotFound, http.StatusRequestedRangeNotSatisfiable:
			return status.RequestMethod == http.MethodPatch
		}
		return false
	}
	return !strings.Contains(err.Error(), "x509:")
}

// once goes on with the upload from where it is to its end.
func (t *uploading) once(ctx context.Context) error {
	if t.location == nil {
		t.offset = 0
		if err := t.begin(ctx); err != nil {
			return err
		}
	}
	for t.offset < t.desc.Size && !t.whole {
		if err := t.chunk(ctx); err != nil {
			return err
		}
	}
	return t.end(ctx)
}

// begin has the registry take the blob from a repository that has it, or begin an upload.
func (t *uploading) begin(ctx context.Context) error {
	to := t.path("blobs", "uploads") + "/"
	if t.mount != "" {
		query := url.Values{"mount": {t.desc.Digest.String()}, "from": {t.mount}}
		err := t.post(docker.ContextWithAppendPullRepositoryScope(ctx, t.mount), to+"?"+query.Encode())
		t.mount = "" // once is enough: it may be that its repository is another's
		var status remoteerrors.ErrUnexpectedStatus
		if err == nil || !errors.As(err, &status) && !errors.Is(err, docker.ErrInvalidAuthorization) {
			return err
		}
	}
	return t.post(ctx, to)
}

func (t *uploading) post(ctx context.Context, to string) error {
	resp, err := t.do(ctx, http.MethodPost, to, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusCreated:
		return errExists
	case http.StatusOK, http.StatusAccepted, http.StatusNoContent:
		return t.moved(resp, true)
	}
	return remoteerrors.NewUnexpectedStatusErr(resp)
}

// moved notes where the upload is from now on. A registry need not say it again.
func (t *uploading) moved(resp *http.Response, must bool) error {
	text := resp.Header.Get("Location")
	if text == "" && !must {
		return nil
	}
	to, err := resp.Request.URL.Parse(text)
	if err != nil || text == "" || to.Scheme != "https" && to.Scheme != "http" {
		return api.E("", api.Unavailable, "", fmt.Errorf("the registry wants the upload sent to %.100q, which is no URL", text))
	}
	t.location = to
	return nil
}

// chunk sends what is left of the blob, in one chunk.
func (t *uploading) chunk(ctx context.Context) error {
	in, header := t.body(t.offset), http.Header{}
	if t.offset > 0 { // the first is a stream, as docker's client sends it: every registry takes that
		header.Set("Content-Range", fmt.Sprintf("%d-%d", t.offset, t.desc.Size-1))
	}
	defer in.watch(t.stall, t.cancel)()
	resp, err := t.do(ctx, http.MethodPatch, t.location.String(), header, in.begin)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted && resp.StatusCode != http.StatusNoContent && resp.StatusCode != http.StatusCreated {
		return remoteerrors.NewUnexpectedStatusErr(resp)
	}
	before := t.offset
	t.offset = t.desc.Size
	if text := resp.Header.Get("Range"); text != "" {
		if t.offset, err = t.arrived(text); err != nil {
			return err
		}
	}
	if t.offset <= before {
		return fmt.Errorf("%w: it took a chunk and has %d bytes of %d all the same", errLost, t.offset, t.desc.Size)
	}
	return t.moved(resp, false)
}

var uploadedRange = regexp.MustCompile(`^(?:bytes=)?0-([0-9]{1,18})$`)

// arrived reads how many bytes a registry has. "0-0" is none: one byte is sent whole.
func (t *uploading) arrived(text string) (int64, error) {
	m := uploadedRange.FindStringSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("%w: it says that it has the bytes %.40q", errLost, text)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if n > 0 {
		n++
	}
	if err != nil || n > t.desc.Size {
		return 0, fmt.Errorf("%w: it says that it has %d bytes of %d", errLost, n, t.desc.Size)
	}
	return n, nil
}

// ask finds out how much of an upload has arrived that broke off. Where that is not to be
// known, the upload is to be begun anew; where the registry does not answer now, it fails.
func (t *uploading) ask(ctx context.Context) error {
	to := t.location
	if !t.unsure || to == nil {
		return nil
	}
	t.unsure, t.location = false, nil
	if t.whole {
		return nil
	}
	resp, err := t.do(context.WithValue(ctx, uploadKey{}, nil), http.MethodGet, to.String(), nil)
	if err != nil {
		t.unsure, t.location = true, to
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent && resp.StatusCode != http.StatusOK {
		if err := remoteerrors.NewUnexpectedStatusErr(resp); passes(err) {
			t.unsure, t.location = true, to
			return err
		}
		return nil
	}
	if n, err := t.arrived(resp.Header.Get("Range")); err == nil {
		t.location, t.offset = to, n
		return t.moved(resp, false)
	}
	return nil
}

// end has the registry make a blob of what it has; or of all, if it is to come in one
// request.
func (t *uploading) end(ctx context.Context) error {
	to := *t.location
	query := to.Query()
	query.Set("digest", t.desc.Digest.String())
	to.RawQuery = query.Encode()
	in := t.body(0)
	var body []func() (io.ReadCloser, int64)
	if t.whole {
		defer in.watch(t.stall, t.cancel)()
		body = append(body, in.begin)
	}
	resp, err := t.do(ctx, http.MethodPut, to.String(), http.Header{}, body...)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusNoContent && resp.StatusCode != http.StatusOK {
		return remoteerrors.NewUnexpectedStatusErr(resp)
	}
	return nil
}

// outgoing is a part of a blob, which may be sent several times.
type outgoing struct {
	transfer // what is watched: the sum of all times
	from     io.ReaderAt
}

func (t *uploading) body(offset int64) *outgoing {
	o := &outgoing{transfer: transfer{progress: t.progress, part: short(t.desc.Digest), stage: StageUploading, at: offset, told: offset, size: t.desc.Size}, from: t.from}
	o.seen.Store(offset)
	return o
}

// begin returns what is to be sent, and its size. It shares nothing with what it returned
// before, which may be read for a moment longer, but the sum.
func (o *outgoing) begin() (io.ReadCloser, int64) {
	left := o.size - o.at
	one := &transfer{in: io.NewSectionReader(o.from, o.at, left), progress: o.progress, part: o.part, stage: o.stage, at: o.at, told: o.told, size: o.size}
	return io.NopCloser(io.TeeReader(one, tally{&o.seen})), left
}

// tally counts bytes.
type tally struct{ n *atomic.Int64 }

func (t tally) Write(p []byte) (int, error) {
	t.n.Add(int64(len(p)))
	return len(p), nil
}

func (u *uploader) path(parts ...string) string {
	return u.host.Scheme + "://" + u.host.Host + u.host.Path + "/" + u.repo + "/" + strings.Join(parts, "/")
}

// do sends a request, once more where the registry asks who sends it. Credentials go to the
// registry alone, and not to where it may have led.
func (u *uploader) do(ctx context.Context, method, to string, header http.Header, body ...func() (io.ReadCloser, int64)) (*http.Response, error) {
	var asked []*http.Response
	for {
		req, err := http.NewRequestWithContext(ctx, method, to, nil)
		if err != nil {
			return nil, err
		}
		maps.Copy(req.Header, u.host.Header)
		maps.Copy(req.Header, header)
		req.Header.Set("User-Agent", "berth")
		for _, b := range body {
			req.Body, req.ContentLength = b()
			req.GetBody = func() (io.ReadCloser, error) { in, _ := b(); return in, nil }
			req.Header.Set("Content-Type", "application/octet-stream")
		}
		own := req.URL.Host == u.host.Host && req.URL.Scheme == u.host.Scheme
		if own {
			if err := u.host.Authorizer.Authorize(ctx, req); err != nil {
				return nil, err
			}
		}
		resp, err := u.host.Client.Do(req)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode != http.StatusUnauthorized || !own || len(asked) == 4 {
			return resp, nil
		}
		resp.Body.Close()
		asked = append(asked, resp)
		if err := u.host.Authorizer.AddResponses(ctx, asked); err != nil {
			return nil, err
		}
	}
}
