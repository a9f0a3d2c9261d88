package registry_test

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/registry"
	"github.com/berthcloud/berth/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// served is a registry under test.
type served struct {
	addr    string
	store   *image.Store
	content *image.Repositories
}

// serve starts a registry on loopback, with a store of its own.
func serve(t testing.TB, c registry.Config) *served {
	t.Helper()
	store, err := image.Open(testenv.Dir(t), image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	content, err := store.Repositories(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(content.Close)
	c.Log = slog.New(slog.DiscardHandler)
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	s, err := registry.New(content, c)
	if err != nil {
		t.Fatal(err)
	}
	l, err := registry.Listen(c.Listen)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &served{addr: l.Addr().(*net.TCPAddr).String(), store: store, content: content}
}

// file writes a file of users or rights.
func file(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(testenv.Dir(t), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// open is a registry for everybody.
func open(t testing.TB) *served {
	return serve(t, registry.Config{Rights: file(t, "anyone localhost/* pull,push,delete\n")})
}
