package server

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/berthcloud/berth/internal/keeper"
)

func TestOrphaned(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keeper.lock")
	lock, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	p := newProc(&keeper.Process{ID: "p"})
	s := &Server{lock: lock, procs: map[string]*proc{"p": p}}
	want := func(what string, orphaned bool) {
		t.Helper()
		if s.orphaned() != orphaned {
			t.Errorf("%s: %v", what, !orphaned)
		}
	}
	close(p.gone)
	want("with its directory", false)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	want("without it", true)
	s.starting = 1
	want("while something starts", false)
	s.starting = 0
	s.procs["q"] = newProc(&keeper.Process{ID: "q"})
	want("while something runs", false)
	delete(s.procs, "q")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	want("with another's directory in its place", true)
}
