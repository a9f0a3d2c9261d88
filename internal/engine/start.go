package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/undo"
)

// Start starts an instance. One that runs already is left alone.
func (e *Engine) Start(ctx context.Context, ref string) (api.Instance, error) {
	en, err := e.find(ref)
	if err != nil {
		return api.Instance{}, err
	}
	unlock, err := en.lock(ctx)
	if err != nil {
		return api.Instance{}, api.E("start", "", ref, err)
	}
	defer unlock()
	if en.snapshot().State.Alive() {
		return en.instance(), nil
	}
	err = e.start(ctx, en, wanted)
	inst := en.instance()
	if err != nil && inst.Spec.AutoRemove {
		err = errors.Join(err, e.remove(ctx, en, RemoveOptions{Volumes: true}))
	}
	return inst, err
}

// wanted records that a user wants the instance to run: what was before does not
// count any more.
func wanted(r *record) { r.Status.Stopped, r.Status.Restarts, r.FailedRuns = false, 0, 0 }

// start makes and starts a new run, and records what else the caller wants of the
// record. The caller holds entry.op and knows that there is no run. A failure leaves the instance as it was, with the reason in
// its status.
func (e *Engine) start(ctx context.Context, en *entry, also func(*record)) (err error) {
	before := en.snapshot()
	if before.State == api.Removing {
		return api.E("start", api.Conflict, en.name(), errors.New("it is being removed; create it anew"))
	}
	if err := e.endLost(ctx, en); err != nil {
		return api.E("start", "", en.name(), err)
	}
	err = e.change(ctx, en, func(r *record) {
		also(r)
		r.Status.State, r.Status.Error, r.Status.ExitCode, r.Status.OOM = api.Starting, "", nil, false
		r.Status.Health, r.Status.Notice = api.HealthNone, ""
	})
	if err != nil {
		return err
	}
	if err := e.launch(ctx, en); err != nil {
		err = api.E("start", "", en.name(), err)
		e.recordFailedStart(ctx, en, before, err)
		return err
	}
	return nil
}

// launch does the work of start: prepare, create, attach, go.
func (e *Engine) launch(ctx context.Context, en *entry) (err error) {
	inst := en.instance()
	driver, err := e.driver(inst.Spec.Kind)
	if err != nil {
		return err
	}
	var u undo.Stack
	defer u.Run(ctx, &err)
	p, err := e.prepare(ctx, en, &u)
	if err != nil {
		return err
	}
	handle, err := driver.Create(ctx, p)
	if err != nil {
		return err
	}
	u.Add(handle.Delete)
	if err := e.limitNetwork(ctx, en.id, inst.Spec); err != nil {
		return err
	}
	r := &run{handle: handle, prepared: p, ended: make(chan struct{})}
	en.setBooting(r)
	defer en.setBooting(nil)
	if err := e.attachPending(ctx, en, r); err != nil {
		return err
	}
	observed, err := handle.Start(ctx)
	if err != nil {
		return err
	}
	u.Release()
	// The record says that it starts, which is as much: an engine that finds the run
	// observes the rest anew.
	observed.State = api.Running
	en.setRun(r, observed, time.Now())
	e.publish(en, "start", nil)
	e.background(func(ctx context.Context) { e.supervise(ctx, en, r) })
	e.watchHealth(en, r)
	e.watchCrash(en, r)
	if l, ok := driver.(instance.Learner); ok {
		e.background(func(ctx context.Context) { e.learn(ctx, l) })
	}
	return nil
}

// learn lets a driver make the next start faster.
func (e *Engine) learn(ctx context.Context, l instance.Learner) {
	if err := l.Learn(ctx); err != nil && ctx.Err() == nil {
		e.log.Warn("instances start as before, which is slower", "error", err)
	}
}

// setBooting makes a run visible, to those who look at its console, whose entrypoint
// does not run yet.
func (en *entry) setBooting(r *run) {
	en.mu.Lock()
	defer en.mu.Unlock()
	en.booting = r
	en.notify()
}

