package engine

import (
	"bytes"
	"context"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/network"
)

// Version names the build.
func (e *Engine) Version() api.VersionInfo { return e.version }

// Info describes the daemon and its host.
func (e *Engine) Info(ctx context.Context) (api.Info, error) {
	host, err := os.Hostname()
	if err != nil {
		return api.Info{}, err
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return api.Info{}, err
	}
	release, _, _ := bytes.Cut(uts.Release[:], []byte{0})
	images, err := e.images.List(ctx)
	if err != nil {
		return api.Info{}, err
	}
	info := api.Info{
		Version: e.version.Version, Host: host, Kernel: string(release), Arch: e.host.Arch,
		CPUs: e.host.CPUs, Memory: e.host.Memory, Root: e.root, Run: e.run, Cgroup: "v1",
		Instances: map[string]int{}, Images: len(images), Drivers: map[string]string{}, Hardware: e.host.KVMReason,
	}
	_ = e.onNetworks(func(n network.Network) error {
		info.Warnings = append(info.Warnings, n.Warnings(ctx)...)
		return nil
	})
	if e.host.CgroupV2 {
		info.Cgroup = "v2"
	}
	if e.host.Rootless() {
		if len(e.host.Controllers) == 0 {
			info.Cgroup = "none"
		}
		info.Warnings = append(info.Warnings, delegation(e.host)...)
	}
	for _, en := range e.entries() {
		info.Instances[string(en.snapshot().State)]++
	}
	for _, kind := range []api.Kind{api.Container, api.VM} {
		info.Drivers[string(kind)] = "ready"
		if _, ok := e.drivers[kind]; !ok {
			info.Drivers[string(kind)] = "not built into this daemon"
		} else if kind == api.VM && e.host.QEMU[e.host.Arch] == "" {
			info.Drivers[string(kind)] = "no QEMU on this host; install qemu-system-x86"
		}
	}
	return info, nil
}

// delegation warns of what an ordinary user's daemon cannot do for want of cgroups.
func delegation(host instance.Host) []string {
	if len(host.Controllers) == 0 {
		return []string{"no cgroup is delegated to this user: no limits, stats and pause; docs/rootless.md says how to have them, and berthd's log why it has none"}
	}
	var missing []string
	for _, name := range []string{"memory", "cpu", "cpuset", "pids", "freezer"} {
		if !host.Controls(name) {
			missing = append(missing, name)
		}
	}
	if missing == nil {
		return nil
	}
	return []string{"these cgroup controllers are not delegated to this user, and what takes them is refused: " + strings.Join(missing, ", ") + "; docs/rootless.md says how root can delegate them"}
}
