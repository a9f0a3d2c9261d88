package engine

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// entry is an instance in memory.
type entry struct {
	id string
	op chan struct{} // holds one token; see lock

	mu      sync.Mutex
	rec     record
	run     *run          // nil while the instance has no run
	booting *run          // the run that is being started; nil else
	pending []*attachment // clients attached before the start
	changed chan struct{} // closed and renewed at every change of the fields above
	removed bool          // the record is gone
}

// record is what the store keeps of an instance.
type record struct {
	api.Instance
	Config     api.ImageConfig  `json:"config"`              // of the image, as it was at creation
	Arch       string           `json:"arch,omitempty"`      // of the image; "" for the host's
	Users      instance.IDRange `json:"users"`               // 0 for none
	MAC        string           `json:"mac"`                 // stays the same over restarts
	FailedRuns int              `json:"failed_runs"`         // in a row, for the back-off of restarts
	Cloned     bool             `json:"cloned,omitempty"`    // from another instance, whose disk its own begins as
	Rebooting  bool             `json:"rebooting,omitempty"` // it is restarting by its own wish, which no policy counts
}

// run is one life of an instance's processes.
type run struct {
	handle   instance.Handle
	prepared *instance.Prepared
	ended    chan struct{} // closed once exit is set and the run is cleaned up
	exit     api.Exit

	suspended bool // it is saved and another run will go on; set before ended is closed
}

func newEntry(r record) *entry {
	en := &entry{id: r.ID, rec: r, op: make(chan struct{}, 1), changed: make(chan struct{})}
	en.op <- struct{}{}
	return en
}

// lock begins a lifecycle operation. It fails when ctx ends first, or when the
// instance was removed meanwhile.
func (en *entry) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case <-en.op:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	unlock = func() { en.op <- struct{}{} }
	if en.snapshot().State == api.Removing && en.isRemoved() {
		unlock()
		return nil, notFound(en.id)
	}
	return unlock, nil
}

// instance returns a copy of the record's public part.
func (en *entry) instance() api.Instance {
	en.mu.Lock()
	defer en.mu.Unlock()
	return en.rec.public()
}

func (en *entry) snapshot() api.Status { return en.instance().Status }

func (en *entry) name() string { return en.instance().Name }

func (en *entry) isRemoved() bool {
	en.mu.Lock()
	defer en.mu.Unlock()
	return en.removed
}

func (en *entry) currentRun() *run {
	en.mu.Lock()
	defer en.mu.Unlock()
	return en.run
}

// handle returns the handle of the running run, or says why there is none.
func (en *entry) handle(op string) (instance.Handle, error) {
	en.mu.Lock()
	defer en.mu.Unlock()
	switch st := en.rec.Status.State; {
	case en.run == nil || !st.Alive():
		return nil, api.E(op, api.Conflict, en.rec.Name, errors.New("it is "+string(st)+", not running; start it with 'berth start "+en.rec.Name+"'"))
	case st == api.Starting:
		return nil, api.E(op, api.Conflict, en.rec.Name, errors.New("it is still starting; try again in a moment"))
	}
	return en.run.handle, nil
}

// await blocks until ok holds of the instance or ctx ends. ok is called with
// mu held.
func (en *entry) await(ctx context.Context, ok func() bool) error {
	for {
		en.mu.Lock()
		done, changed := ok(), en.changed
		en.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// notify wakes everybody in await. The caller holds mu.
func (en *entry) notify() {
	close(en.changed)
	en.changed = make(chan struct{})
}

// public returns a copy that shares nothing mutable with the record.
func (r *record) public() api.Instance {
	i := r.Instance
	i.Status.Interfaces = slices.Clone(i.Status.Interfaces)
	i.Status.Ports = slices.Clone(i.Status.Ports)
	if i.Status.ExitCode != nil {
		code := *i.Status.ExitCode
		i.Status.ExitCode = &code
	}
	return i
}

// dir is where an instance keeps what survives a reboot.
func (e *Engine) dir(id string) string { return filepath.Join(e.root, "instances", id) }

// runDir is where an instance keeps what does not. Sockets stand in it, whose
// paths have at most 107 bytes (unix(7)), so it is named by a part of the id.
func (e *Engine) runDir(id string) string {
	return filepath.Join(e.run, "instances", id[:runDirDigits])
}

const runDirDigits = 16

func notFound(ref string) error {
	return api.E("", api.NotFound, ref, errors.New("no such instance; 'berth ps -a' lists all"))
}
