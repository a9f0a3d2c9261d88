package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/build"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/undo"
)

// stepPIDs is how many processes and threads a step may have, as an instance by default.
const stepPIDs = 4096

// prepare acquires what a step needs, and writes down what it is made from, for whoever
// has to end it in this builder's place. What it acquires is on the undo stack.
func (x *runner) prepare(ctx context.Context, id string, root executor.Mount, mounts []executor.Mount, process executor.ProcessInfo, u *undo.Stack) (*instance.Prepared, error) {
	m := process.Meta
	if err := possible(&m); err != nil {
		return nil, err
	}
	dir := filepath.Join(x.config.StepsDir(), id[:12])
	got, err := x.begin(ctx, id, &m, u, dir)
	if err != nil {
		return nil, err
	}
	p := plan(id, dir, x.config.Cgroup, &m, got)
	p.Process.OpenStdin, p.Process.StdinOnce = process.Stdin != nil, process.Stdin != nil
	if p.HostNet {
		if p.DNS, err = hostServers("/etc/resolv.conf"); err != nil {
			return nil, err
		}
	}
	for _, one := range mounts {
		if err := x.mount(ctx, p, one, u); err != nil {
			return nil, fmt.Errorf("mount %s: %w", one.Dest, err)
		}
	}
	if err := x.root(ctx, p, root, mounts, &m, u); err != nil {
		return nil, err
	}
	return p, record(p)
}

// begin makes a step's directories and has the daemon reserve what it needs.
func (x *runner) begin(ctx context.Context, id string, m *executor.Meta, u *undo.Stack, dirs ...string) (build.Step, error) {
	for _, dir := range dirs {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return build.Step{}, err
		}
		u.Add(func(context.Context) error { return os.RemoveAll(dir) })
	}
	got, err := x.daemon.Begin(ctx, id, m.NetMode == pb.NetMode_UNSET)
	if err == nil {
		u.Add(func(ctx context.Context) error { return x.daemon.End(ctx, id) })
	}
	return got, err
}

// record writes down what a step is made from.
func record(p *instance.Prepared) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(p.RunDir, build.PreparedName), text, 0o600)
}

// possible refuses what a step cannot have here.
func possible(m *executor.Meta) error {
	switch {
	case m.SecurityMode == pb.SecurityMode_INSECURE:
		return errors.New("--security=insecure: no step of a build has rights over the host; run such a command in a VM")
	case len(m.CDIDevices) > 0:
		return errors.New("--device: no step of a build has devices of the host")
	case m.Proxy != nil:
		return errors.New("a build's network cannot be recorded here")
	}
	return nil
}

// plan says what a step is, but for its filesystems: a container like others, which may
// gain rights by setuid programs, as installers of packages do.
func plan(id, dir, cgroup string, m *executor.Meta, got build.Step) *instance.Prepared {
	short := id[:12]
	p := &instance.Prepared{
		ID: id, Dir: dir, RunDir: dir, Hostname: m.Hostname, Users: got.Users,
		Cgroup:  filepath.Join(cgroup, id),
		HostNet: m.NetMode == pb.NetMode_HOST,
		Process: instance.Process{
			Args: m.Args, Env: m.Env, User: m.User, WorkingDir: m.Cwd, TTY: m.Tty, StopSignal: int(unix.SIGKILL),
		},
	}
	if p.Hostname == "" {
		p.Hostname = short
	}
	if p.Process.WorkingDir == "" {
		p.Process.WorkingDir = "/"
	}
	p.Spec = api.Spec{Kind: api.Container, Name: "build step " + short, AutoRemove: true, Limits: api.Limits{PIDs: stepPIDs}}
	p.Spec.Security.NewPrivs, p.Spec.Security.ReadOnly = true, m.ReadonlyRootFS
	for _, l := range m.Ulimit {
		p.Spec.Ulimits = append(p.Spec.Ulimits, api.Ulimit{Name: l.Name, Soft: l.Soft, Hard: l.Hard})
	}
	own := "127.0.1.1"
	if ep := got.Endpoint; ep != nil {
		plug := instance.Interface{Network: ep.Network, Name: "eth0", HostName: ep.HostName, Bridge: ep.Bridge, MAC: ep.MAC, MTU: ep.MTU}
		for _, a := range ep.Address {
			plug.Address = append(plug.Address, a.String())
			own = a.Addr().String()
		}
		if ep.Gateway.IsValid() {
			plug.Gateway = ep.Gateway.String()
		}
		for _, a := range ep.DNS {
			p.DNS = append(p.DNS, a.String())
		}
		p.Interfaces = []instance.Interface{plug}
	}
	p.Hosts = []instance.HostsEntry{{Address: own, Names: []string{p.Hostname}}}
	for _, h := range m.ExtraHosts {
		p.Hosts = append(p.Hosts, instance.HostsEntry{Address: h.IP.String(), Names: []string{h.Host}})
	}
	return p
}

// hostServers returns the name servers of a resolv.conf.
func hostServers(path string) (servers []string, err error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "nameserver" {
			servers = append(servers, f[1])
		}
	}
	return servers, err
}
