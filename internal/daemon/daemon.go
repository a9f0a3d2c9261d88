// Package daemon builds a whole berthd by hand, in order, and takes it down
// again in the reverse order.
package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/build"
	"github.com/berthcloud/berth/internal/engine"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/image/lazy"
	"github.com/berthcloud/berth/internal/image/trust"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/instance/container"
	"github.com/berthcloud/berth/internal/instance/vm"
	"github.com/berthcloud/berth/internal/keeper"
	"github.com/berthcloud/berth/internal/network"
	"github.com/berthcloud/berth/internal/network/bridge"
	"github.com/berthcloud/berth/internal/registry"
	"github.com/berthcloud/berth/internal/rest"
	"github.com/berthcloud/berth/internal/store/bolt"
	"github.com/berthcloud/berth/internal/undo"
)

// The places of a daemon that is alone on its host.
const (
	DefaultRoot  = "/var/lib/berth"
	DefaultRun   = "/run/berth"
	DefaultHosts = "/etc/berth/certs.d"
)

// Config says where a daemon lives. Several live side by side when their
// roots, run directories and sockets differ.
type Config struct {
	Root    string // directory of what survives a reboot
	Run     string // directory of what does not
	Socket  string // default: RUN/berthd.sock
	Bin     string // directory of Berth's other programs; default: that of this one
	Policy  string // file that says which images have to be signed; "" for none
	Version api.VersionInfo
	Log     *slog.Logger

	// Templates is how many saved machines are kept at most, of which VMs begin as
	// copies; 0 has every VM booted.
	Templates int

	// Hosts is a directory with what is to be known of registries: see image.Options.
	Hosts string

	// Registry says whether, and how, the images are served to other hosts.
	Registry registry.Config

	// Rootless says that this process is root of an ordinary user's namespaces: see
	// package rootless.
	Rootless bool
	// Cgroup is, for an ordinary user, the one to divide, counted from the root of the
	// hierarchies: to look for it where this is "", and without one if Rootless.
	Cgroup string
}

// Run runs a daemon until ctx ends. It calls ready once the socket answers.
// Instances outlive it.
func Run(ctx context.Context, c Config, ready func()) (err error) {
	if err := c.Complete(); err != nil {
		return err
	}
	var u undo.Stack
	defer u.Run(ctx, &err) // here it always runs: what is built is taken down
	if err := c.directories(&u); err != nil {
		return err
	}
	backend, err := c.build(ctx, &u)
	if err != nil {
		return err
	}
	listener, err := rest.Listen(c.Socket)
	if err != nil {
		return err
	}
	server := rest.New(backend, c.Log)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	ready()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	return errors.Join(server.Shutdown(stop), <-served)
}

// shutdownTimeout bounds how long requests under way may hold up the end.
const shutdownTimeout = 10 * time.Second

// Complete fills in what follows from other fields, and makes paths absolute. Run does
// so itself.
func (c *Config) Complete() (err error) {
	if c.Socket == "" {
		c.Socket = filepath.Join(c.Run, "berthd.sock")
	}
	if c.Bin == "" {
		exe, err := os.Executable()
		if err != nil {
			return err
		}
		c.Bin = filepath.Dir(exe)
	}
	for _, dir := range []*string{&c.Root, &c.Run, &c.Bin} {
		if *dir, err = filepath.Abs(*dir); err != nil {
			return err
		}
	}
	// The longest socket path of a VM must fit sockaddr_un (unix(7)).
	return keeper.CheckSocketPath(filepath.Join(c.Run, "instances", "0123456789abcdef", "socket"))
}

// directories makes root and run, and locks both: two daemons must not share
// one. Users of the socket pass through run, but see nothing in it.
func (c *Config) directories(u *undo.Stack) error {
	for _, dir := range []string{c.Root, c.Run} {
		mode := os.FileMode(0o700)
		if dir == c.Run {
			mode = 0o711
		}
		if err := os.MkdirAll(dir, mode); err != nil {
			return api.E("start", api.Denied, dir, fmt.Errorf("%w; berthd runs as root", err))
		}
		if err := os.Chmod(dir, mode); err != nil {
			return api.E("start", api.Denied, dir, err)
		}
		lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return api.E("start", api.Denied, dir, err)
		}
		u.Add(func(context.Context) error { return lock.Close() })
		if !acquire(lock) {
			return api.E("start", api.InUse, dir, errors.New("another berthd uses this directory; stop it, or choose others with --root and --run"))
		}
	}
	if err := os.MkdirAll(c.cache(), 0o700); err != nil {
		return api.E("start", api.Exhausted, c.cache(), err)
	}
	if err := c.forgetLastBoot(); err != nil {
		return api.E("start", api.Exhausted, c.Run, err)
	}
	return c.spread()
}

