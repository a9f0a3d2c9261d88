package engine

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// TestSuspendedIsFoundAgain kills an engine right after a run was saved: to the next one
// the instance is suspended, whether the host was rebooted or not, whatever its restart
// policy says; and what was saved of it can be given up.
func TestSuspendedIsFoundAgain(t *testing.T) {
	for _, reboot := range []bool{false, true} {
		w := newWorld(t)
		spec := shell("machine", forever)
		spec.Restart.Mode = api.RestartAlways
		inst := w.start(t, spec)
		if err := os.MkdirAll(w.savedDir(inst.ID), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(w.savedDir(inst.ID), instance.SavedState), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		w.close(t)
		if reboot {
			w.runs.KillAll()
			if err := os.WriteFile(filepath.Join(w.run, BootFile), []byte("another boot"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		w.open(t)
		w.awaitState(t, "machine", api.Suspended)
		if _, err := os.Stat(w.runDir(inst.ID)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("rebooted %v: its run is left: %v", reboot, err)
		}
		for what, err := range map[string]error{
			"stop": w.Stop(t.Context(), "machine", StopOptions{}), "remove": w.Remove(t.Context(), "machine", RemoveOptions{}),
			"pause": w.Pause(t.Context(), "machine"), "suspend": w.Suspend(t.Context(), "machine"),
		} {
			if !api.IsKind(err, api.Conflict) {
				t.Errorf("rebooted %v: %s of a suspended one: %v", reboot, what, err)
			}
		}
		if pruned, err := w.Prune(t.Context(), PruneOptions{}); err != nil || len(pruned.Instances) > 0 {
			t.Errorf("pruned %v, %v", pruned.Instances, err)
		}
		if err := w.Kill(t.Context(), "machine", ""); err != nil {
			t.Fatal(err)
		}
		w.awaitState(t, "machine", api.Exited)
		if w.saved(inst.ID) {
			t.Error("what was given up is still there")
		}
	}
}
