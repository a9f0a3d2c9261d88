// Package engine holds the use cases of one host: what happens, in which
// order, under which lock, and what is recorded, when somebody creates,
// starts, stops, changes or removes an instance.
//
// The engine decides; the packages below it act. Front ends translate their
// protocol into calls of Engine and nothing else.
//
// # An instance in memory
//
// Every instance is an entry: its record, the handle of its run while it has
// one, and whoever waits for a change of it. The record is written to the
// store at every change; the run is found again through its driver.
//
// # Locks
//
// In this order, outermost first:
//
//	entry.op   one lifecycle operation (start, stop, remove, …) at a time per
//	           instance; held for seconds; waiting for it obeys the context
//	Engine.mu  guards the indexes of entries; never held while calling out
//	entry.mu   guards the fields of an entry; never held while calling out
//
// The goroutine that supervises a run records the run's end without entry.op:
// it is the only one that ends a run's life, and Stop, which holds entry.op,
// waits for it.
package engine

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/network"
	"github.com/berthcloud/berth/internal/storage"
	"github.com/berthcloud/berth/internal/store"
)

// Config is what an Engine stands on. All fields are required but Version.
type Config struct {
	Root     string // directory of what survives a reboot; absolute
	Run      string // directory of what does not; absolute
	Cgroup   string // path below the cgroup root that instances' cgroups go under, as in /berth
	Store    store.Store
	Images   *image.Store
	Storage  *storage.Storage
	Networks network.Set
	Drivers  []instance.Driver
	Host     instance.Host
	Version  api.VersionInfo
	Log      *slog.Logger
}

// Engine runs the instances of a host. Its methods may be called
// concurrently. A ref names an instance by name, id, or unique prefix of its
// id.
type Engine struct {
	root, run, cgroupRoot string

	store    store.Store
	images   *image.Store
	storage  *storage.Storage
	networks network.Set
	drivers  map[api.Kind]instance.Driver
	host     instance.Host
	version  api.VersionInfo
	log      *slog.Logger
	events   *bus
	ops      *operations

	ctx    context.Context // ends with Close; bounds background work
	cancel context.CancelFunc
	work   sync.WaitGroup // supervisors, health checks, operations

	mu     sync.Mutex
	byID   map[string]*entry
	byName map[string]*entry
	ranges map[uint32]bool // user id ranges in use, by index
}

// New returns an engine with the instances that the store records. Runs that
// still exist are adopted, and those whose restart policy says so are started.
// New returns before the latter are up.
func New(ctx context.Context, c Config) (*Engine, error) {
	e := &Engine{
		root: c.Root, run: c.Run, cgroupRoot: c.Cgroup,
		store: c.Store, images: c.Images, storage: c.Storage, networks: c.Networks,
		host: c.Host, version: c.Version, log: c.Log,
		drivers: make(map[api.Kind]instance.Driver),
		events:  newBus(),
		ops:     newOperations(),
		byID:    make(map[string]*entry),
		byName:  make(map[string]*entry),
		ranges:  make(map[uint32]bool),
	}
	for _, d := range c.Drivers {
		e.drivers[d.Kind()] = d
	}
	e.ctx, e.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := e.adoptAll(ctx); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// Close ends the engine's own work. Instances go on running: the next engine
// adopts them.
func (e *Engine) Close() error {
	e.cancel()
	e.ops.cancelAll()
	e.work.Wait()
	e.events.close()
	return e.storage.Sweep()
}

// background runs f until it ends or the engine closes.
func (e *Engine) background(f func(context.Context)) {
	e.work.Go(func() { f(e.ctx) })
}

// driver returns the driver of a kind.
func (e *Engine) driver(kind api.Kind) (instance.Driver, error) {
	if d, ok := e.drivers[kind]; ok {
		return d, nil
	}
	return nil, api.E("", api.Unsupported, string(kind), errors.New("this host runs no instances of this kind; see 'berth info'"))
}
