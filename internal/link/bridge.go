package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Bridge is a bridge of the host.
type Bridge struct {
	Name    string       // at most 15 bytes
	MAC     string       // fixed, or it would change with the ports
	Address netip.Prefix // the host's own address on it
	MTU     int          // 0 for the kernel's default
}

// EnsureBridge makes the bridge, or makes an existing one as described. It
// fails where the name belongs to a device of another kind.
func EnsureBridge(b Bridge) error {
	if err := checkName(b.Name); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = b.Name, b.MTU
	mac, err := net.ParseMAC(b.MAC)
	if err != nil {
		return err
	}
	attrs.HardwareAddr = mac
	err = netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make bridge %s: %w", b.Name, err)
	}
	l, err := netlink.LinkByName(b.Name)
	if err != nil {
		return fmt.Errorf("bridge %s: %w", b.Name, err)
	}
	if l.Type() != "bridge" {
		return fmt.Errorf("device %s is a %s, not a bridge; rename it or choose another name", b.Name, l.Type())
	}
	// Before it is up: then it never has a link-local address.
	if err := disableIPv6(b.Name); err != nil {
		return err
	}
	if err := onlyAddress(l, b.Address); err != nil {
		return err
	}
	if l.Attrs().HardwareAddr.String() != mac.String() {
		if err := netlink.LinkSetHardwareAddr(l, mac); err != nil {
			return fmt.Errorf("bridge %s: set address %s: %w", b.Name, mac, err)
		}
	}
	if b.MTU != 0 && l.Attrs().MTU != b.MTU {
		if err := netlink.LinkSetMTU(l, b.MTU); err != nil {
			return fmt.Errorf("bridge %s: set MTU %d: %w", b.Name, b.MTU, err)
		}
	}
	return netlink.LinkSetUp(l)
}

// onlyAddress gives l the IPv4 address and takes away all others.
func onlyAddress(l netlink.Link, want netip.Prefix) error {
	have, err := Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_V4) })
	if err != nil {
		return err
	}
	found := false
	for _, a := range have {
		if a.IPNet.String() == want.String() {
			found = true
			continue
		}
		if err := netlink.AddrDel(l, &a); err != nil {
			return fmt.Errorf("remove %s from %s: %w", a.IPNet, l.Attrs().Name, err)
		}
	}
	if found {
		return nil
	}
	if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(want)}); err != nil {
		return fmt.Errorf("add %s to %s: %w", want, l.Attrs().Name, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Delete removes a device of the host; with one end of a veth pair goes the
// other. It is no error if there is none.
func Delete(name string) error {
	work, err := DeleteLater(name)
	if err != nil || work == nil {
		return err
	}
	return work()
}

// DeleteLater takes a device off its bridge's hands: it finds the device now and
// returns the work of deleting it, which takes tens of milliseconds, as the
// kernel waits for all processors to forget the device. A device that gets the
// same name in between is not touched. The work is nil where there is no such
// device.
func DeleteLater(name string) (work func() error, err error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	l, err := netlink.LinkByName(name)
	if _, absent := errors.AsType[netlink.LinkNotFoundError](err); absent {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("delete device %s: %w", name, err)
	}
	return func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Index = l.Attrs().Index // by number, not by name
		err := netlink.LinkDel(&netlink.Device{LinkAttrs: attrs})
		if err == nil || errors.Is(err, unix.ENODEV) {
			return nil
		}
		return fmt.Errorf("delete device %s: %w", name, err)
	}, nil
}

// Ports returns the names of the devices that are ports of the bridge, none
// where there is no such bridge.
func Ports(bridge string) ([]string, error) {
	b, err := netlink.LinkByName(bridge)
	if _, absent := errors.AsType[netlink.LinkNotFoundError](err); absent {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("bridge %s: %w", bridge, err)
	}
	links, err := Whole(netlink.LinkList)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, l := range links {
		if l.Attrs().MasterIndex == b.Attrs().Index {
			names = append(names, l.Attrs().Name)
		}
	}
	return names, nil
}

// maxName is IFNAMSIZ without the final NUL.
const maxName = 15

func checkName(name string) error {
	bad := name == "" || len(name) > maxName || name == "." || name == ".."
	for _, c := range []byte(name) {
		bad = bad || c <= ' ' || c == '/' || c == ':' || c >= 0x7f
	}
	if bad {
		return fmt.Errorf("%q cannot be the name of a network device", name)
	}
	return nil
}
