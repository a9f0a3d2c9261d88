package bridge

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/link"
)

// DefaultName is the bridge of the daemon that a host usually has one of.
const DefaultName = "berth0"

// Name returns the name of the bridge for a daemon whose state is in root: one
// daemon in the usual place gets DefaultName, others a name of their own, so
// that several live side by side.
func Name(root, usual string) string {
	if root == usual {
		return DefaultName
	}
	return fmt.Sprintf("berth%08x", hash(root))
}

func hash(s string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(s))
	return h.Sum32()
}

// The candidates for a network's prefix are the subnets of this size in the
// range from first on. They lie in 10.0.0.0/8, away from what Docker (172.17
// and up), podman (10.88) and libvirt (192.168.122) take.
const (
	subnetBits = 20
	subnets    = 10 * 16 // of 10.89.0.0 to 10.98.255.255
)

func candidate(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(89 + i/16), byte(i % 16 * 16), 0}), subnetBits)
}

// chooseSubnet returns the first candidate that overlaps nothing in use. Each
// bridge but the default one begins its search elsewhere, so that two daemons
// that start at the same moment do not choose the same.
func chooseSubnet(bridge string, used []netip.Prefix) (netip.Prefix, error) {
	start := 0
	if bridge != DefaultName {
		start = int(hash(bridge) % subnets)
	}
	for i := range subnets {
		c := candidate((start + i) % subnets)
		free := true
		for _, u := range used {
			free = free && !c.Overlaps(u)
		}
		if free {
			return c, nil
		}
	}
	return netip.Prefix{}, api.E("make network", api.Exhausted, bridge,
		errors.New("no subnet between 10.89.0.0 and 10.98.255.255 is free of other routes; name one"))
}

// usedSubnets returns what the host can reach other than by a default route or
// the bridge itself.
func usedSubnets(bridge string) ([]netip.Prefix, error) {
	own := -1
	if l, err := netlink.LinkByName(bridge); err == nil {
		own = l.Attrs().Index
	}
	var used []netip.Prefix
	add := func(n *net.IPNet) {
		if n == nil {
			return
		}
		a, ok := netip.AddrFromSlice(n.IP)
		if ones, _ := n.Mask.Size(); ok && ones > 0 {
			used = append(used, netip.PrefixFrom(a.Unmap(), ones).Masked())
		}
	}
	routes, err := link.Whole(listRoutes)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.LinkIndex != own {
			add(r.Dst)
		}
	}
	// An address of an interface that is down has no route yet.
	addrs, err := link.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if a.LinkIndex != own {
			add(a.IPNet)
		}
	}
	return used, nil
}

func listRoutes() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) }

// maxMTU is what a network has unless the way out is narrower.
const maxMTU = 1500

// uplinkMTU returns the MTU of the interface with the default route, at most
// maxMTU: an overlay or a tunnel below the host must not have to fragment.
func uplinkMTU() int {
	mtu := maxMTU
	routes, err := link.Whole(listRoutes)
	if err != nil {
		return mtu
	}
	for _, r := range routes {
		if r.Dst != nil {
			if ones, _ := r.Dst.Mask.Size(); ones > 0 {
				continue
			}
		}
		if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			mtu = min(mtu, l.Attrs().MTU)
		}
	}
	return mtu
}
