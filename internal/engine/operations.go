package engine

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/berthcloud/berth/api"
)

// operationsKept is how many ended operations stay visible.
const operationsKept = 100

// operations holds work that takes longer than a request should. Operations
// do not survive the daemon: what they had done by then is found again by
// their next try.
type operations struct {
	mu   sync.Mutex
	byID map[string]*operation
}

type operation struct {
	cancel  context.CancelFunc
	mu      sync.Mutex
	op      api.Operation
	changed chan struct{} // closed and renewed at every change
}

func newOperations() *operations { return &operations{byID: make(map[string]*operation)} }

// begin starts f as an operation. It goes on when the caller's request ends.
func (e *Engine) begin(kind, name string, f func(ctx context.Context, report func(api.Progress)) (result string, err error)) (api.Operation, error) {
	ctx, cancel := context.WithCancel(e.ctx)
	o := &operation{cancel: cancel, changed: make(chan struct{})}
	o.op = api.Operation{ID: rand.Text()[:16], Kind: kind, Name: name, Started: time.Now().UTC()}
	e.ops.add(o)
	e.work.Go(func() {
		defer cancel()
		result, err := f(ctx, o.report)
		o.end(result, err)
		if err == nil {
			e.announce("image", kind, result)
		}
	})
	return o.snapshot(), nil
}

func (s *operations) add(o *operation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byID[o.op.ID] = o
	if len(s.byID) <= operationsKept {
		return
	}
	var oldest *operation
	for _, other := range s.byID {
		if other.snapshot().Done && (oldest == nil || other.op.Started.Before(oldest.op.Started)) {
			oldest = other
		}
	}
	if oldest != nil {
		delete(s.byID, oldest.op.ID)
	}
}

func (s *operations) get(id string) (*operation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o, ok := s.byID[id]; ok {
		return o, nil
	}
	return nil, api.E("", api.NotFound, id, errors.New("no such operation; it may have ended long ago"))
}

func (s *operations) cancelAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.byID {
		o.cancel()
	}
}

func (o *operation) snapshot() api.Operation {
	o.mu.Lock()
	defer o.mu.Unlock()
	op := o.op
	op.Progress = slices.Clone(op.Progress)
	return op
}

// report keeps the latest progress of each part, in order of appearance.
// Lines of text are parts of their own, of which the last are kept.
func (o *operation) report(p api.Progress) {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := slices.IndexFunc(o.op.Progress, func(have api.Progress) bool { return have.Part == p.Part })
	if i < 0 {
		o.op.Progress = append(o.op.Progress, p)
	} else {
		o.op.Progress[i] = p
	}
	o.notify()
}

func (o *operation) end(result string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.op.Done, o.op.Result = true, result
	if err != nil {
		o.op.Error = api.ProblemOf(err)
	}
	o.notify()
}

// notify is called with mu held.
func (o *operation) notify() {
	close(o.changed)
	o.changed = make(chan struct{})
}

// Operation returns an operation.
func (e *Engine) Operation(_ context.Context, id string) (api.Operation, error) {
	o, err := e.ops.get(id)
	if err != nil {
		return api.Operation{}, err
	}
	return o.snapshot(), nil
}

// Operations returns the operations under way and those that ended lately,
// oldest first.
func (e *Engine) Operations(context.Context) ([]api.Operation, error) {
	e.ops.mu.Lock()
	defer e.ops.mu.Unlock()
	var list []api.Operation
	for _, o := range e.ops.byID {
		list = append(list, o.snapshot())
	}
	slices.SortFunc(list, func(a, b api.Operation) int {
		return cmp.Or(a.Started.Compare(b.Started), cmp.Compare(a.ID, b.ID))
	})
	return list, nil
}

// CancelOperation asks an operation to end. One that has ended is left alone.
func (e *Engine) CancelOperation(_ context.Context, id string) error {
	o, err := e.ops.get(id)
	if err != nil {
		return err
	}
	o.cancel()
	return nil
}

// WatchOperation calls f with the operation now and after each change, the
// last time when it is done.
func (e *Engine) WatchOperation(ctx context.Context, id string, f func(api.Operation) error) error {
	o, err := e.ops.get(id)
	if err != nil {
		return err
	}
	for {
		o.mu.Lock()
		changed := o.changed
		o.mu.Unlock()
		op := o.snapshot()
		if err := f(op); err != nil || op.Done {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
