package store

import (
	"context"
	"strings"
	"sync"
)

// Hub hands committed changes to watchers. It is the part of Watch that every
// driver within one process needs. The zero value is ready.
type Hub struct {
	mu       sync.Mutex
	watchers map[*watcher]struct{}
	closed   bool
}

type watcher struct {
	prefix string
	ch     chan Change
}

// Watch registers a watcher; see Store.Watch.
func (h *Hub) Watch(ctx context.Context, prefix string) (<-chan Change, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, ErrClosed
	}
	w := &watcher{prefix: prefix, ch: make(chan Change, WatchBuffer)}
	if h.watchers == nil {
		h.watchers = make(map[*watcher]struct{})
	}
	h.watchers[w] = struct{}{}
	context.AfterFunc(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.drop(w)
	})
	return w.ch, nil
}

// Publish hands changes to every watcher, in order. The caller holds the lock
// that orders commits. A watcher that is full is dropped rather than waited
// for: a slow reader must not stop a commit.
func (h *Hub) Publish(changes []Change) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watchers {
		for _, c := range changes {
			if !strings.HasPrefix(c.Key, w.prefix) {
				continue
			}
			select {
			case w.ch <- c:
				continue
			default:
			}
			h.drop(w)
			break
		}
	}
}

// Close drops all watchers and refuses new ones.
func (h *Hub) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for w := range h.watchers {
		h.drop(w)
	}
}

// drop is called with mu held; it may be called twice for one watcher.
func (h *Hub) drop(w *watcher) {
	if _, ok := h.watchers[w]; ok {
		delete(h.watchers, w)
		close(w.ch)
	}
}
