package engine

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// TestCopySavedDiskFull has no room for the copy by which a snapshot is restored: it
// leaves nothing, so the instance is as it was.
func TestCopySavedDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs a filesystem of its own")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, 0)
	from, to := filepath.Join(dir, "snapshots", "one"), filepath.Join(dir, instance.SavedName)
	if err := os.MkdirAll(from, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]int{instance.SavedState: 100 << 10, "root": 700 << 10} {
		if err := os.WriteFile(filepath.Join(from, name), bytes.Repeat([]byte("x"), size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := copySaved(to, from); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a copy without room: %v", err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
		t.Errorf("left behind: %v, %v", list, err)
	}
	if err := os.Remove(filepath.Join(from, "root")); err != nil {
		t.Fatal(err)
	}
	if err := copySaved(to, from); err != nil {
		t.Errorf("a copy with room: %v", err)
	}
}

// TestSnapshotList lists what is whole, and sweeps what is not.
func TestSnapshotList(t *testing.T) {
	w := newWorld(t)
	inst, err := w.Create(t.Context(), shell("box", "true"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "two.new", "three.old"} {
		if err := os.MkdirAll(w.snapshotDir(inst.ID, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(w.snapshotDir(inst.ID, "one"), instance.SavedState), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.close(t)
	w.open(t)
	list, err := w.Snapshots(t.Context(), "box")
	if err != nil || len(list) != 1 || list[0].Name != "one" || !list[0].Memory {
		t.Errorf("%+v, %v; want one, with memory", list, err)
	}
	if left, err := os.ReadDir(w.snapshotDir(inst.ID, "")); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	for _, name := range []string{"", "..", "two.new", "none"} {
		if err := w.RemoveSnapshot(t.Context(), "box", name); err == nil {
			t.Errorf("removed %q", name)
		}
	}
	if _, err := w.CreateSnapshot(t.Context(), "box", SnapshotOptions{Name: "more"}); !api.IsKind(err, api.Unsupported) {
		t.Errorf("a snapshot of a container: %v", err)
	}
	if err := w.RemoveSnapshot(t.Context(), "box", "one"); err != nil {
		t.Error(err)
	}
}
