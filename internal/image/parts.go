package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthcloud/berth/api"
)

// Parts reads parts of an image's blobs from its registry, with all that a Pull knows of
// registries. Its methods may be called concurrently.
type Parts struct {
	open  func(context.Context) (remotes.Fetcher, error)
	guard *guard
	stall time.Duration

	mu      sync.Mutex
	fetcher remotes.Fetcher
	failed  bool // so that the registry is looked at anew, which may speak another protocol now
}

// OpenParts returns the parts of the blobs of an image with a full name. Of the options
// Hosts, Insecure and Stall count; credentials are those that known returns for a host.
func OpenParts(ctx context.Context, full string, o Options, access Access, known func(host string) (user, secret string, err error)) (*Parts, error) {
	p := &Parts{guard: newGuard(o.Stall), stall: o.Stall}
	p.open = func(ctx context.Context) (remotes.Fetcher, error) {
		return newResolver(o.hosts(ctx, access, known, p.guard)).Fetcher(ctx, full)
	}
	var err error
	if p.fetcher, err = p.open(ctx); err != nil {
		return nil, remoteError(ctx, err)
	}
	return p, nil
}

// registry returns the client of the registry.
func (p *Parts) registry(ctx context.Context) remotes.Fetcher {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed {
		if f, err := p.open(ctx); err == nil {
			p.guard.close()
			p.fetcher, p.failed = f, false
		}
	}
	return p.fetcher
}

// note has the registry looked at anew after an error.
func (p *Parts) note(err error) error {
	if err != nil && !errors.Is(err, io.EOF) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.failed = true
	}
	return err
}

// Close ends the connections that nothing uses.
func (p *Parts) Close() { p.guard.close() }

// part is which bytes of a blob are wanted.
type part struct{ offset, length int64 }

// partKey marks the context of a request for a part of a blob, and says which.
type partKey struct{}

// errNoParts is that of a registry which sends a blob as a whole or not at all.
var errNoParts = api.E("", api.Unsupported, "", errors.New("the registry does not send parts of a blob"))

// part is RoundTrip for a request for a part of a blob, wherever redirects lead.
func (b boundedTransport) part(req *http.Request, p part) (*http.Response, error) {
	req = req.Clone(req.Context()) // as http.RoundTripper wants it
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", p.offset, p.offset+p.length-1))
	resp, err := b.RoundTripper.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusOK {
		resp.Body.Close()
		return nil, errNoParts
	}
	return resp, err
}

// Read returns a reader of length bytes of a blob, from offset on, which ends with an
// error if the registry sends less, or nothing for Options.Stall.
//
// Errors: Unsupported where the registry knows no parts; those of a Pull.
func (p *Parts) Read(ctx context.Context, blob ocispec.Descriptor, offset, length int64) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(context.WithValue(ctx, partKey{}, part{offset, length}))
	blob.URLs = nil // the registry that was named, and no other host it may name
	rc, err := p.registry(ctx).Fetch(ctx, blob)
	if err == nil {
		_, err = rc.(io.Seeker).Seek(offset, io.SeekStart)
	}
	if err != nil {
		cancel(nil)
		return nil, p.note(remoteError(ctx, err))
	}
	r := &partReader{parts: p, ctx: ctx, rc: rc, cancel: cancel, want: length}
	r.transfer = transfer{in: io.LimitReader(rc, length), size: length}
	r.stop = r.watch(p.stall, cancel)
	return r, nil
}

// partReader reads a part.
type partReader struct {
	transfer
	parts  *Parts
	ctx    context.Context // of the request, which lasts as long as the reader
	rc     io.Closer
	cancel context.CancelCauseFunc
	stop   func() // the watch
	want   int64
}

// Read implements io.Reader.
func (r *partReader) Read(p []byte) (int, error) {
	n, err := r.transfer.Read(p)
	switch {
	case errors.Is(err, io.EOF) && r.at < r.want:
		err = api.E("", api.Unavailable, "", fmt.Errorf("the registry sent %d of %d bytes", r.at, r.want))
	case err != nil && !errors.Is(err, io.EOF):
		err = remoteError(r.ctx, err)
	}
	return n, r.parts.note(err)
}

// Close implements io.Closer.
func (r *partReader) Close() error {
	r.stop()
	r.cancel(nil)
	return r.rc.Close()
}
