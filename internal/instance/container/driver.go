// Package container runs instances as containers, through the OCI runtime of
// package oci.
//
//	Plan     Prepared ─▶ config.json                                    (pure)
//	Create   bundle; the keeper runs berth-oci create; interfaces are plugged
//	Start    the runtime's start socket; returns when the entrypoint runs
//	Wait     the keeper, parent of the entrypoint, knows how it ended
//
// What a run leaves in its run directory, which is the bundle:
//
//	config.json                 the plan
//	hosts, hostname, resolv.conf  mounted into /etc; machine-id too, of a container
//	                            that boots its image's init
//	pid, console.sock           between runtime and keeper
//	exec-*                      commands beside the entrypoint, while they start
//
// The runtime's own state is below Config.State, under the instance's id.
package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/keeper"
	"github.com/berthcloud/berth/internal/link"
	"github.com/berthcloud/berth/internal/oci"
	"github.com/berthcloud/berth/internal/undo"
)

// Config is what a Driver is made of.
type Config struct {
	Keeper  *keeper.Client
	Runtime string // path of berth-oci
	State   string // directory of the runtime's state, as in RUN/oci
	Host    instance.Host
}

// Driver runs containers. It is safe for concurrent use.
type Driver struct {
	cfg     Config
	runtime *oci.Runtime
	used    atomic.Int64 // when a runtime was last asked for, in Unix nanoseconds
}

// New returns a driver.
func New(cfg Config) *Driver {
	return &Driver{cfg: cfg, runtime: &oci.Runtime{Root: cfg.State}}
}

// Kind returns api.Container.
func (*Driver) Kind() api.Kind { return api.Container }

// warm is how long a runtime that was used surely stands by: less than the second that
// package standby lets it.
const warm = int64(500 * time.Millisecond)

// Warm has a runtime stand by.
func (d *Driver) Warm(ctx context.Context) error {
	now := time.Now().UnixNano()
	if now-d.used.Swap(now) < warm {
		return nil
	}
	return d.cfg.Keeper.Warm(ctx, d.cfg.Runtime)
}

// Create makes the container and leaves it before its first instruction.
func (d *Driver) Create(ctx context.Context, p *instance.Prepared) (_ instance.Handle, err error) {
	spec, err := plan(p, d.cfg.Host)
	if err != nil {
		return nil, err
	}
	var u undo.Stack
	defer u.Run(ctx, &err)
	h := &handle{driver: d, p: p}
	// Delete takes back whatever of all this was made.
	u.Add(h.Delete)
	if err := h.writeBundle(spec); err != nil {
		return nil, h.fail("create", err)
	}
	var waiting *keeper.Waiting
	if h.kept, waiting, err = d.cfg.Keeper.StartWaiting(ctx, h.process()); err != nil {
		return nil, h.fail("create", err)
	}
	h.waiting.Store(waiting)
	if err := h.plug(h.kept.PID); err != nil {
		return nil, h.fail("create", err)
	}
	u.Release()
	return h, nil
}

// Adopt finds a run again: the keeper knows it as long as it was not deleted.
func (d *Driver) Adopt(ctx context.Context, p *instance.Prepared) (instance.Handle, error) {
	kept, err := d.cfg.Keeper.Status(ctx, p.ID)
	if err != nil {
		if api.IsKind(err, api.NotFound) {
			err = api.E("", api.NotFound, "", errors.New("it has no run"))
		}
		return nil, api.E("adopt", "", p.Spec.Name, err)
	}
	return &handle{driver: d, p: p, kept: kept}, nil
}