// setRun makes a run visible whose entrypoint was let go.
func (en *entry) setRun(r *run, observed instance.Status, started time.Time) {
	en.observe(func(st *api.Status) {
		en.run = r
		st.State, st.PID, st.Started = observed.State, observed.PID, started.UTC()
		st.Machine, st.Virtualization, st.Notice = observed.Machine, "", observed.Notice
		if observed.Machine != nil {
			st.Virtualization = observed.Machine.Virtualization
		}
		showNetwork(st, r.prepared)
	})
}

// recordFailedStart puts the instance back, with docker's exit codes for what
// could not be started.
func (e *Engine) recordFailedStart(ctx context.Context, en *entry, before api.Status, cause error) {
	code := 125
	switch api.KindOf(cause) {
	case api.NoCommand:
		code = 127
	case api.NotRunnable:
		code = 126
	}
	err := e.change(ctx, en, func(r *record) {
		r.Status.State, r.Status.Error, r.Status.ExitCode = before.State, cause.Error(), &code
		r.Status.PID = 0
		if before.State == api.Suspended && e.saved(en.id) {
			r.Status.ExitCode = before.ExitCode
			return
		}
		r.Status.Interfaces, r.Status.Ports = nil, nil
		if before.State != api.Created {
			r.Status.State = api.Failed
		}
	})
	if err != nil {
		e.log.Error("record a failed start", "instance", en.name(), "error", err)
	}
	e.tellFailedStart(en, cause)
}

func (e *Engine) tellFailedStart(en *entry, cause error) {
	en.failPending(cause)
	e.publish(en, "start-failed", map[string]string{"error": cause.Error()})
}

// prepare acquires what a run needs beside its driver: layers, volumes,
// addresses. What it acquires is on the undo stack.
func (e *Engine) prepare(ctx context.Context, en *entry, u *undo.Stack) (*instance.Prepared, error) {
	en.mu.Lock()
	rec := en.rec
	en.mu.Unlock()
	img, err := e.images.ResolveDigest(ctx, rec.Digest)
	if err != nil {
		return nil, err
	}
	layers := layersOf(img)
	p, err := e.outline(rec, img)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(p.RunDir, 0o700); err != nil {
		return nil, api.E("start", api.Exhausted, rec.Name, err)
	}
	u.Add(func(context.Context) error { return os.RemoveAll(p.RunDir) })
	if err := e.prepareRootfs(ctx, p, layers, u); err != nil {
		return nil, err
	}
	if err := e.prepareInit(rec, p); err != nil {
		return nil, err
	}
	if err := e.prepareMounts(ctx, rec, p, layers); err != nil {
		return nil, err
	}
	if err := e.prepareNetwork(ctx, en, p, u); err != nil {
		return nil, err
	}
	if rec.Spec.Kind == api.VM {
		if err := e.prepareKernel(ctx, rec, p); err != nil {
			return nil, err
		}
	}
	return p, writePrepared(p)
}

func (e *Engine) logPath(id string) string { return filepath.Join(e.dir(id), "log") }

func (e *Engine) cgroup(id string) string { return filepath.Join(e.cgroupRoot, id) }

// hosts returns the lines of /etc/hosts: the instance's own name, then the
// user's.
func hosts(p *instance.Prepared, extra []string) []instance.HostsEntry {
	var list []instance.HostsEntry
	names := []string{p.Hostname}
	if p.Spec.Name != p.Hostname {
		names = append(names, p.Spec.Name)
	}
	own := "127.0.1.1" // as Debian does for a host without an address
	if len(p.Interfaces) > 0 && len(p.Interfaces[0].Address) > 0 {
		own, _, _ = strings.Cut(p.Interfaces[0].Address[0], "/")
	}
	list = append(list, instance.HostsEntry{Address: own, Names: names})
	for _, h := range extra {
		name, addr, _ := strings.Cut(h, ":")
		list = append(list, instance.HostsEntry{Address: addr, Names: []string{name}})
	}
	return list
}

// errNoKernel is the way out for a VM without a guest kernel.
func errNoKernel(name string, cause error) error {
	way := "berth kernel bootstrap"
	if made, ok := strings.CutPrefix(name, "kernel/debian-"); ok {
		flavor, arch, _ := strings.Cut(made, ":")
		if arch != "" {
			way += " --platform linux/" + arch
		}
		way += " " + flavor
	}
	return api.E("", api.NotFound, name, fmt.Errorf("there is no such guest kernel; make it with '%s': %w", way, cause))
}
