package guest

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/agent"
)

// openNetwork sets up what of the network every machine has alike.
func openNetwork() error {
	n, err := openNetlink()
	if err != nil {
		return err
	}
	defer n.close()
	if err := n.loopbackUp(); err != nil {
		return err
	}
	// As in a container: everybody may ping and listen on low ports.
	for name, value := range map[string]string{"ping_group_range": "0 2147483647", "ip_unprivileged_port_start": "0"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0); err != nil {
			return err
		}
	}
	return nil
}

// configureNetwork sets up the interfaces with static addresses. It speaks
// rtnetlink(7) itself: five kinds of message are less than a library.
func configureNetwork(interfaces []agent.Interface) error {
	if len(interfaces) == 0 {
		return nil
	}
	n, err := openNetlink()
	if err != nil {
		return err
	}
	defer n.close()
	for _, i := range interfaces {
		if err := n.configure(i); err != nil {
			return fmt.Errorf("interface %s: %w", i.Name, err)
		}
	}
	return nil
}

// reconfigureNetwork is configureNetwork in the copy of a machine: the addresses that its
// interfaces have are that one's.
func reconfigureNetwork(interfaces []agent.Interface) error {
	n, err := openNetlink()
	if err != nil {
		return err
	}
	defer n.close()
	for _, i := range interfaces {
		name, err := interfaceOf(i)
		if err != nil {
			return err
		}
		index, err := n.index(name)
		if err != nil {
			return err
		}
		i.Name = name // which the guest may have chosen, and programs know
		if err := n.flush(index); err != nil {
			return fmt.Errorf("interface %s: %w", name, err)
		}
		if err := n.configure(i); err != nil {
			return fmt.Errorf("interface %s: %w", name, err)
		}
	}
	return nil
}

// interfaceOf finds an interface that may have its address already.
func interfaceOf(i agent.Interface) (name string, err error) {
	if i.Device != "" {
		if name, err = interfaceByMAC(i.Device); err == nil {
			return name, nil
		}
	}
	return interfaceByMAC(i.MAC)
}

// configure names an interface, gives it its addresses and its way out.
func (n *netlink) configure(i agent.Interface) error {
	kernelName, err := interfaceOf(i)
	if err != nil {
		return err
	}
	// Berth's networks carry IPv4 only; a link-local address would be a way
	// around the rules for it. A kernel without IPv6 has no such file.
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+kernelName+"/disable_ipv6", []byte("1"), 0)
	if err := n.up(kernelName, i); err != nil {
		return err
	}
	index, err := n.index(i.Name)
	if err != nil {
		return err
	}
	for _, text := range i.Addresses {
		address, err := netip.ParsePrefix(text)
		if err != nil {
			return err
		}
		if err := n.addAddress(index, address); err != nil {
			return fmt.Errorf("address %s: %w", text, err)
		}
	}
	if i.Gateway == "" {
		return nil
	}
	gateway, err := netip.ParseAddr(i.Gateway)
	if err != nil {
		return err
	}
	if err := n.addDefaultRoute(index, gateway); err != nil {
		return fmt.Errorf("route by %s: %w", i.Gateway, err)
	}
	return nil
}

// interfaceByMAC returns the name the kernel gave to the interface.
func interfaceByMAC(mac string) (string, error) {
	const class = "/sys/class/net"
	entries, err := os.ReadDir(class)
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		address, err := os.ReadFile(class + "/" + entry.Name() + "/address")
		if err == nil && strings.EqualFold(strings.TrimSpace(string(address)), mac) {
			return entry.Name(), nil
		}
	}
	return "", fmt.Errorf("no device has the address %s", mac)
}

// netlink is a route netlink socket.
type netlink struct {
	fd  int
	seq uint32
}

func openNetlink() (*netlink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("netlink socket", err)
	}
	return &netlink{fd: fd}, nil
}

func (n *netlink) close() { unix.Close(n.fd) }

// loopbackUp brings up loopback, by the old request that is all a machine without
// a network needs: less code on the way to the entrypoint.
func (n *netlink) loopbackUp() error {
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP)
	return os.NewSyscallError("bring up loopback", unix.IoctlIfreq(n.fd, unix.SIOCSIFFLAGS, request))
}

// index returns the kernel's number of an interface.
func (n *netlink) index(name string) (int32, error) {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	err = unix.IoctlIfreq(n.fd, unix.SIOCGIFINDEX, request)
	return int32(request.Uint32()), os.NewSyscallError("find interface "+name, err)
}

// up gives the interface with the name its own name and address, its MTU where that
// is not zero, and brings it up.
func (n *netlink) up(name string, i agent.Interface) error {
	index, err := n.index(name)
	if err != nil {
		return err
	}
	body := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(body[4:], uint32(index))
	binary.NativeEndian.PutUint32(body[8:], unix.IFF_UP)
	binary.NativeEndian.PutUint32(body[12:], unix.IFF_UP)
	if i.Device != "" {
		mac, err := hex.DecodeString(strings.ReplaceAll(i.MAC, ":", ""))
		if err != nil {
			return err
		}
		body = attribute(body, unix.IFLA_ADDRESS, mac)
	}
	if i.Name != "" && i.Name != name {
		body = attribute(body, unix.IFLA_IFNAME, append([]byte(i.Name), 0))
	}
	if i.MTU > 0 {
		body = attribute(body, unix.IFLA_MTU, binary.NativeEndian.AppendUint32(nil, uint32(i.MTU)))
	}
	return n.call(unix.RTM_NEWLINK, 0, body)
}

