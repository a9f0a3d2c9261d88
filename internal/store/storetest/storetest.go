// Package storetest is the suite that every driver of package store passes.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/berthcloud/berth/internal/store"
)

// Run tests the stores that open makes. Each call of open returns the store of
// a fresh place; reopen, where not nil, closes that store and opens the same
// place again.
func Run(t *testing.T, open func(t *testing.T) (s store.Store, reopen func() store.Store)) {
	cases := map[string]func(*testing.T, store.Store){
		"PutGetDelete":      testPutGetDelete,
		"ListIsOrdered":     testListIsOrdered,
		"FailureIsUndone":   testFailureIsUndone,
		"ReadsOwnWrites":    testReadsOwnWrites,
		"RevisionsRise":     testRevisionsRise,
		"ValuesAreCopies":   testValuesAreCopies,
		"WatchSeesCommits":  testWatchSeesCommits,
		"SlowWatcherIsLeft": testSlowWatcherIsLeft,
		"UpdatesAreSerial":  testUpdatesAreSerial,
		"Closed":            testClosed,
	}
	for name, f := range cases {
		t.Run(name, func(t *testing.T) {
			s, _ := open(t)
			t.Cleanup(func() { _ = s.Close() })
			f(t, s)
		})
	}
	t.Run("Durable", func(t *testing.T) {
		s, reopen := open(t)
		if reopen == nil {
			t.Skip("this store forgets")
		}
		testDurable(t, s, reopen)
	})
}