// process says how the keeper is to start and keep the container.
func (h *handle) process() keeper.Process {
	p, cfg := h.p, h.driver.cfg
	proc := keeper.Process{
		ID: p.ID, Mode: keeper.Runtime, Dir: p.RunDir,
		Args:    []string{cfg.Runtime, "--root", cfg.State, "create", "--bundle", p.RunDir, "--pid-file", h.inRun("pid")},
		PIDFile: h.inRun("pid"),
		Stdio: keeper.Stdio{
			Kind: keeper.Pipes, OpenStdin: p.Process.OpenStdin, StdinOnce: p.Process.StdinOnce,
			UID: p.Users.First, GID: p.Users.First, // the container's root, who hands them to its user
		},
		MemoryCgroup: memoryCgroup(cfg.Host.CgroupV2, p.Cgroup),
	}
	if p.LogPath != "" {
		proc.Log = &keeper.Log{Path: p.LogPath}
	}
	if p.Process.TTY {
		proc.Stdio.Kind = keeper.PTY
		proc.Stdio.Size = keeper.Size(p.Process.InitialSize)
		proc.Stdio.ConsoleSocket = h.inRun("console.sock")
		proc.Args = append(proc.Args, "--console-socket", proc.Stdio.ConsoleSocket)
	}
	proc.Args = append(proc.Args, p.ID)
	return proc
}

// machineIDFile is mounted at /etc/machine-id.
const machineIDFile = "machine-id"

// memoryCgroup is the directory in which the kernel counts OOM kills.
func memoryCgroup(v2 bool, path string) string {
	if v2 {
		return filepath.Join("/sys/fs/cgroup", path)
	}
	return filepath.Join("/sys/fs/cgroup/memory", path)
}

// writeBundle writes config.json and the files that are mounted into /etc.
func (h *handle) writeBundle(spec *specs.Spec) error {
	p := h.p
	config, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	type file struct{ name, text string }
	files := []file{{"hostname", p.Hostname + "\n"}, {"hosts", hostsFile(p)}, {"resolv.conf", resolvConf(p)}}
	if isSystem(p) {
		files = append(files, file{machineIDFile, instance.MachineID(p.ID) + "\n"})
	}
	for _, f := range files {
		path := h.inRun(f.name)
		if err := os.WriteFile(path, []byte(f.text), 0o644); err != nil {
			return err
		}
		// The container's root may change them, as it may with docker.
		if err := os.Chown(path, int(p.Users.First), int(p.Users.First)); err != nil {
			return err
		}
	}
	return os.WriteFile(h.inRun("config.json"), config, 0o600)
}

func hostsFile(p *instance.Prepared) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	for _, e := range p.Hosts {
		fmt.Fprintf(&b, "%s\t%s\n", e.Address, strings.Join(e.Names, " "))
	}
	return b.String()
}

func resolvConf(p *instance.Prepared) string {
	var b strings.Builder
	for _, server := range p.DNS {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	return b.String()
}

// plug gives the container's network namespace its interfaces. The entrypoint
// does not run yet: it finds them complete.
func (h *handle) plug(pid int) error {
	if h.p.HostNet {
		return nil
	}
	path := "/proc/" + strconv.Itoa(pid) + "/ns/net"
	ns, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(ns)
	lastGroup := uint32(math.MaxUint32)
	if h.driver.cfg.Host.Rootless() {
		lastGroup = h.driver.cfg.Host.SharedUsers().Size - 1
	}
	if err := link.Prepare(ns, link.ContainerSysctls(lastGroup)); err != nil {
		return err
	}
	for _, i := range h.p.Interfaces {
		v, err := veth(i)
		if err == nil {
			err = link.Plug(ns, v)
		}
		if err != nil {
			return fmt.Errorf("interface %s: %w", i.Name, err)
		}
	}
	return nil
}

func veth(i instance.Interface) (link.Veth, error) {
	v := link.Veth{HostName: i.HostName, Bridge: i.Bridge, Name: i.Name, MAC: i.MAC, MTU: i.MTU}
	for _, a := range i.Address {
		prefix, err := netip.ParsePrefix(a)
		if err != nil {
			return v, err
		}
		v.Addresses = append(v.Addresses, prefix)
	}
	if i.Gateway != "" {
		gateway, err := netip.ParseAddr(i.Gateway)
		if err != nil {
			return v, err
		}
		v.Gateway = gateway
	}
	return v, nil
}
