// Package server is what berth-lazy does: see package lazy.
package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/image/lazy"
)

// The descriptors that a server is given beside the standard ones: that of FUSE, and the
// first of the files.
const (
	device    = 3
	firstFile = 4
)

// streams is how many layers are fetched behind at a time.
const streams = 4

// memory is what the runtime tries to stay within, in bytes.
const memory = 128 << 20

// Run reads a request from in, answers it to out, and serves until nothing is mounted of
// the filesystem any more, or it is told to end and no layer is open. An error has been answered.
func Run(ctx context.Context, in io.Reader, out io.Writer) error {
	debug.SetMemoryLimit(memory)
	signal.Ignore(syscall.SIGPIPE) // who started this may be gone: it serves all the same
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var q lazy.Request
	err := json.NewDecoder(in).Decode(&q)
	var all []*served
	if err == nil {
		all, err = prepare(ctx, &q)
	}
	var answer lazy.Answer
	if err != nil {
		answer = lazy.Answer{Kind: api.KindOf(err), Error: err.Error()}
		return json.NewEncoder(out).Encode(answer)
	}
	use := &use{ended: make(chan struct{})}
	fuse, err := serveFUSE(fmt.Sprintf("/dev/fd/%d", device), all, use)
	if err != nil {
		return json.NewEncoder(out).Encode(lazy.Answer{Kind: api.Internal, Error: err.Error()})
	}
	go fetchAll(ctx, all)
	err = json.NewEncoder(out).Encode(answer)
	unmounted := make(chan struct{})
	go func() {
		fuse.Wait()
		close(unmounted)
	}()
	select {
	case <-unmounted:
	case <-use.ended:
	}
	return err // the end of the process cuts off what is being fetched
}

// prepare makes the layers ready to be shown.
func prepare(ctx context.Context, q *lazy.Request) ([]*served, error) {
	known := func(host string) (user, secret string, err error) {
		c := q.Credentials[host]
		return c.User, c.Secret, nil
	}
	// What only root can read, as keys of clients, is read before that is given up.
	parts, err := image.OpenParts(ctx, q.Ref, image.Options{Hosts: q.Hosts, Insecure: q.InsecureHosts, Stall: q.Stall}, image.Access{Insecure: q.Insecure}, known)
	if err != nil {
		return nil, err
	}
	if err := renounce(q.User); err != nil {
		return nil, err
	}
	all, shared, cache := make([]*served, len(q.Layers)), newTraffic(), newCache()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(streams)
	for i, l := range q.Layers {
		file := os.NewFile(uintptr(firstFile+2*i), l.Digest.Encoded())
		image := os.NewFile(uintptr(firstFile+2*i+1), l.Digest.Encoded()+".erofs")
		g.Go(func() error {
			b, err := newBlob(shared, file, l.Size, layerParts{parts, l})
			if err == nil {
				all[i], err = open(ctx, q, l, b, image, cache)
			}
			if err != nil {
				return api.E("", api.KindOf(err), "", fmt.Errorf("layer %.12s: %w", l.Digest.Encoded(), err))
			}
			return nil
		})
	}
	return all, g.Wait()
}

// open reads the table of contents of a layer.
func open(ctx context.Context, q *lazy.Request, l lazy.Layer, b *blob, image *os.File, cache *cache) (*served, error) {
	resumed, _ := b.progress()
	toc, end, err := readTOC(ctx, b, l.TOC)
	if err != nil && api.KindOf(err) != api.Unavailable && resumed > 0 { // or a crash has left less than there seems to be
		b.forget(0, b.size)
		toc, end, err = readTOC(ctx, b, l.TOC)
	}
	if err != nil {
		return nil, err
	}
	c, err := outline(ctx, image, toc, end, q.Limits)
	return &served{Layer: l, view: &view{contents: c, blob: b, outline: image, cache: cache}, resumed: resumed > 0}, err
}

// layerParts is a layer's source.
type layerParts struct {
	*image.Parts
	layer lazy.Layer
}

func (p layerParts) read(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
	return p.Read(ctx, ocispec.Descriptor{MediaType: p.layer.Type, Digest: p.layer.Digest, Size: p.layer.Size}, offset, length)
}

// renounce becomes a user without rights, and sees to it that there is no way back.
func renounce(user int) error {
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); errno != 0 {
		return os.NewSyscallError("no_new_privs", errno)
	}
	if user == 0 {
		return nil
	}
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(user), syscall.Setuid(user)); err != nil {
		return fmt.Errorf("become user %d: %w", user, err)
	}
	return nil
}

// served is a layer that is served.
type served struct {
	lazy.Layer
	view    *view
	resumed bool // some of it is of an earlier server, before a crash perhaps

	mu    sync.Mutex
	whole bool  // all of it is here, and what it should be as far as is known here
	lost  error // it is not, and will not be
}

// status returns how far the layer has come.
func (s *served) status() lazy.LayerStatus {
	arrived, problem := s.view.blob.progress()
	s.mu.Lock()
	defer s.mu.Unlock()
	st := lazy.LayerStatus{Digest: s.Digest, Size: s.Size, Here: arrived, Whole: s.whole}
	if problem = errors.Join(problem, s.lost); problem != nil {
		st.Error = api.OneLine(problem.Error())
	}
	return st
}

// fetchAll fetches what is absent of all layers: first of each what is wanted first, as
// its builder found out.
func fetchAll(ctx context.Context, all []*served) {
	each := func(do func(*served)) {
		var g errgroup.Group
		g.SetLimit(streams)
		for _, s := range all {
			g.Go(func() error { do(s); return nil })
		}
		_ = g.Wait() // none fails
	}
	each(func(s *served) { s.view.blob.fetchBehind(ctx, s.view.first) })
	each(func(s *served) { s.complete(ctx) })
}

// complete fetches all of a layer. What a crash has left of it is fetched anew where the
// whole is not what it should be.
func (s *served) complete(ctx context.Context) {
	b := s.view.blob
	b.fetchBehind(ctx, b.size)
	if ctx.Err() != nil {
		return
	}
	var lost error
	if s.resumed {
		sound, err := b.sound(s.Digest)
		if lost = err; err == nil && !sound {
			b.forget(0, b.size)
			if b.fetchBehind(ctx, b.size); ctx.Err() != nil {
				return
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.whole, s.lost = lost == nil, lost
}
