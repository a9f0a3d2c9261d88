package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Veth is a pair of devices: one is a port of a bridge of the host, the other
// is in a network namespace.
type Veth struct {
	HostName  string         // the host's end, at most 15 bytes
	Bridge    string         // the host's end becomes a port of it
	Isolated  bool           // the port does not talk to other isolated ports
	Name      string         // the other end, in the namespace: eth0
	MAC       string         // of the other end
	Addresses []netip.Prefix // of the other end
	Gateway   netip.Addr     // of the default route; zero for none
	MTU       int            // of both; 0 for the bridge's
}

// Plug makes the pair with its other end directly in the namespace ns, up and
// with its addresses and routes. A device that has the host's name already is
// replaced: it is of a namespace that is going away. On failure nothing is
// left.
func Plug(ns int, v Veth) error {
	if err := errors.Join(checkName(v.HostName), checkName(v.Name)); err != nil {
		return err
	}
	mac, err := net.ParseMAC(v.MAC)
	if err != nil {
		return err
	}
	bridge, err := netlink.LinkByName(v.Bridge)
	if err != nil {
		return fmt.Errorf("bridge %s: %w", v.Bridge, err)
	}
	mtu := v.MTU
	if mtu == 0 {
		mtu = bridge.Attrs().MTU
	}
	req := newVeth(ns, v, bridge.Attrs().Index, mtu, mac)
	_, err = req.Execute(unix.NETLINK_ROUTE, 0)
	if errors.Is(err, unix.EEXIST) {
		if err := Delete(v.HostName); err != nil {
			return err
		}
		req = newVeth(ns, v, bridge.Attrs().Index, mtu, mac)
		_, err = req.Execute(unix.NETLINK_ROUTE, 0)
	}
	if err != nil {
		return fmt.Errorf("make %s with peer %s: %w", v.HostName, v.Name, err)
	}
	err = errors.Join(
		finishPort(v.HostName, v.Isolated),
		within(ns, func() error { return configure(v) }))
	if err != nil {
		return errors.Join(err, Delete(v.HostName))
	}
	awaitUp(v.HostName, v.Bridge)
	return nil
}

// upTimeout bounds the wait for devices that usually are up at once.
const upTimeout = 200 * time.Millisecond

// awaitUp waits until the port, and then the bridge, whose first port it may
// be, pass frames. The news that the other end is up reaches them in the
// background (linkwatch); a frame sent before is lost, and where it was an ARP
// request the sender repeats it only after a second. Devices that take longer
// are no error.
func awaitUp(names ...string) {
	deadline := time.Now().Add(upTimeout)
	for _, name := range names {
		for time.Now().Before(deadline) {
			l, err := netlink.LinkByName(name)
			if err != nil || l.Attrs().OperState == netlink.OperUp {
				break
			}
			<-time.After(time.Millisecond)
		}
	}
}

// newVeth is the one message that makes both ends, names them, puts each where
// it belongs and brings the host's end up (rtnetlink(7); VETH_INFO_PEER in linux/veth.h).
// The library would need five.
func newVeth(ns int, v Veth, bridge, mtu int, mac net.HardwareAddr) *nl.NetlinkRequest {
	up := nl.NewIfInfomsg(unix.AF_UNSPEC)
	up.Flags, up.Change = unix.IFF_UP, unix.IFF_UP
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.AddData(up)
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(v.HostName)))
	req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))))
	req.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(bridge))))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	// The peer cannot come up in this message: its own peer does not exist yet
	// (veth_open returns ENOTCONN).
	peer.AddChild(nl.NewIfInfomsg(unix.AF_UNSPEC))
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(v.Name))
	peer.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu)))
	peer.AddRtAttr(unix.IFLA_ADDRESS, []byte(mac))
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(ns)))
	req.AddData(info)
	return req
}

// configure gives the end in the namespace of the calling thread its addresses
// and routes.
func configure(v Veth) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := disableIPv6(v.Name); err != nil {
		return err
	}
	l, err := h.LinkByName(v.Name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", v.Name, err)
	}
	if err := h.LinkSetUp(l); err != nil {
		return fmt.Errorf("bring up %s: %w", v.Name, err)
	}
	for _, a := range v.Addresses {
		if err := h.AddrAdd(l, &netlink.Addr{IPNet: ipNet(a)}); err != nil {
			return fmt.Errorf("add %s to %s: %w", a, v.Name, err)
		}
	}
	if !v.Gateway.IsValid() {
		return nil
	}
	route := netlink.Route{LinkIndex: l.Attrs().Index, Gw: v.Gateway.AsSlice()}
	if err := h.RouteAdd(&route); err != nil {
		return fmt.Errorf("add default route via %s: %w", v.Gateway, err)
	}
	return nil
}

// finishPort sets what a port of a bridge needs beside its creation.
//
// Hairpin mode sends a frame back out of the port it came in by. Where
// br_netfilter is loaded (Docker and Kubernetes do that), the bridge itself
// carries out a DNAT whose target is on the bridge, so an instance that calls
// its own published port is answered through its own port.
func finishPort(name string, isolated bool) error {
	if err := disableIPv6(name); err != nil {
		return err
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetHairpin(l, true); err != nil {
		return fmt.Errorf("set hairpin mode of port %s: %w", name, err)
	}
	if !isolated {
		return nil
	}
	if err := netlink.LinkSetIsolated(l, true); err != nil {
		return fmt.Errorf("isolate port %s: %w", name, err)
	}
	return nil
}
