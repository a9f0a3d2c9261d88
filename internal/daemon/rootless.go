package daemon

import (
	"context"
	"net/netip"
	"os"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/network/bridge"
	"github.com/berthcloud/berth/internal/oci/cgroup"
	"github.com/berthcloud/berth/internal/rootless"
	"github.com/berthcloud/berth/internal/storage"
)

// host finds out what plans depend on.
func (c *Config) host(ctx context.Context) (instance.Host, error) {
	h, err := gatherHost()
	if err == nil {
		h.Disk = diskOf(c.Root)
		err = c.proveProcessor(ctx, &h)
	}
	if err != nil || !c.Rootless {
		return h, err
	}
	if h.KVM && !openToAll("/dev/kvm") {
		h.KVM, h.KVMReason = false, "QEMU runs as a subordinate user, to whom /dev/kvm is not open"
	}
	uids, gids, err := rootless.IDs()
	for _, r := range uids {
		h.UIDs = append(h.UIDs, instance.IDRange(r))
	}
	for _, r := range gids {
		h.GIDs = append(h.GIDs, instance.IDRange(r))
	}
	if c.Cgroup != "" {
		h.Controllers = cgroup.Given(c.Cgroup)
	}
	return h, err
}

// openToAll reports whether everybody may read and write a device.
func openToAll(device string) bool {
	info, err := os.Stat(device)
	return err == nil && info.Mode().Perm()&0o006 == 0o006
}

func (c *Config) openStorage() (*storage.Storage, error) {
	if c.Rootless {
		return storage.OpenUnpacked(c.Root, c.Run)
	}
	return storage.Open(c.Root, c.Run)
}

// ports returns what leads published ports where the network's rules cannot.
func (c *Config) ports() bridge.Ports {
	if c.Rootless {
		return ports{rootless.Ports{Dir: rootless.Dir(c.Run)}}
	}
	return nil
}

// ports speaks to package rootless in its own words.
type ports struct{ forward rootless.Ports }

func (p ports) Try(port api.Port) error {
	return p.forward.Try(context.Background(), hostPort(port, netip.AddrPort{}))
}

func (p ports) Lead(leads map[api.Port]netip.AddrPort) error {
	var list []rootless.Port
	for port, to := range leads {
		list = append(list, hostPort(port, to))
	}
	return p.forward.Lead(context.Background(), list)
}

func hostPort(p api.Port, to netip.AddrPort) rootless.Port {
	address, err := netip.ParseAddr(p.HostIP)
	if err != nil { // checked before: it is "", all addresses
		address = netip.IPv4Unspecified()
	}
	return rootless.Port{Network: p.Protocol, Host: netip.AddrPortFrom(address, p.HostPort), To: to}
}
