// Package bolt is the store of a single host: one bbolt file.
//
// The file has two buckets. "entries" maps each key to eight bytes of revision
// (big endian) and the value. "meta" holds the store's revision. bbolt writes
// a transaction by copy-on-write and syncs before it switches the root page,
// so that kill -9 or a power cut leaves the old state or the new one.
package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/berthcloud/berth/internal/store"
	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

var (
	bucketEntries = []byte("entries")
	bucketMeta    = []byte("meta")
	keyRevision   = []byte("revision")
)

// Store implements store.Store.
type Store struct {
	db  *bbolt.DB
	hub store.Hub

	mu sync.Mutex // orders commits, so that watchers see revisions rise
}

// Open opens or makes the store in file path. Another process that has it open
// is waited for no longer than a second.
func Open(path string) (*Store, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fmt.Errorf("%s is in use by another berthd; stop it, or choose another --root", path)
	}
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucketEntries)
		if err != nil {
			return err
		}
		_, err = tx.CreateBucketIfNotExists(bucketMeta)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &Store{db: db}, nil
}

// View implements store.Store.
func (s *Store) View(ctx context.Context, f func(store.Reader) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return closed(s.db.View(func(btx *bbolt.Tx) error {
		return f(&tx{entries: btx.Bucket(bucketEntries)})
	}))
}

// Update implements store.Store.
func (s *Store) Update(ctx context.Context, f func(store.Writer) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	btx, err := s.db.Begin(true)
	if err != nil {
		return closed(err)
	}
	defer btx.Rollback() //nolint:errcheck // after a commit it has nothing to do
	meta := btx.Bucket(bucketMeta)
	t := &tx{entries: btx.Bucket(bucketEntries), revision: revisionOf(meta.Get(keyRevision)) + 1}
	if err := f(t); err != nil {
		return err
	}
	if len(t.changes) == 0 {
		return nil
	}
	if err := meta.Put(keyRevision, binary.BigEndian.AppendUint64(nil, uint64(t.revision))); err != nil {
		return err
	}
	if err := btx.Commit(); err != nil {
		return err
	}
	s.hub.Publish(t.changes)
	return nil
}

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, prefix string) (<-chan store.Change, error) {
	return s.hub.Watch(ctx, prefix)
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.hub.Close()
	return s.db.Close()
}

func closed(err error) error {
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return store.ErrClosed
	}
	return err
}

func revisionOf(b []byte) int64 {
	if len(b) < 8 {
		return 0
	}
	return int64(binary.BigEndian.Uint64(b))
}

type tx struct {
	entries  *bbolt.Bucket
	revision int64
	changes  []store.Change
}

func entry(key, raw []byte) (store.Entry, error) {
	if len(raw) < 8 {
		return store.Entry{}, fmt.Errorf("the record %q of the store is cut short", key)
	}
	return store.Entry{Key: string(key), Value: bytes.Clone(raw[8:]), Revision: revisionOf(raw)}, nil
}

func (t *tx) Get(key string) (store.Entry, bool, error) {
	raw := t.entries.Get([]byte(key))
	if raw == nil {
		return store.Entry{}, false, nil
	}
	e, err := entry([]byte(key), raw)
	return e, err == nil, err
}

func (t *tx) List(prefix string) ([]store.Entry, error) {
	var list []store.Entry
	c := t.entries.Cursor()
	p := []byte(prefix)
	for k, raw := c.Seek(p); k != nil && bytes.HasPrefix(k, p); k, raw = c.Next() {
		e, err := entry(k, raw)
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

func (t *tx) Put(key string, value []byte) error {
	if key == "" {
		return errors.New("a key cannot be empty")
	}
	raw := append(binary.BigEndian.AppendUint64(nil, uint64(t.revision)), value...)
	if err := t.entries.Put([]byte(key), raw); err != nil {
		return err
	}
	t.changes = append(t.changes, store.Change{Entry: store.Entry{Key: key, Value: raw[8:], Revision: t.revision}})
	return nil
}

func (t *tx) Delete(key string) error {
	if t.entries.Get([]byte(key)) == nil {
		return nil
	}
	if err := t.entries.Delete([]byte(key)); err != nil {
		return err
	}
	t.changes = append(t.changes, store.Change{Entry: store.Entry{Key: key, Revision: t.revision}, Deleted: true})
	return nil
}
