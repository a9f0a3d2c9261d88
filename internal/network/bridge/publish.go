package bridge

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/network"
)

// Free ports are chosen from the range that IANA leaves for that, and that the
// kernel does not choose a client's port from by default (32768 to 60999) as
// far as possible.
const (
	firstFreePort = 61000
	lastFreePort  = 65535
)

func hostIP(p api.Port) netip.Addr {
	a, _ := netip.ParseAddr(p.HostIP) // checked before; "" is the zero Addr
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

// collide reports whether two published ports claim a packet both.
func collide(a, b api.Port) bool {
	ia, ib := hostIP(a), hostIP(b)
	return a.Protocol == b.Protocol && a.HostPort == b.HostPort && (ia == ib || !ia.IsValid() || !ib.IsValid())
}

// targets returns where r's published ports lead.
func (r *record) targets() []target {
	ts := make([]target, len(r.Endpoint.Publish))
	for i, p := range r.Endpoint.Publish {
		ts[i] = target{proto: p.Protocol, hostIP: hostIP(p), hostPort: p.HostPort, to: netip.AddrPortFrom(r.address(), p.Port)}
	}
	return ts
}

// publish fills in r's free ports, refuses those that are taken, and holds
// them. The caller holds mu.
func (n *Network) publish(r *record) (err error) {
	defer func() {
		if err != nil {
			r.release()
		}
	}()
	for _, p := range r.Request.Publish {
		if p.HostPort != 0 {
			err = n.claim(r, p)
		} else {
			p, err = n.claimAny(r, p)
		}
		if err != nil {
			return err
		}
		r.Endpoint.Publish = append(r.Endpoint.Publish, p)
	}
	return nil
}

// claimAny claims a free port.
func (n *Network) claimAny(r *record, p api.Port) (api.Port, error) {
	for port := firstFreePort; port <= lastFreePort; port++ {
		p.HostPort = uint16(port)
		err := n.claim(r, p)
		if err == nil || !api.IsKind(err, api.InUse) {
			return p, err
		}
	}
	return p, api.E("publish", api.Exhausted, "port", fmt.Errorf("no port between %d and %d is free; name one", firstFreePort, lastFreePort))
}

// claim takes one port for r.
func (n *Network) claim(r *record, p api.Port) error {
	for _, id := range sortedKeys(n.endpoints) {
		other := n.endpoints[id]
		if id == r.Endpoint.ID {
			continue // it is replaced by r
		}
		for _, q := range other.Endpoint.Publish {
			if collide(p, q) {
				return errPortTaken(p, other.Endpoint.Names[0])
			}
		}
	}
	for _, q := range r.Endpoint.Publish {
		if collide(p, q) {
			return api.E("publish", api.InUse, network.PortName(p), errors.New("the instance publishes the port twice"))
		}
	}
	if name, taken := n.cfg.ledger.publisher(n.cfg.Bridge, p); taken {
		return errPortTaken(p, name)
	}
	try := tryListen
	if n.cfg.ledger.ports != nil {
		try = n.cfg.ledger.ports.Try
	}
	if err := try(p); err != nil {
		switch {
		case errors.Is(err, unix.EADDRINUSE):
			return api.E("publish", api.InUse, network.PortName(p), errors.New("another program of the host listens on the port; choose another"))
		case errors.Is(err, unix.EADDRNOTAVAIL):
			return api.E("publish", api.Invalid, network.PortName(p), errors.New("the host does not have this address"))
		case errors.Is(err, unix.EACCES):
			return api.E("publish", api.Denied, network.PortName(p), errors.New("an ordinary user's daemon may not listen on so low a port; choose one from the sysctl net.ipv4.ip_unprivileged_port_start up, 1024 by default"))
		}
		return api.E("publish", api.Internal, network.PortName(p), err)
	}
	if fd, err := bind(p); err == nil {
		r.held = append(r.held, fd)
	}
	return nil
}

func errPortTaken(p api.Port, by string) error {
	return api.E("publish", api.InUse, network.PortName(p), fmt.Errorf("the port is taken by instance %s; choose another", by))
}

// tryListen finds out whether a program could listen on the port.
func tryListen(p api.Port) error {
	addr := net.JoinHostPort(p.HostIP, fmt.Sprint(p.HostPort))
	if p.Protocol == "udp" {
		c, err := net.ListenPacket("udp4", addr)
		if err == nil {
			err = c.Close()
		}
		return err
	}
	l, err := net.Listen("tcp4", addr)
	if err == nil {
		err = l.Close()
	}
	return err
}

// bind binds a socket to the port and does nothing with it: it makes others
// fail who would listen there and never hear anything. It may fail where
// tryListen did not, for connections of a former listener that linger.
func bind(p api.Port) (int, error) {
	kind := unix.SOCK_STREAM
	if p.Protocol == "udp" {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	sa := &unix.SockaddrInet4{Port: int(p.HostPort)}
	if ip := hostIP(p); ip.IsValid() {
		sa.Addr = ip.As4()
	}
	if kind == unix.SOCK_DGRAM {
		// It hears what is not led away, as from outside while the rules are
		// not there yet, and must not gather that.
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 0)
	}
	if err = errors.Join(err, unix.Bind(fd, sa)); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// hold binds r's ports again, as far as they are free.
func (r *record) hold() {
	for _, p := range r.Endpoint.Publish {
		if fd, err := bind(p); err == nil {
			r.held = append(r.held, fd)
		}
	}
}

// release closes the sockets that hold r's ports.
func (r *record) release() {
	for _, fd := range r.held {
		unix.Close(fd)
	}
	r.held = nil
}
