package registry_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/testenv"
)

// brittle passes connections on to an address, and cuts the first ones after so many bytes
// that came.
func brittle(t *testing.T, to string, cuts, after int64) (addr string, passed *atomic.Int64) {
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

// TestBrokenPush pushes a large blob over connections that break: it goes on where it
// stopped.
func TestBrokenPush(t *testing.T) {
	const size = 48 << 20
	r := open(t)
	addr, passed := brittle(t, r.addr, 4, 9<<20)
	s, err := image.Open(testenv.Dir(t), image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	raw := make([]byte, size)
	rand.NewChaCha8([32]byte{}).Read(raw)
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "large", Size: size, Mode: 0o644})
	if err == nil {
		_, err = w.Write(raw)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Import(t.Context(), &archive, image.ImportOptions{Name: addr + "/large:1"}); err != nil {
		t.Fatal(err)
	}
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
