// Package fake is the driver that isolates nothing: each run is a plain
// process of the host. It lets the engine and its front ends be tested without
// root, images or QEMU, with real exit codes, signals and streams.
package fake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"sync"
	"syscall"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// World holds the runs of fake drivers, as a host's kernel would: a second
// driver on the same World adopts what the first one made.
type World struct {
	mu   sync.Mutex
	runs map[string]*run
}

// NewWorld returns an empty world.
func NewWorld() *World { return &World{runs: make(map[string]*run)} }

// Driver implements instance.Driver.
type Driver struct {
	world *World
	kind  api.Kind
}

// New returns a driver of the given kind on a world.
func New(w *World, kind api.Kind) *Driver { return &Driver{world: w, kind: kind} }

// Kind implements instance.Driver.
func (d *Driver) Kind() api.Kind { return d.kind }

// Plan implements instance.Driver: the plan is the process itself.
func (d *Driver) Plan(p *instance.Prepared, _ instance.Host) (instance.Plan, error) {
	if len(p.Process.Args) == 0 && p.Rootfs.Image == nil {
		return nil, api.E("plan", api.Invalid, p.Spec.Name, errors.New("no command was given and the image has none; name one after the image"))
	}
	return json.MarshalIndent(p.Process, "", "  ")
}

// Create implements instance.Driver.
func (d *Driver) Create(_ context.Context, p *instance.Prepared) (instance.Handle, error) {
	if _, err := d.Plan(p, instance.Host{}); err != nil {
		return nil, err
	}
	path, err := lookup(p.Process.Args[0])
	if err != nil {
		return nil, err
	}
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	if _, ok := d.world.runs[p.ID]; ok {
		return nil, api.E("create", api.Exists, p.Spec.Name, errors.New("its run already exists"))
	}
	r, err := newRun(d.world, p, path)
	if err != nil {
		return nil, err
	}
	d.world.runs[p.ID] = r
	return r, nil
}

// Adopt implements instance.Driver.
func (d *Driver) Adopt(_ context.Context, p *instance.Prepared) (instance.Handle, error) {
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	r, ok := d.world.runs[p.ID]
	if !ok {
		return nil, api.E("adopt", api.NotFound, p.Spec.Name, errors.New("it has no run"))
	}
	return r, nil
}

// lookup finds a command as a runtime would, and fails as one would.
func lookup(name string) (string, error) {
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
		return path, nil
	case errors.Is(err, fs.ErrPermission):
		return "", api.E("start", api.NotRunnable, name, errors.New("it is not executable"))
	default:
		return "", api.E("start", api.NoCommand, name, fmt.Errorf("no such command: %w", err))
	}
}

// KillAll ends and forgets every run, as a reboot of the host would.
func (w *World) KillAll() {
	w.mu.Lock()
	runs := w.runs
	w.runs = make(map[string]*run)
	w.mu.Unlock()
	for _, r := range runs {
		if r.Signal(context.Background(), int(syscall.SIGKILL)) == nil {
			<-r.done
		}
	}
}
