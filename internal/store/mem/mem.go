// Package mem is a store in memory, for tests and for daemons that shall
// forget.
package mem

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/berthcloud/berth/internal/store"
)

// Store implements store.Store.
type Store struct {
	mu       sync.RWMutex // held for the whole of a transaction
	entries  map[string]store.Entry
	revision int64
	closed   bool
	hub      store.Hub
}

// New returns an empty store.
func New() *Store { return &Store{entries: make(map[string]store.Entry)} }

// View implements store.Store.
func (s *Store) View(ctx context.Context, f func(store.Reader) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return store.ErrClosed
	}
	return f(&tx{entries: s.entries})
}

// Update implements store.Store.
func (s *Store) Update(ctx context.Context, f func(store.Writer) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return store.ErrClosed
	}
	t := &tx{entries: maps.Clone(s.entries), revision: s.revision + 1}
	if err := f(t); err != nil {
		return err
	}
	if len(t.changes) == 0 {
		return nil
	}
	s.entries, s.revision = t.entries, t.revision
	s.hub.Publish(t.changes)
	return nil
}

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, prefix string) (<-chan store.Change, error) {
	return s.hub.Watch(ctx, prefix)
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.hub.Close()
	return nil
}

type tx struct {
	entries  map[string]store.Entry
	revision int64
	changes  []store.Change
}

func (t *tx) Get(key string) (store.Entry, bool, error) {
	e, ok := t.entries[key]
	e.Value = bytes.Clone(e.Value)
	return e, ok, nil
}

func (t *tx) List(prefix string) ([]store.Entry, error) {
	var list []store.Entry
	for key, e := range t.entries {
		if strings.HasPrefix(key, prefix) {
			e.Value = bytes.Clone(e.Value)
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b store.Entry) int { return cmp.Compare(a.Key, b.Key) })
	return list, nil
}

func (t *tx) Put(key string, value []byte) error {
	if key == "" {
		return errors.New("a key cannot be empty")
	}
	e := store.Entry{Key: key, Value: append([]byte{}, value...), Revision: t.revision}
	t.entries[key] = e
	t.changes = append(t.changes, store.Change{Entry: e})
	return nil
}

func (t *tx) Delete(key string) error {
	if _, ok := t.entries[key]; !ok {
		return nil
	}
	delete(t.entries, key)
	t.changes = append(t.changes, store.Change{Entry: store.Entry{Key: key, Revision: t.revision}, Deleted: true})
	return nil
}
