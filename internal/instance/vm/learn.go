package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/agent"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/keeper"
	"github.com/berthcloud/berth/internal/qemu"
)

// Learn makes a template for each layout of machines that was booted since, so that
// the next one need not be. It takes a boot, at a low priority, and an end of
// ctx ends it. A layout that fails is reported once.
func (d *Driver) Learn(ctx context.Context) error {
	select {
	case d.templates.making <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-d.templates.making }()
	for {
		key, machine, found := d.templates.next()
		if !found {
			return nil
		}
		if d.templates.has(key) {
			continue // another boot wanted the same one
		}
		err := d.makeTemplate(ctx, key, machine)
		for try := 1; err != nil && ctx.Err() == nil && try < learnTries; try++ {
			err = d.makeTemplate(ctx, key, machine)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return api.E("learn", "", "template "+key, errors.Join(err, d.templates.distrust(key)))
		}
	}
}

// learnTimeout bounds one try to make a template, and learnTries their number: on a
// busy host a guest's kernel now and then finds no timer, and waits for ever.
const (
	learnTimeout = time.Minute
	learnTries   = 3
)

// learnRest is how long a guest has to become quiet before it is saved.
const learnRest = 2 * time.Second

// learnWeight is its share of the processor, where an instance has 100.
const learnWeight = 20

// makeTemplate boots a machine to where it waits, saves it, and keeps it.
func (d *Driver) makeTemplate(ctx context.Context, key string, m qemu.Machine) (err error) {
	ctx, cancel := context.WithTimeout(ctx, learnTimeout)
	defer cancel()
	h := d.templateHandle()
	if err := d.forgetTemplate(ctx); err != nil {
		return err
	}
	if err := os.MkdirAll(h.p.RunDir, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.forgetTemplate(context.WithoutCancel(ctx))) }()
	if err := newOwnedFile(m.Template.RAM, m.Memory, int(m.UID)); err != nil {
		return err
	}
	plan, err := qemu.NewPlan(m)
	if err != nil {
		return err
	}
	if err := h.startTemplate(ctx, plan, m.Memory); err != nil {
		return err
	}
	if err := h.saveTemplate(ctx); err != nil {
		return err
	}
	if err := h.clean(ctx); err != nil {
		return err
	}
	if err := settle(m.Template.RAM); err != nil {
		return err
	}
	return d.templates.publish(key)
}

// templateHandle is the machine that becomes a template, as if it were an instance's.
func (d *Driver) templateHandle() *handle {
	dir := d.templateDir()
	id := "template-" + keyOf(dir)
	return d.handle(&instance.Prepared{
		ID: id, Spec: api.Spec{Name: "template"}, Dir: dir, RunDir: dir, Cgroup: filepath.Join(d.cfg.Cgroup, id),
	}, runFile{})
}

// templateDir is where a template is made.
func (d *Driver) templateDir() string { return filepath.Join(d.templates.dir, "new") }

// forgetTemplate removes what making a template left that did not come to its end,
// because berthd was killed for one.
func (d *Driver) forgetTemplate(ctx context.Context) error {
	h := d.templateHandle()
	if _, err := os.Stat(h.p.RunDir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return errors.Join(h.clean(ctx), os.RemoveAll(h.p.RunDir))
}

// startTemplate starts the machine in a cgroup that lets everything else go first.
func (h *handle) startTemplate(ctx context.Context, plan *qemu.Plan, memory int64) error {
	var err error
	if plan.Program, err = h.driver.needs(ctx, plan.Args[0], qemu.Needs); err != nil {
		return err
	}
	launch, err := plan.Encode()
	if err != nil {
		return err
	}
	if err := os.WriteFile(h.inRun("qemu.json"), launch, 0o600); err != nil {
		return err
	}
	limits := given(resources(api.Limits{CPUWeight: learnWeight}, memory), h.driver.cfg.Host)
	groups, err := h.makeGroup(limits)
	if err != nil {
		return err
	}
	_, err = h.driver.cfg.Keeper.Start(ctx, h.launcher(keeper.Stdio{Kind: keeper.Sockets}, groups))
	return err
}

// saveTemplate boots the machine, waits until its agent waits, and saves it.
func (h *handle) saveTemplate(ctx context.Context) error {
	if err := h.letGo(ctx); err != nil {
		return err
	}
	ended := make(chan struct{})
	defer func() { <-ended }()
	watch, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		defer close(ended)
		defer stop() // no agent will answer any more
		_, _ = h.driver.cfg.Keeper.Wait(watch, h.p.ID)
	}()
	if err := h.asleep(watch); err != nil {
		return err
	}
	// Each copy does anew what the kernel and the agent's runtime have put off.
	select {
	case <-watch.Done():
		return watch.Err()
	case <-time.After(learnRest):
	}
	m, err := h.monitor(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	state, err := os.OpenFile(h.inRun("state"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(m.Save(ctx, state), state.Sync(), state.Close()); err != nil {
		return err
	}
	return m.Quit(ctx)
}

// asleep returns once the agent waits to be woken.
func (h *handle) asleep(ctx context.Context) error {
	conn, err := keeper.Dial(ctx, h.inRun("wake"))
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	said := make([]byte, 1)
	if _, err := conn.Read(said); err != nil {
		return fmt.Errorf("the guest did not come to where it waits: %w", err)
	}
	if said[0] != agent.Asleep {
		return fmt.Errorf("the guest said %q and not that it waits", said)
	}
	return nil
}

// newOwnedFile makes a file that a user may read and write.
func newOwnedFile(path string, size int64, uid int) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(file.Truncate(size), file.Chown(uid, uid), file.Close())
}

// settle takes a file back from the user that it was made for, and waits until it
// would survive a crash of the host.
func settle(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(file.Chown(os.Getuid(), os.Getgid()), file.Sync(), file.Close())
}