func (n *netlink) addAddress(index int32, p netip.Prefix) error {
	body := make([]byte, unix.SizeofIfAddrmsg)
	body[0] = family(p.Addr())
	body[1] = byte(p.Bits())
	// The host's pool gives every address once, so looking for duplicates
	// would only delay the first packet.
	body[2] = unix.IFA_F_NODAD
	binary.NativeEndian.PutUint32(body[4:], uint32(index))
	body = attribute(body, unix.IFA_LOCAL, p.Addr().AsSlice())
	body = attribute(body, unix.IFA_ADDRESS, p.Addr().AsSlice())
	if p.Addr().Is4() && p.Bits() < 31 {
		broadcast := p.Masked().Addr().As4()
		host := ^uint32(0) >> p.Bits()
		binary.BigEndian.PutUint32(broadcast[:], binary.BigEndian.Uint32(broadcast[:])|host)
		body = attribute(body, unix.IFA_BROADCAST, broadcast[:])
	}
	return n.call(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, body)
}

func (n *netlink) addDefaultRoute(index int32, gateway netip.Addr) error {
	body := make([]byte, unix.SizeofRtMsg)
	body[0] = family(gateway)
	body[4] = unix.RT_TABLE_MAIN
	body[5] = unix.RTPROT_BOOT
	body[6] = unix.RT_SCOPE_UNIVERSE
	body[7] = unix.RTN_UNICAST
	body = attribute(body, unix.RTA_GATEWAY, gateway.AsSlice())
	body = attribute(body, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(index)))
	return n.call(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, body)
}

// flush takes all IPv4 addresses from an interface, and so the routes by them.
func (n *netlink) flush(index int32) error {
	var addresses [][]byte
	err := n.dump(unix.RTM_GETADDR, []byte{unix.AF_INET, 0, 0, 0, 0, 0, 0, 0}, func(body []byte) {
		if len(body) >= unix.SizeofIfAddrmsg && int32(binary.NativeEndian.Uint32(body[4:])) == index {
			addresses = append(addresses, slices.Clone(body))
		}
	})
	for _, body := range addresses {
		if err == nil {
			err = n.call(unix.RTM_DELADDR, 0, body)
		}
		if errors.Is(err, unix.EADDRNOTAVAIL) {
			err = nil // a secondary address has gone with its first
		}
	}
	return err
}

// dump asks for a list and calls each with the body of every message of it.
func (n *netlink) dump(kind uint16, body []byte, each func([]byte)) error {
	if err := n.send(kind, unix.NLM_F_DUMP, body); err != nil {
		return err
	}
	answer := make([]byte, 32<<10)
	for {
		k, _, err := unix.Recvfrom(n.fd, answer, 0)
		if err != nil {
			return os.NewSyscallError("netlink receive", err)
		}
		for rest := answer[:k]; len(rest) >= unix.SizeofNlMsghdr; {
			size, what := int(binary.NativeEndian.Uint32(rest)), binary.NativeEndian.Uint16(rest[4:])
			switch {
			case size < unix.SizeofNlMsghdr || size > len(rest) || what == unix.NLMSG_ERROR:
				return errors.New("netlink: the list is cut off")
			case what == unix.NLMSG_DONE:
				return nil
			}
			each(rest[unix.SizeofNlMsghdr:size])
			rest = rest[min((size+3)&^3, len(rest)):]
		}
	}
}

// call sends one request and waits for its acknowledgement.
func (n *netlink) call(kind, flags uint16, body []byte) error {
	if err := n.send(kind, flags|unix.NLM_F_ACK, body); err != nil {
		return err
	}
	answer := make([]byte, 8192)
	k, _, err := unix.Recvfrom(n.fd, answer, 0)
	if err != nil {
		return os.NewSyscallError("netlink receive", err)
	}
	if k < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return errors.New("netlink: no acknowledgement")
	}
	if code := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}

func (n *netlink) send(kind, flags uint16, body []byte) error {
	n.seq++
	message := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(body))
	binary.NativeEndian.PutUint32(message, uint32(unix.SizeofNlMsghdr+len(body)))
	binary.NativeEndian.PutUint16(message[4:], kind)
	binary.NativeEndian.PutUint16(message[6:], flags|unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(message[8:], n.seq)
	message = append(message, body...)
	return os.NewSyscallError("netlink send", unix.Sendto(n.fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
}

// attribute appends a netlink attribute, padded to four bytes.
func attribute(body []byte, kind uint16, value []byte) []byte {
	body = binary.NativeEndian.AppendUint16(body, uint16(4+len(value)))
	body = binary.NativeEndian.AppendUint16(body, kind)
	body = append(body, value...)
	for len(body)%4 != 0 {
		body = append(body, 0)
	}
	return body
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
