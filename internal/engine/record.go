package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/store"
)

const instancePrefix = "instances/"

// find returns the entry that ref names: a name, an id, or a prefix of exactly
// one id. Names win over ids.
func (e *Engine) find(ref string) (*entry, error) {
	e.mu.Lock()
	en, ok := e.byName[ref]
	e.mu.Unlock()
	if ok {
		return en, nil
	}
	return e.findID(ref)
}

// findID returns the entry whose id is, or alone begins with, prefix.
func (e *Engine) findID(prefix string) (*entry, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if en, ok := e.byID[prefix]; ok {
		return en, nil
	}
	var found *entry
	for id, en := range e.byID {
		if prefix == "" || !strings.HasPrefix(id, prefix) {
			continue
		}
		if found != nil {
			return nil, api.E("", api.Invalid, prefix, errors.New("more than one instance's id begins so; give more digits or the name"))
		}
		found = en
	}
	if found == nil {
		return nil, notFound(prefix)
	}
	return found, nil
}

// lockRef begins a lifecycle operation on the instance that ref names.
func (e *Engine) lockRef(ctx context.Context, op, ref string) (*entry, func(), error) {
	en, err := e.find(ref)
	if err != nil {
		return nil, nil, err
	}
	unlock, err := en.lock(ctx)
	return en, unlock, api.E(op, "", ref, err)
}

// change applies f to the record and writes it to the store before anybody
// sees it. Where the store fails, nothing has changed.
func (e *Engine) change(ctx context.Context, en *entry, f func(*record)) error {
	en.mu.Lock()
	defer en.mu.Unlock()
	next := en.rec
	next.Instance = en.rec.public()
	f(&next)
	next.Revision++
	value, err := json.Marshal(next)
	if err != nil {
		return err
	}
	// The end of the caller's request must not undo what has happened.
	err = e.store.Update(context.WithoutCancel(ctx), func(w store.Writer) error {
		return w.Put(instancePrefix+en.id, value)
	})
	if err != nil {
		return api.E("record", api.Exhausted, next.Name, fmt.Errorf("its state could not be written: %w", err))
	}
	en.rec = next
	en.notify()
	return nil
}

// amend applies f to the record in memory alone, for what the next engine would
// find out anew.
func (en *entry) amend(f func(*record)) {
	en.mu.Lock()
	defer en.mu.Unlock()
	f(&en.rec)
	en.notify()
}

// observe is amend for the status.
func (en *entry) observe(f func(*api.Status)) { en.amend(func(r *record) { f(&r.Status) }) }

// forget removes the record from the store and the indexes.
func (e *Engine) forget(ctx context.Context, en *entry) error {
	err := e.store.Update(context.WithoutCancel(ctx), func(w store.Writer) error {
		return w.Delete(instancePrefix + en.id)
	})
	if err != nil {
		return err
	}
	e.unindex(en)
	en.mu.Lock()
	defer en.mu.Unlock()
	en.removed = true
	en.notify()
	return nil
}

// index makes the entry known under its id and name.
func (e *Engine) index(en *entry) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if other, ok := e.byName[en.rec.Name]; ok {
		return nameTaken(en.rec.Name, other.id)
	}
	e.byID[en.id] = en
	e.byName[en.rec.Name] = en
	if en.rec.Users.Size > 0 {
		e.ranges[rangeIndex(en.rec.Users)] = true
	}
	return nil
}

func (e *Engine) unindex(en *entry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.byID, en.id)
	for name, other := range e.byName {
		if other == en {
			delete(e.byName, name)
		}
	}
	if en.rec.Users.Size > 0 {
		delete(e.ranges, rangeIndex(en.rec.Users))
	}
}

func nameTaken(name, id string) error {
	return api.E("create", api.Exists, name, fmt.Errorf("instance %.12s has this name; choose another or 'berth rm' it", id))
}

// loadAll returns all records of the store. A record that cannot be read stops
// the daemon rather than be forgotten: its instance may be running.
func (e *Engine) loadAll(ctx context.Context) ([]record, error) {
	var records []record
	err := e.store.View(ctx, func(r store.Reader) error {
		list, err := r.List(instancePrefix)
		for _, entry := range list {
			var rec record
			if err := json.Unmarshal(entry.Value, &rec); err != nil {
				return api.E("load", api.Corrupt, entry.Key, err)
			}
			records = append(records, rec)
		}
		return err
	})
	return records, err
}
