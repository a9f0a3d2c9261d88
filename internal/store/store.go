// Package store keeps the wanted state of Berth: small records under
// hierarchical keys, with revisions, transactions and watch.
//
// # Words
//
// A key is a path such as "instances/4f2a…". A value is opaque bytes (JSON, by
// custom). The revision is a counter of the whole store: every committed
// Update that changed something raises it by one, and stamps the entries it
// wrote. It never falls, not even across a restart.
//
// # Transactions
//
// Update runs a function on a consistent view and commits what it wrote in
// one step: after a crash either all of it is there or none. The function may
// run more than once (a store of several hosts retries on conflict), so it
// must not act on anything outside its transaction. When it returns an error
// nothing is written and Update returns that error unchanged.
//
// Facts that die with a boot (pids, sockets) do not belong here.
//
// Drivers: mem for tests, bolt for one host. They pass one suite: storetest.
package store

import (
	"context"
	"errors"
)

// ErrClosed is returned by every method after Close.
var ErrClosed = errors.New("the store is closed")

// Store is a transactional key-value store. All methods may be called
// concurrently.
type Store interface {
	// View runs f on a consistent snapshot.
	View(ctx context.Context, f func(Reader) error) error

	// Update runs f and commits what it wrote, durably, before it returns.
	Update(ctx context.Context, f func(Writer) error) error

	// Watch sends every change below prefix that is committed after Watch
	// returned, in order of revision. The channel is closed when ctx ends, the
	// store closes, or the reader falls behind by more than WatchBuffer
	// changes: then it lists anew and watches again.
	Watch(ctx context.Context, prefix string) (<-chan Change, error)

	// Close ends all watches. It waits for transactions under way.
	Close() error
}

// WatchBuffer is how many changes a watcher may be behind.
const WatchBuffer = 256

// Reader reads within a transaction. Byte slices are the caller's to keep.
type Reader interface {
	// Get returns the entry of key, and whether there is one.
	Get(key string) (Entry, bool, error)
	// List returns the entries whose key begins with prefix, ordered by key.
	List(prefix string) ([]Entry, error)
}

// Writer writes within a transaction and reads its own writes.
type Writer interface {
	Reader
	// Put writes the value of key. The empty key is refused.
	Put(key string, value []byte) error
	// Delete removes key; a missing key is no error.
	Delete(key string) error
}

// Entry is a key, its value, and the revision that last wrote it. Within a
// transaction, entries that it wrote itself carry the revision it will commit.
type Entry struct {
	Key      string
	Value    []byte
	Revision int64
}

// Change is a committed write. A deleted entry has a nil Value.
type Change struct {
	Entry
	Deleted bool
}
