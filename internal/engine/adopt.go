package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// adoptAll brings the records of the store back to life. After a crash or an
// upgrade of berthd the runs are still there; after a reboot of the host none
// is.
//
//	saved                       suspended; what is left of its run is ended
//	same boot, run found        supervise it; its end may already be recorded
//	same boot, run not found    failed, with the reason
//	same boot, nobody can tell  failed for this engine alone, and nothing is cleared away
//	rebooted                    exited; started again if the policy says so
func (e *Engine) adoptAll(ctx context.Context) error {
	records, err := e.loadAll(ctx)
	if err != nil {
		return err
	}
	rebooted, err := e.rebooted()
	if err != nil {
		return err
	}
	for _, rec := range records {
		if err := e.index(newEntry(rec)); err != nil {
			return err
		}
		e.images.Hold(rec.ID, rec.Digest)
	}
	if err := e.sweep(); err != nil {
		return err
	}
	for _, en := range e.entries() {
		if err := e.adopt(ctx, en, rebooted); err != nil {
			return err
		}
	}
	if err := e.storage.Sweep(); err != nil {
		return err
	}
	if err := e.applyNetwork(ctx); err != nil {
		return err
	}
	return e.markBoot()
}

// adopt brings one record back to life.
func (e *Engine) adopt(ctx context.Context, en *entry, rebooted bool) error {
	st := en.snapshot()
	if !st.State.Alive() {
		if err := e.endIdle(ctx, en); err != nil {
			return err
		}
	}
	if err := e.sweepSnapshots(en.id); err != nil {
		return err
	}
	switch {
	case st.State == api.Removing:
		return e.resumeRemoval(ctx, en)
	case e.saved(en.id):
		return e.adoptSuspended(ctx, en)
	case rebooted:
		return e.afterReboot(ctx, en)
	case st.State == api.Restarting:
		e.background(func(ctx context.Context) { e.restartLater(ctx, en) })
		return nil
	case !st.State.Alive():
		return nil
	}
	handle, p, err := e.findRun(ctx, en)
	if err != nil && !absent(err) {
		e.unsure(en, err)
		return nil
	}
	if err != nil {
		e.log.Warn("adopt", "instance", en.name(), "error", err)
		return e.lost(ctx, en, "its processes were gone when berthd came back: "+api.OneLine(err.Error()))
	}
	observed, err := handle.Status(ctx)
	if err != nil {
		observed = instance.Status{State: api.Running, PID: st.PID, Created: st.Started}
		e.log.Warn("observe an adopted run", "instance", en.name(), "error", err)
	}
	r := &run{handle: handle, prepared: p, ended: make(chan struct{})}
	if observed.State == api.Created {
		// berthd ended between making the run and starting it: nobody is told
		// that it runs, so it must not.
		e.release(ctx, en, r, false)
		return e.lost(ctx, en, "berthd ended while it was starting; start it again")
	}
	if err := e.adoptRootfs(p); err != nil {
		return err
	}
	e.readopt(en, r, observed)
	return nil
}

// readopt supervises a run that was found again.
func (e *Engine) readopt(en *entry, r *run, observed instance.Status) {
	if !observed.State.Alive() {
		observed.State = api.Running // its end is recorded by the supervisor
	}
	started := en.snapshot().Started
	if started.Before(observed.Created) { // of a run before
		started = observed.Created
	}
	en.setRun(r, observed, started)
	e.publish(en, "adopt", nil)
	e.background(func(ctx context.Context) { e.supervise(ctx, en, r) })
	e.watchHealth(en, r)
	e.watchCrash(en, r)
}

// findRun asks the driver for the run of an instance that was alive.
func (e *Engine) findRun(ctx context.Context, en *entry) (instance.Handle, *instance.Prepared, error) {
	p, err := readPrepared(e.runDir(en.id))
	if err != nil {
		return nil, nil, err
	}
	d, err := e.driver(en.instance().Spec.Kind)
	if err != nil {
		return nil, p, err
	}
	h, err := d.Adopt(ctx, p)
	return h, p, err
}

// absent reports whether an error of looking for a run says that there is none, or none
// that could be found ever. A keeper that does not answer says nothing.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || api.IsKind(err, api.NotFound) || api.IsKind(err, api.Corrupt)
}

// unsure shows that nobody can tell whether an instance runs. Its record stays as it is,
// for the next engine, and so does all that the run has. A start and a removal look again.
func (e *Engine) unsure(en *entry, cause error) {
	e.log.Error("find a run again", "instance", en.name(), "error", cause)
	en.observe(func(st *api.Status) {
		st.State, st.PID = api.Failed, 0
		st.Error = "it may run, which berthd could not find out: " + api.OneLine(cause.Error())
	})
}

// endLost ends the run that an instance may have though no engine has it in hand (unsure).
func (e *Engine) endLost(ctx context.Context, en *entry) error {
	p, err := readPrepared(e.runDir(en.id))
	if absent(err) {
		return nil
	}
	if err == nil {
		err = e.endRunOf(ctx, p)
	}
	if err != nil {
		return api.E("", api.Unavailable, en.name(), fmt.Errorf("whether it runs cannot be told, so nothing is done with it; try again later: %w", err))
	}
	return e.releaseNetwork(ctx, en.id)
}

