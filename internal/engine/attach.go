package engine

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// attachTimeout bounds how long a start waits for a client that attached
// before it.
const attachTimeout = 10 * time.Second

// attachment is a client that attached before the start. The start hands it
// the run, and lets the entrypoint go only when it is connected, so that not
// one byte is missed.
type attachment struct {
	run   chan *run  // receives the run, or is closed
	fail  chan error // receives why the start failed
	ready chan struct{}
}

// Attach connects the streams to the entrypoint and returns how the run ended.
// Where the instance does not run, it waits for the next start. It calls ready
// as soon as nothing can be missed: a caller starts the instance after that.
//
// Of an instance that is removed when it ends, Attach returns after the
// removal. One that is suspended is waited for.
func (e *Engine) Attach(ctx context.Context, ref string, s instance.Streams, ready func()) (api.Exit, error) {
	en, err := e.find(ref)
	if err != nil {
		return api.Exit{}, err
	}
	ready = sync.OnceFunc(ready)
	var in *relay
	if s.Stdin != nil && en.instance().Spec.Kind == api.VM {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		in = newRelay(ctx, s.Stdin)
	}
	for {
		r, connected, err := e.awaitRun(ctx, en, ready)
		if err != nil {
			return api.Exit{}, api.E("attach", "", en.name(), err)
		}
		a, ok := r.handle.(instance.Attacher)
		if !ok {
			close(connected)
			return api.Exit{}, cannot("attach", en.instance())
		}
		if in != nil {
			s.Stdin = in.until(r.ended)
		}
		err = a.Attach(ctx, s, sync.OnceFunc(func() { close(connected); ready() }))
		if err != nil {
			return api.Exit{}, api.E("attach", "", en.name(), err)
		}
		exit, err := e.awaitExit(ctx, en, r)
		if err != nil || !r.suspended {
			return exit, err
		}
	}
}

// relay hands a client's input to one run after another.
type relay struct {
	pieces chan []byte
	err    error // why it has ended, once pieces is closed
}

// newRelay reads from r until it ends, or ctx does.
func newRelay(ctx context.Context, r io.Reader) *relay {
	in := &relay{pieces: make(chan []byte)}
	go func() {
		defer close(in.pieces)
		for {
			piece := make([]byte, 32<<10)
			n, err := r.Read(piece)
			if n > 0 {
				select {
				case in.pieces <- piece[:n]:
				case <-ctx.Done():
					err = ctx.Err()
				}
			}
			if err != nil {
				in.err = err
				return
			}
		}
	}()
	return in
}

// until returns what reads from the relay as long as a run does not end.
func (in *relay) until(ended <-chan struct{}) io.Reader { return &relayed{relay: in, ended: ended} }

// relayed is one run's part of the input.
type relayed struct {
	*relay
	ended <-chan struct{}
	left  []byte
}

func (in *relayed) Read(p []byte) (int, error) {
	for len(in.left) == 0 {
		var open bool
		select {
		case in.left, open = <-in.pieces:
			if !open {
				return 0, in.err
			}
		case <-in.ended:
			return 0, io.ErrClosedPipe
		}
	}
	n := copy(p, in.left)
	in.left = in.left[n:]
	return n, nil
}

// awaitRun returns the run to attach to, and a channel to close once attached.
func (e *Engine) awaitRun(ctx context.Context, en *entry, ready func()) (*run, chan struct{}, error) {
	en.mu.Lock()
	if en.run != nil {
		defer en.mu.Unlock()
		return en.run, make(chan struct{}), nil
	}
	a := &attachment{run: make(chan *run, 1), fail: make(chan error, 1), ready: make(chan struct{})}
	en.pending = append(en.pending, a)
	en.mu.Unlock()
	ready()
	select {
	case r := <-a.run:
		return r, a.ready, nil
	case err := <-a.fail:
		return nil, nil, err
	case <-ctx.Done():
	case <-e.ctx.Done():
	}
	en.mu.Lock()
	defer en.mu.Unlock()
	en.pending = slices.DeleteFunc(en.pending, func(other *attachment) bool { return other == a })
	select {
	case <-a.run:
		close(a.ready) // the start must not wait for a client that has gone
	default:
	}
	return nil, nil, context.Canceled
}

// attachPending connects every client that waits for this run. A client that
// does not manage in time fails the start rather than miss output.
func (e *Engine) attachPending(ctx context.Context, en *entry, r *run) error {
	en.mu.Lock()
	pending := en.pending
	en.pending = nil
	for _, a := range pending {
		a.run <- r
	}
	en.mu.Unlock()
	timeout := time.NewTimer(attachTimeout)
	defer timeout.Stop()
	for _, a := range pending {
		select {
		case <-a.ready:
		case <-timeout.C:
			return fmt.Errorf("an attached client did not connect within %v; try again", attachTimeout)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// failPending tells the clients that wait for a start why it failed.
func (en *entry) failPending(cause error) {
	en.mu.Lock()
	defer en.mu.Unlock()
	for _, a := range en.pending {
		a.fail <- cause
	}
	en.pending = nil
}

// awaitExit returns how the run ended once that is recorded.
func (e *Engine) awaitExit(ctx context.Context, en *entry, r *run) (api.Exit, error) {
	select {
	case <-r.ended:
	case <-ctx.Done():
		return api.Exit{}, api.E("attach", "", en.name(), ctx.Err())
	case <-e.ctx.Done():
		return api.Exit{}, api.E("attach", api.Unavailable, en.name(), fmt.Errorf("berthd is shutting down; the instance goes on, attach again later"))
	}
	if en.instance().Spec.AutoRemove && !r.exit.Reboot {
		if err := en.await(ctx, func() bool { return en.removed }); err != nil {
			return api.Exit{}, api.E("attach", "", en.name(), err)
		}
	}
	return r.exit, nil
}