func put(t *testing.T, s store.Store, key, value string) {
	t.Helper()
	err := s.Update(t.Context(), func(w store.Writer) error { return w.Put(key, []byte(value)) })
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

func get(t *testing.T, s store.Store, key string) (e store.Entry, ok bool) {
	t.Helper()
	err := s.View(t.Context(), func(r store.Reader) (err error) {
		e, ok, err = r.Get(key)
		return err
	})
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	return e, ok
}

func testPutGetDelete(t *testing.T, s store.Store) {
	if _, ok := get(t, s, "a"); ok {
		t.Error("a fresh store has an entry")
	}
	put(t, s, "a", "1")
	if e, ok := get(t, s, "a"); !ok || string(e.Value) != "1" || e.Key != "a" {
		t.Errorf("got %+v, %v", e, ok)
	}
	err := s.Update(t.Context(), func(w store.Writer) error {
		return errors.Join(w.Delete("a"), w.Delete("missing"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := get(t, s, "a"); ok {
		t.Error("a deleted entry is still there")
	}
	if err := s.Update(t.Context(), func(w store.Writer) error { return w.Put("", nil) }); err == nil {
		t.Error("the empty key was accepted")
	}
}

func testListIsOrdered(t *testing.T, s store.Store) {
	for _, k := range []string{"b/2", "a/1", "b/1", "b", "c"} {
		put(t, s, k, k)
	}
	var got []string
	err := s.View(t.Context(), func(r store.Reader) error {
		list, err := r.List("b/")
		for _, e := range list {
			got = append(got, e.Key+"="+string(e.Value))
		}
		return err
	})
	if want := "[b/1=b/1 b/2=b/2]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
}

func testFailureIsUndone(t *testing.T, s store.Store) {
	put(t, s, "a", "old")
	boom := errors.New("boom")
	err := s.Update(t.Context(), func(w store.Writer) error {
		if err := w.Put("a", []byte("new")); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Errorf("err = %v; want the function's own", err)
	}
	if e, _ := get(t, s, "a"); string(e.Value) != "old" {
		t.Errorf("a failed update wrote %q", e.Value)
	}
}

func testReadsOwnWrites(t *testing.T, s store.Store) {
	err := s.Update(t.Context(), func(w store.Writer) error {
		if err := w.Put("k", []byte("v")); err != nil {
			return err
		}
		e, ok, err := w.Get("k")
		if err != nil || !ok || string(e.Value) != "v" {
			return fmt.Errorf("read back %+v, %v, %v", e, ok, err) //nolint:errorlint // err may be nil
		}
		list, err := w.List("")
		if err != nil || len(list) != 1 {
			return fmt.Errorf("listed %v, %v", list, err) //nolint:errorlint // err may be nil
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func testRevisionsRise(t *testing.T, s store.Store) {
	var last int64
	for i := range 5 {
		put(t, s, "k", fmt.Sprint(i))
		e, _ := get(t, s, "k")
		if e.Revision <= last {
			t.Fatalf("revision %d after %d", e.Revision, last)
		}
		last = e.Revision
	}
}

func testValuesAreCopies(t *testing.T, s store.Store) {
	put(t, s, "k", "good")
	e, _ := get(t, s, "k")
	copy(e.Value, "evil")
	if e, _ := get(t, s, "k"); string(e.Value) != "good" {
		t.Errorf("a reader changed the store to %q", e.Value)
	}
}

func testWatchSeesCommits(t *testing.T, s store.Store) {
	put(t, s, "w/0", "before")
	ctx, cancel := context.WithCancel(t.Context())
	changes, err := s.Watch(ctx, "w/")
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "other", "x")
	put(t, s, "w/1", "x")
	err = s.Update(t.Context(), func(w store.Writer) error { return w.Delete("w/0") })
	if err != nil {
		t.Fatal(err)
	}
	first, second := <-changes, <-changes
	if first.Key != "w/1" || first.Deleted || second.Key != "w/0" || !second.Deleted || second.Revision <= first.Revision {
		t.Errorf("saw %+v, %+v", first, second)
	}
	cancel()
	if _, ok := <-changes; ok {
		t.Error("a change arrived after the watch ended")
	}
}

func testSlowWatcherIsLeft(t *testing.T, s store.Store) {
	changes, err := s.Watch(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	err = s.Update(t.Context(), func(w store.Writer) error {
		for i := range store.WatchBuffer + 1 {
			if err := w.Put(fmt.Sprint(i), nil); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for range changes {
		n++
	}
	if n != store.WatchBuffer {
		t.Errorf("read %d changes before the channel closed; want %d", n, store.WatchBuffer)
	}
}

func testUpdatesAreSerial(t *testing.T, s store.Store) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				err := s.Update(t.Context(), func(w store.Writer) error {
					e, _, err := w.Get("n")
					if err != nil {
						return err
					}
					return w.Put("n", append(e.Value, '.'))
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if e, _ := get(t, s, "n"); len(e.Value) != 80 {
		t.Errorf("%d of 80 updates were kept", len(e.Value))
	}
}

func testClosed(t *testing.T, s store.Store) {
	changes, err := s.Watch(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, ok := <-changes; ok {
		t.Error("the watch outlived the store")
	}
	errView := s.View(t.Context(), func(store.Reader) error { return nil })
	errUpdate := s.Update(t.Context(), func(store.Writer) error { return nil })
	_, errWatch := s.Watch(t.Context(), "")
	for _, err := range []error{errView, errUpdate, errWatch} {
		if !errors.Is(err, store.ErrClosed) {
			t.Errorf("err = %v; want ErrClosed", err)
		}
	}
}

func testDurable(t *testing.T, s store.Store, reopen func() store.Store) {
	put(t, s, "k", "1")
	before, _ := get(t, s, "k")
	s = reopen()
	t.Cleanup(func() { _ = s.Close() })
	after, ok := get(t, s, "k")
	if !ok || string(after.Value) != "1" || after.Revision != before.Revision {
		t.Errorf("after reopening: %+v, %v; want %+v", after, ok, before)
	}
	put(t, s, "k", "2")
	if e, _ := get(t, s, "k"); e.Revision <= before.Revision {
		t.Errorf("revision %d after %d", e.Revision, before.Revision)
	}
}