// lost records a run that ended unobserved, and applies the restart policy.
func (e *Engine) lost(ctx context.Context, en *entry, why string) error {
	err := errors.Join(e.releaseNetwork(ctx, en.id), os.RemoveAll(e.runDir(en.id)))
	if err != nil {
		e.log.Error("clean up after a lost run", "instance", en.name(), "error", err)
	}
	restart := false
	err = e.change(ctx, en, func(r *record) {
		r.Status.State, r.Status.Error, r.Status.ExitCode, r.Status.PID = api.Failed, why, nil, 0
		r.Status.Interfaces, r.Status.Ports = nil, nil
		r.FailedRuns++
		if restart = wantsRestart(r.Spec.Restart, r.Status); restart {
			r.Status.State = api.Restarting
		}
	})
	if err != nil {
		return err
	}
	e.afterLoss(en, restart)
	return nil
}

// afterReboot records that the host's reboot ended the instance, and starts it
// where its policy says so. on-failure does not: a reboot is no failure of the
// instance's.
func (e *Engine) afterReboot(ctx context.Context, en *entry) error {
	if err := os.RemoveAll(e.runDir(en.id)); err != nil { // /run is not a tmpfs everywhere
		return err
	}
	restart := false
	err := e.change(ctx, en, func(r *record) {
		if r.Status.State.Alive() || r.Status.State == api.Restarting {
			r.Status.State, r.Status.ExitCode, r.Status.PID = api.Exited, nil, 0
			r.Status.Error = "the host was rebooted"
			r.Status.Interfaces, r.Status.Ports = nil, nil
		} else if r.Status.State == api.Created || r.Spec.Restart.Mode != api.RestartAlways {
			return
		}
		switch r.Spec.Restart.Mode {
		case api.RestartAlways:
			restart = true
		case api.RestartUnlessStopped:
			restart = !r.Status.Stopped
		}
		if restart {
			r.Status.State, r.Status.Stopped, r.Status.Restarts, r.FailedRuns = api.Restarting, false, 0, 1
		}
	})
	if err != nil {
		return err
	}
	e.afterLoss(en, restart)
	return nil
}

// afterLoss does what an instance that ended unobserved wants next.
func (e *Engine) afterLoss(en *entry, restart bool) {
	switch {
	case restart:
		e.background(func(ctx context.Context) { e.restartLater(ctx, en) })
	case en.instance().Spec.AutoRemove && en.snapshot().State != api.Created:
		e.background(func(ctx context.Context) { e.autoRemove(ctx, en) })
	}
}

func (e *Engine) resumeRemoval(ctx context.Context, en *entry) error {
	unlock, err := en.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return e.remove(ctx, en, RemoveOptions{Volumes: en.instance().Spec.AutoRemove})
}

// sweep removes what instances without a record left behind: berthd was killed
// while it created or removed them.
func (e *Engine) sweep() error {
	known := func(id string) bool {
		_, err := e.findID(id)
		return err == nil
	}
	for _, parent := range []string{filepath.Join(e.root, "instances"), filepath.Join(e.run, "instances")} {
		list, err := os.ReadDir(parent)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		for _, d := range list {
			if !known(d.Name()) {
				e.log.Info("remove what an unknown instance left", "id", d.Name())
				if err := os.RemoveAll(filepath.Join(parent, d.Name())); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// BootFile is the file of the run directory that says of which boot it tells.
const BootFile = "boot_id"

const bootIDFile = "/proc/sys/kernel/random/boot_id"

// rebooted reports whether the host has booted since the run directory was
// marked. /run is not a tmpfs everywhere, so its emptiness proves nothing.
func (e *Engine) rebooted() (bool, error) {
	now, err := os.ReadFile(bootIDFile)
	if err != nil {
		return false, err
	}
	marked, err := os.ReadFile(filepath.Join(e.run, BootFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	return !bytes.Equal(now, marked), nil
}

func (e *Engine) markBoot() error {
	now, err := os.ReadFile(bootIDFile)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(e.run, BootFile), now, 0o600)
}

// writePrepared records what a run is made of, for adoption. A torn file is no
// danger: it is complete before the driver makes anything.
func writePrepared(p *instance.Prepared) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	path := filepath.Join(p.RunDir, "prepared.json")
	if err := os.WriteFile(path+".tmp", data, 0o600); err != nil {
		return api.E("start", api.Exhausted, p.Spec.Name, err)
	}
	return os.Rename(path+".tmp", path)
}

func readPrepared(runDir string) (*instance.Prepared, error) {
	data, err := os.ReadFile(filepath.Join(runDir, "prepared.json"))
	if err != nil {
		return nil, err
	}
	p := new(instance.Prepared)
	return p, api.E("", api.Corrupt, "", json.Unmarshal(data, p))
}
