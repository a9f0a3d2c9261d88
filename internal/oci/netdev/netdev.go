// Package netdev moves network interfaces between network namespaces, for
// linux.netDevices (config-linux.md, Network Devices).
//
// It speaks rtnetlink itself (rtnetlink(7)): a library would be start-up time of each
// container, for four kinds of message.
package netdev

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Move moves the interface that has a name in one network namespace into another one,
// renames it, gives it its permanent global addresses again, which the move takes from
// it, and sets it up. An empty newName keeps the name; "%d" in it is replaced by the
// kernel with the first free number. Move returns the name that came of it. The
// namespaces are descriptors, -1 stands for the caller's own.
//
// When Move fails the interface is where it was.
func Move(from, to int, name, newName string) (moved string, err error) {
	src, err := dial(from)
	if err != nil {
		return "", err
	}
	defer src.close()
	dst, err := dial(to)
	if err != nil {
		return "", err
	}
	defer dst.close()
	link, err := src.link(name)
	if err != nil {
		return "", err
	}
	addresses, err := src.addresses(link.index)
	if err != nil {
		return "", fmt.Errorf("addresses: %w", err)
	}
	if newName == "" {
		newName = name
	}
	before, err := dst.links()
	if err != nil {
		return "", err
	}
	for _, l := range before {
		if l.name == newName {
			return "", fmt.Errorf("the other network namespace has a device %s already", newName)
		}
	}
	target, closeTarget, err := namespace(to)
	if err != nil {
		return "", err
	}
	defer closeTarget()
	if err := src.move(link, target, newName); err != nil {
		return "", fmt.Errorf("moving it into another network namespace: %w", err)
	}
	arrived, err := dst.arrival(before)
	if err == nil {
		err = dst.equip(arrived, addresses)
	}
	if err != nil {
		return "", errors.Join(err, bringBack(from, dst, arrived, name))
	}
	return arrived.name, nil
}

// bringBack undoes a move whose later steps failed.
func bringBack(from int, dst *conn, l link, name string) error {
	if l.index == 0 {
		return errors.New("the device is lost")
	}
	home, closeHome, err := namespace(from)
	if err != nil {
		return err
	}
	defer closeHome()
	return dst.move(l, home, name)
}

// namespace returns a descriptor of a namespace that may be the caller's own.
func namespace(fd int) (ns int, done func(), err error) {
	if fd >= 0 {
		return fd, func() {}, nil
	}
	fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	return fd, func() { unix.Close(fd) }, err
}

// link is an interface.
type link struct {
	index int32
	name  string
}

// link finds an interface by name.
func (c *conn) link(name string) (link, error) {
	all, err := c.links()
	if err != nil {
		return link{}, err
	}
	for _, l := range all {
		if l.name == name {
			return l, nil
		}
	}
	return link{}, errors.New("no such network interface")
}

// links lists the interfaces.
func (c *conn) links() ([]link, error) {
	replies, err := c.request(unix.RTM_GETLINK, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfInfomsg))
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	var list []link
	for _, m := range replies {
		if len(m) < unix.SizeofIfInfomsg {
			continue
		}
		l := link{index: int32(order.Uint32(m[4:]))}
		for _, a := range attributes(m[unix.SizeofIfInfomsg:]) {
			if a.kind == unix.IFLA_IFNAME {
				l.name = strings.TrimRight(string(a.value), "\x00")
			}
		}
		list = append(list, l)
	}
	return list, nil
}

// arrival returns the one interface that was not there before. Its index may be another
// one than it had, its name what the kernel made of a template.
func (c *conn) arrival(before []link) (link, error) {
	after, err := c.links()
	if err != nil {
		return link{}, err
	}
	known := map[int32]bool{}
	for _, l := range before {
		known[l.index] = true
	}
	for _, l := range after {
		if !known[l.index] {
			return l, nil
		}
	}
	return link{}, errors.New("the device has not arrived")
}

// move moves an interface into another namespace under a name. The kernel sets it down
// on the way.
func (c *conn) move(l link, to int, name string) error {
	body := linkMessage(l.index, 0, 0)
	body = appendAttribute(body, unix.IFLA_NET_NS_FD, order.AppendUint32(nil, uint32(to)))
	body = appendAttribute(body, unix.IFLA_IFNAME, append([]byte(name), 0))
	_, err := c.request(unix.RTM_SETLINK, unix.NLM_F_ACK, body)
	return err
}

// equip gives an interface addresses and sets it up.
func (c *conn) equip(l link, addresses [][]byte) error {
	for _, a := range addresses {
		order.PutUint32(a[4:], uint32(l.index))
		if _, err := c.request(unix.RTM_NEWADDR, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_REPLACE, a); err != nil {
			return fmt.Errorf("restoring an address: %w", err)
		}
	}
	if _, err := c.request(unix.RTM_SETLINK, unix.NLM_F_ACK, linkMessage(l.index, unix.IFF_UP, unix.IFF_UP)); err != nil {
		return fmt.Errorf("setting it up: %w", err)
	}
	return nil
}

// linkMessage is struct ifinfomsg.
func linkMessage(index int32, flags, change uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	order.PutUint32(b[4:], uint32(index))
	order.PutUint32(b[8:], flags)
	order.PutUint32(b[12:], change)
	return b
}

// addresses returns the permanent addresses of global scope of an interface as the
// messages that give it them again: "all permanent IP addresses (IFA_F_PERMANENT flag)
// of any family with global scope (RT_SCOPE_UNIVERSE value)".
func (c *conn) addresses(index int32) ([][]byte, error) {
	replies, err := c.request(unix.RTM_GETADDR, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfAddrmsg))
	if err != nil {
		return nil, err
	}
	var list [][]byte
	for _, m := range replies {
		// struct ifaddrmsg: family, prefix length, flags, scope, index.
		if len(m) < unix.SizeofIfAddrmsg || int32(order.Uint32(m[4:])) != index || m[3] != unix.RT_SCOPE_UNIVERSE {
			continue
		}
		flags := uint32(m[2])
		a := append([]byte(nil), m[:unix.SizeofIfAddrmsg]...)
		for _, attr := range attributes(m[unix.SizeofIfAddrmsg:]) {
			switch attr.kind {
			case unix.IFA_LABEL, unix.IFA_CACHEINFO: // the label is made of the old name
			case unix.IFA_FLAGS:
				flags = order.Uint32(attr.value)
				fallthrough
			default:
				a = appendAttribute(a, attr.kind, attr.value)
			}
		}
		if flags&unix.IFA_F_PERMANENT != 0 {
			list = append(list, a)
		}
	}
	return list, nil
}
