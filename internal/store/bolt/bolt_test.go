package bolt

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthcloud/berth/internal/store"
	"github.com/berthcloud/berth/internal/store/storetest"
)

func TestSuite(t *testing.T) {
	storetest.Run(t, func(t *testing.T) (store.Store, func() store.Store) {
		path := filepath.Join(t.TempDir(), "state.db")
		s := mustOpen(t, path)
		return s, func() store.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return mustOpen(t, path)
		}
	})
}

func mustOpen(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSecondOpenerIsToldWhy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := mustOpen(t, path)
	defer s.Close()
	_, err := Open(path)
	if err == nil || !strings.Contains(err.Error(), "in use by another berthd") {
		t.Errorf("err = %v", err)
	}
}

// TestKilledWriter kills a process that writes without pause, and expects every
// update that it saw committed to be there, with nothing half done.
func TestKilledWriter(t *testing.T) {
	if path := os.Getenv("BERTH_TEST_KILLED_WRITER"); path != "" {
		writeForever(t, path)
		return
	}
	path := filepath.Join(t.TempDir(), "state.db")
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledWriter$")
	cmd.Env = append(os.Environ(), "BERTH_TEST_KILLED_WRITER="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	committed := 0
	buf := make([]byte, 1)
	for committed < 20 {
		if n, err := out.Read(buf); err != nil {
			t.Fatal(err)
		} else if n == 1 && buf[0] == '+' {
			committed++
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()

	s := mustOpen(t, path)
	defer s.Close()
	err = s.View(t.Context(), func(r store.Reader) error {
		a, _, errA := r.Get("a")
		b, _, errB := r.Get("b")
		if errA != nil || errB != nil || len(a.Value) < committed || string(a.Value) != string(b.Value) {
			t.Errorf("after the kill: a has %d, b has %d updates; want equal and at least %d", len(a.Value), len(b.Value), committed)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func writeForever(t *testing.T, path string) {
	s := mustOpen(t, path)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		err := s.Update(t.Context(), func(w store.Writer) error {
			e, _, err := w.Get("a")
			if err != nil {
				return err
			}
			next := append(e.Value, '.')
			if err := w.Put("a", next); err != nil {
				return err
			}
			return w.Put("b", next)
		})
		if err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("+")
	}
}
