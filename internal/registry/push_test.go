package registry_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/registry"
	"github.com/berthcloud/berth/internal/testenv"
)

// brittle passes connections on to an address, and cuts the first ones after so many bytes
// that came. Before it cuts it calls cut.
func brittle(t *testing.T, to string, cuts, after int64, cut func()) (addr string, passed *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() { l.Close(); all.Wait() })
	passed = new(atomic.Int64)
	var left atomic.Int64
	left.Store(cuts)
	pass := func(in net.Conn) {
		defer in.Close()
		out, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer out.Close()
		all.Go(func() { _, _ = io.Copy(in, out); in.Close() })
		n, _ := io.CopyN(out, in, after)
		passed.Add(n)
		if n == after && left.Add(-1) >= 0 {
			cut()
			return
		}
		n, _ = io.Copy(out, in)
		passed.Add(n)
	}
	all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { pass(in) })
		}
	})
	return l.Addr().String(), passed
}

// largeImage makes an image of one layer that cannot be compressed.
func largeImage(t *testing.T, name string, size int) *image.Store {
	t.Helper()
	s, err := image.Open(testenv.Dir(t), image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	raw := make([]byte, size)
	rand.NewChaCha8([32]byte{}).Read(raw)
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "large", Size: int64(size), Mode: 0o644})
	if err == nil {
		_, err = w.Write(raw)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Import(t.Context(), &archive, image.ImportOptions{Name: name}); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestBrokenPush pushes a large blob over connections that break: it goes on where it
// stopped.
func TestBrokenPush(t *testing.T) {
	const size = 48 << 20
	r := open(t)
	addr, passed := brittle(t, r.addr, 4, 9<<20, func() {})
	s := largeImage(t, addr+"/large:1", size)
	if _, err := s.Push(t.Context(), addr+"/large:1", image.PushOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := passed.Load(); n > size+8<<20 {
		t.Errorf("%d bytes were sent of %d", n, size)
	}
	img, err := r.store.Resolve(t.Context(), "localhost/large:1")
	if err != nil || len(img.Layers) != 1 || img.Layers[0].Packed < size {
		t.Errorf("%+v, %v", img, err)
	}
}

// TestRestartedPush starts the registry anew in the middle of a large blob, which goes on
// where it stopped.
func TestRestartedPush(t *testing.T) {
	const size = 32 << 20
	root, addr := testenv.Dir(t), "127.0.0.1:0"
	config := registry.Config{Listen: addr, Rights: file(t, "anyone localhost/* pull,push,delete\n"), Log: slog.New(slog.DiscardHandler)}
	begin := func() (store *image.Store, end func()) {
		store, err := image.Open(root, image.Options{})
		if err != nil {
			t.Fatal(err)
		}
		content, err := store.Repositories(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s, err := registry.New(content, config)
		if err != nil {
			t.Fatal(err)
		}
		l, err := registry.Listen(addr)
		if err != nil {
			t.Fatal(err)
		}
		addr = l.Addr().String()
		done := make(chan error, 1)
		go func() { done <- s.Serve(l) }()
		return store, func() {
			now, cancel := context.WithCancel(t.Context())
			cancel()
			_ = s.Shutdown(now) // breaks off what runs, and says so
			if err := <-done; err != nil {
				t.Error(err)
			}
			content.Close()
			if err := store.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	store, end := begin()
	front, passed := brittle(t, addr, 1, 20<<20, func() {
		end()
		store, end = begin()
	})
	defer func() { end() }()
	s := largeImage(t, front+"/large:1", size)
	if _, err := s.Push(t.Context(), front+"/large:1", image.PushOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := passed.Load(); n > size+8<<20 {
		t.Errorf("%d bytes were sent of %d", n, size)
	}
	img, err := store.Resolve(t.Context(), "localhost/large:1")
	if err != nil || len(img.Layers) != 1 || img.Layers[0].Packed < size {
		t.Errorf("%+v, %v", img, err)
	}
}