// lockPatience is how long a lock is waited for: a killed berthd holds its files until
// the last of its threads has gone, and seems to have ended before.
const lockPatience = time.Second

func acquire(lock *os.File) bool {
	for deadline := time.Now().Add(lockPatience); ; <-time.After(10 * time.Millisecond) {
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}

// forgetLastBoot empties a run directory that tells of another boot of the
// host, where it is not on a tmpfs: none of its processes, sockets and mounts
// is there any more. The engine's mark of the boot stays for the engine to see.
func (c *Config) forgetLastBoot() error {
	marked, err := os.ReadFile(filepath.Join(c.Run, engine.BootFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	now, errNow := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err := errors.Join(err, errNow); err != nil || bytes.Equal(marked, now) {
		return err
	}
	for _, name := range []string{"keeper", "oci", "instances", "layers", "network", "build", "build-vm", "lazy"} {
		err = errors.Join(err, os.RemoveAll(filepath.Join(c.Run, name)))
	}
	return err
}

// launcher is the program that confines QEMU.
func (c *Config) launcher() string { return filepath.Join(c.Bin, "berth-qemu") }

// converterUser is who reads disks that strangers made: the id below those of
// instances.
func converterUser(host instance.Host) uint32 {
	if host.Rootless() {
		return host.MachineUser().First
	}
	return 0x6fff_ffff
}

// cache is where drivers keep what they can make anew.
func (c *Config) cache() string { return filepath.Join(c.Root, "cache") }

// build makes every subsystem, lowest first.
func (c *Config) build(ctx context.Context, u *undo.Stack) (b rest.Backend, err error) {
	host, err := c.host(ctx)
	if err != nil {
		return b, err
	}

	state, err := bolt.Open(filepath.Join(c.Root, "state.db"))
	if err != nil {
		return b, err
	}
	u.Add(func(context.Context) error { return state.Close() })
	images, err := c.openImages(host)
	if err != nil {
		return b, err
	}
	u.Add(func(context.Context) error { return images.Close() })
	disks, err := c.openStorage()
	if err != nil {
		return b, err
	}
	u.Add(func(context.Context) error { c.retireCgroups(); return nil })
	keep := keeper.New(keeper.Config{Run: c.Run, Binary: filepath.Join(c.Bin, "berth-keeper")})
	u.Add(func(ctx context.Context) error { return c.retireKeeper(ctx, keep) })
	networks, err := bridge.NewSet(bridge.Config{
		Dir: filepath.Join(c.Root, "network"), RunDir: filepath.Join(c.Run, "network"), Bridge: bridge.Name(c.Root, DefaultRoot), Log: c.Log,
		Ports: c.ports(),
	})
	if err != nil {
		return b, err
	}
	u.Add(func(context.Context) error { return networks.Close() })

	machines, err := c.machines(ctx, keep, host, u)
	if err != nil {
		return b, err
	}
	e, err := engine.New(ctx, engine.Config{
		Root: c.Root, Run: c.Run, Cgroup: c.cgroup(), Store: state, Images: images, Storage: disks, Networks: networks,
		Drivers: []instance.Driver{
			container.New(container.Config{Keeper: keep, Runtime: filepath.Join(c.Bin, "berth-oci"), State: filepath.Join(c.Run, "oci"), Host: host}),
			machines,
		},
		Host: host, Version: c.Version, Log: c.Log,
	})
	if err != nil {
		return b, err
	}
	u.Add(func(context.Context) error { return e.Close() })
	b = rest.Engine(e)
	for _, place := range []struct {
		builds *rest.Builds
		vm     bool
	}{{&b.Builds, false}, {&b.UntrustedBuilds, true}} {
		builds, err := c.builds(ctx, host, place.vm, images, networks, e, u)
		if err != nil {
			return b, err
		}
		*place.builds = builds
	}
	return b, c.serveRegistry(ctx, images, u)
}

// openImages opens the image store, with a place for the directories of builds.
func (c *Config) openImages(host instance.Host) (*image.Store, error) {
	directories, err := overlay.NewSnapshotter(build.SnapshotsDir(c.Root), overlay.AsynchronousRemove)
	if err != nil {
		return nil, err
	}
	return image.Open(c.Root, image.Options{
		Policy: c.Policy, Verifier: trust.Program{Path: filepath.Join(c.Bin, "berth-verify"), User: converterUser(host)}, Hosts: c.Hosts,
		Converter: image.Converter{Launcher: c.launcher(), User: converterUser(host)}, Agents: c.agents(), Snapshotter: directories,
		Lazy: c.lazy(host),
	})
}

// lazy says how images are used before they have arrived. In an ordinary user's namespace
// layers are unpacked, which takes all of them.
func (c *Config) lazy(host instance.Host) image.LazyOptions {
	if c.Rootless {
		return image.LazyOptions{}
	}
	return image.LazyOptions{
		Program: lazy.Program{Path: filepath.Join(c.Bin, "berth-lazy"), User: converterUser(host)},
		Run:     filepath.Join(c.Run, "lazy"), Log: c.Log,
	}
}

// builds makes a service of builds: of those whose steps are containers, or of untrusted
// ones, whose steps are VMs. What runs their steps is another keeper than that of
// instances: the builder's own.
func (c *Config) builds(ctx context.Context, host instance.Host, untrusted bool, images *image.Store, networks network.Set, users build.Users, u *undo.Stack) (*build.Service, error) {
	net, err := networks.Network(api.NetworkDefault)
	if err != nil {
		return nil, err
	}
	name := "build"
	if untrusted {
		name = "build-vm"
	}
	b := build.Config{
		Root: filepath.Join(c.Root, name), Run: filepath.Join(c.Run, name), Bin: c.Bin, Cgroup: c.cgroup(), VM: untrusted,
		Version: c.Version.Version, Hosts: c.Hosts, Host: host,
		Agents: c.agents(), Templates: c.Templates, TemplateUser: engine.TemplateUser(host),
	}
	keep := keeper.New(keeper.Config{Run: b.Run, Binary: filepath.Join(c.Bin, "berth-keeper")})
	o := build.Options{
		Config: b, Images: images, Network: net, Users: users, Keeper: keep, Log: c.Log,
		Steps: container.New(container.Config{Keeper: keep, Runtime: filepath.Join(c.Bin, "berth-oci"), State: b.Runtime(), Host: host}),
	}
	if untrusted {
		steps := vm.New(b.Machines(keep, c.Log))
		u.Add(func(context.Context) error { steps.Close(); return nil })
		o.Steps = steps
	}
	s, err := build.New(ctx, o)
	if err != nil {
		return nil, err
	}
	u.Add(func(context.Context) error { return s.Close() })
	return s, nil
}

// machines makes the driver of VMs.
func (c *Config) machines(ctx context.Context, keep *keeper.Client, host instance.Host, u *undo.Stack) (*vm.Driver, error) {
	d := vm.New(vm.Config{
		Keeper: keep, Launcher: c.launcher(), Agents: c.agents(), Cache: c.cache(), Host: host,
		Templates: c.Templates, TemplateUser: engine.TemplateUser(host), Cgroup: c.cgroup(), Log: c.Log,
	})
	u.Add(func(context.Context) error { d.Close(); return nil })
	return d, d.Recover(ctx)
}

// retireKeeper ends a keeper that keeps nothing. One that keeps something
// refuses, and stays for the next daemon.
func (c *Config) retireKeeper(ctx context.Context, k *keeper.Client) error {
	if err := k.Shutdown(ctx); err != nil && !api.IsKind(err, api.InUse) && !api.IsKind(err, api.Unavailable) {
		return err
	}
	return nil
}

// retireCgroups removes the parent of the instances' cgroups from every
// hierarchy. Where an instance still runs, or another daemon's does, the kernel
// refuses, and it stays.
func (c *Config) retireCgroups() {
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		dirs, _ := filepath.Glob(pattern + c.cgroup())
		for _, dir := range dirs {
			_ = os.Remove(dir)
		}
	}
}

// cgroup names the parent of all instances' cgroups. The ids of two daemons'
// instances never meet, so they can share it.
func (c *Config) cgroup() string { return path.Join("/", c.Cgroup, "berth") }
