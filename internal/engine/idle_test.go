package engine

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

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
