package engine

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// lostDriver is one that does not find runs again.
type lostDriver struct {
	instance.Driver
	cause error
}

func (d lostDriver) Adopt(context.Context, *instance.Prepared) (instance.Handle, error) {
	return nil, d.cause
}

// TestEndIdle gives up what is known of an idle run where there is none any more, and
// only there.
func TestEndIdle(t *testing.T) {
	w := newWorld(t)
	inst, err := w.Create(t.Context(), shell("box", "true"))
	if err != nil {
		t.Fatal(err)
	}
	p := &instance.Prepared{ID: inst.ID, Spec: inst.Spec, Idle: true, Dir: w.dir(inst.ID), RunDir: w.runDir(inst.ID)}
	if err := os.MkdirAll(p.RunDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := writePrepared(p); err != nil {
		t.Fatal(err)
	}
	en, err := w.find("box")
	if err != nil {
		t.Fatal(err)
	}
	driver := w.drivers[api.Container]
	defer func() { w.drivers[api.Container] = driver }()
	end := func(cause error) error {
		w.drivers[api.Container] = lostDriver{driver, cause}
		if err := w.endIdle(t.Context(), en); err != nil {
			t.Error(err)
		}
		_, err := os.Stat(filepath.Join(p.RunDir, "prepared.json"))
		return err
	}
	if err := end(errors.New("its keeper does not answer")); err != nil {
		t.Errorf("of a run that may be there: %v", err)
	}
	if err := end(api.E("adopt", api.NotFound, "box", errors.New("it has no run"))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of one that is not: %v", err)
	}
}

// TestAdoptUnsure: a run of which the driver cannot say whether it is there is neither
// forgotten nor started a second time.
func TestAdoptUnsure(t *testing.T) {
	w := newWorld(t)
	first := w.start(t, shell("box", forever))
	w.close(t)
	w.open(t, func(d instance.Driver) instance.Driver {
		return lostDriver{d, api.E("adopt", api.Unavailable, "box", errors.New("the keeper does not answer"))}
	})
	inst, err := w.Get(t.Context(), "box")
	if err != nil || inst.Status.State != api.Failed || !strings.Contains(inst.Status.Error, "it may run") {
		t.Errorf("it is shown as %+v, %v", inst.Status, err)
	}
	if _, err := w.Start(t.Context(), "box"); !api.IsKind(err, api.Unavailable) {
		t.Errorf("a start beside it: %v", err)
	}
	if err := w.Remove(t.Context(), "box", RemoveOptions{}); !api.IsKind(err, api.Unavailable) {
		t.Errorf("a removal below it: %v", err)
	}
	w.drivers[api.Container] = w.drivers[api.Container].(lostDriver).Driver
	second, err := w.Start(t.Context(), "box")
	if err != nil || second.Status.PID == first.Status.PID {
		t.Errorf("started anew: %+v, %v", second.Status, err)
	}
	if err := unix.Kill(first.Status.PID, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the first run still goes on beside the second: %v", err)
	}
}

// TestAdoptUnsureKeepsRecord: the engine after that finds the run.
func TestAdoptUnsureKeepsRecord(t *testing.T) {
	w := newWorld(t)
	first := w.start(t, shell("box", forever))
	w.close(t)
	w.open(t, func(d instance.Driver) instance.Driver { return lostDriver{d, errors.New("no answer")} })
	w.close(t)
	w.open(t)
	inst, err := w.Get(t.Context(), "box")
	if err != nil || inst.Status.State != api.Running || inst.Status.PID != first.Status.PID {
		t.Errorf("found again: %+v, %v", inst.Status, err)
	}
}
