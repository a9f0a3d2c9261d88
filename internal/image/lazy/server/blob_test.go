package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
)

// remote is a source that counts what it is asked for, and fails at times.
type remote struct {
	bytes []byte
	sent  atomic.Int64
	fails atomic.Int64 // so many times more
}

func (m *remote) read(_ context.Context, offset, length int64) (io.ReadCloser, error) {
	if m.fails.Add(-1) >= 0 {
		return nil, errors.New("not now")
	}
	return io.NopCloser(io.TeeReader(bytes.NewReader(m.bytes[offset:offset+length]), counter{&m.sent})), nil
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) { c.n.Add(int64(len(p))); return len(p), nil }

func newFile(t *testing.T) *os.File {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestFetchedOnce reads everywhere in a blob while it is fetched behind, from a source
// that fails now and then: readers get what it has, and it sends little twice.
func TestFetchedOnce(t *testing.T) {
	m := &remote{bytes: make([]byte, 300*blockSize+77)}
	_, _ = rand.NewChaCha8([32]byte{}).Read(m.bytes)
	m.fails.Store(2)
	b, err := newBlob(newTraffic(), newFile(t), int64(len(m.bytes)), m)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 8 {
		r := rand.New(rand.NewPCG(1, uint64(i)))
		all.Go(func() {
			for range 40 {
				from := r.Int64N(b.size)
				to := min(from+1+r.Int64N(5*blockSize), b.size)
				if err := b.fetch(t.Context(), from, to); err != nil {
					t.Errorf("fetch: %v", err)
					return
				}
				got := make([]byte, to-from)
				if _, err := b.file.ReadAt(got, from); err != nil || !bytes.Equal(got, m.bytes[from:to]) {
					t.Errorf("bytes %d to %d differ, %v", from, to, err)
				}
			}
		})
	}
	all.Go(func() { b.fetchBehind(t.Context(), b.size) })
	all.Wait()
	got, err := os.ReadFile(b.file.Name())
	if err != nil || !bytes.Equal(got, m.bytes) {
		t.Errorf("%d bytes of %d, %v", len(got), len(m.bytes), err)
	}
	if arrived, problem := b.progress(); arrived != b.size || problem != nil {
		t.Errorf("%d of %d bytes have arrived, %v", arrived, b.size, problem)
	}
	if sent := m.sent.Load(); sent > b.size*3/2 {
		t.Errorf("%d bytes were sent of %d", sent, b.size)
	}
}

// TestRecall opens a file with a part of a blob in it.
func TestRecall(t *testing.T) {
	m := &remote{bytes: bytes.Repeat([]byte("x"), 100*blockSize+5)}
	f := newFile(t)
	b, err := newBlob(newTraffic(), f, int64(len(m.bytes)), m)
	if err == nil {
		err = b.fetch(t.Context(), 10*blockSize, 20*blockSize)
	}
	if err == nil {
		err = b.fetch(t.Context(), 100*blockSize, b.size)
	}
	if err != nil {
		t.Fatal(err)
	}
	again, err := newBlob(newTraffic(), f, b.size, m)
	if err != nil {
		t.Fatal(err)
	}
	if arrived, _ := again.progress(); arrived != 10*blockSize+5 {
		t.Errorf("%d bytes are known, not %d", arrived, 10*blockSize+5)
	}
	m.fails.Store(100)
	if err := again.fetch(t.Context(), 12*blockSize, 13*blockSize); err != nil {
		t.Errorf("what is here: %v", err)
	}
	if err := again.fetch(t.Context(), 30*blockSize, 31*blockSize); err == nil {
		t.Error("what is not here was fetched")
	}
}
