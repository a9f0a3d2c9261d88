package rootless

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// idle is how long a client of a UDP port may be silent before he is forgotten, as
// conntrack does with a stream (nf_conntrack_udp_timeout_stream).
const idle = 2 * time.Minute

// maxClients bounds the clients of one UDP port: each takes a descriptor, and their
// addresses can be forged.
const maxClients = 512

// datagrams carries the datagrams of one UDP port: one socket of the inside for each
// client, so that answers are told apart.
type datagrams struct {
	f    *forwarder
	lead *lead
	conn *net.UDPConn

	mu      sync.Mutex
	clients map[netip.AddrPort]net.Conn
	closed  bool
}

func newDatagrams(f *forwarder, conn *net.UDPConn, l *lead) *datagrams {
	// Which of the host's addresses the client sent to: the answer comes from there.
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_PKTINFO, 1) })
	}
	return &datagrams{f: f, lead: l, conn: conn, clients: map[netip.AddrPort]net.Conn{}}
}

// Close ends the port and all its clients.
func (d *datagrams) Close() error {
	err := d.conn.Close()
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.forget()
	return err
}

// forget ends the sockets of all clients.
func (d *datagrams) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.clients {
		c.Close()
	}
	clear(d.clients)
}

// maxDatagram is the most that UDP carries, in bytes.
const maxDatagram = 65535

func (d *datagrams) run() {
	body, oob := make([]byte, maxDatagram), make([]byte, unix.CmsgSpace(unix.SizeofInet4Pktinfo))
	for {
		n, oobn, _, client, err := d.conn.ReadMsgUDPAddrPort(body, oob)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of an answer
		}
		if inner := d.inner(client, answerFrom(oob[:oobn])); inner != nil {
			_, _ = inner.Write(body[:n])
		}
	}
}

// inner returns the client's socket of the inside, or nil where he cannot have one:
// datagrams may be lost.
func (d *datagrams) inner(client netip.AddrPort, from []byte) net.Conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.clients[client]; c != nil {
		return c
	}
	if d.closed || len(d.clients) >= maxClients {
		return nil
	}
	c, err := d.f.connect("udp", client, d.lead.target())
	if err != nil {
		d.f.log.Warn("a datagram to a published port is lost", "to", d.lead.target(), "error", err)
		return nil
	}
	d.clients[client] = c
	go d.answer(client, c, from)
	return c
}

// answer carries what the instance answers one client, until neither says anything.
func (d *datagrams) answer(client netip.AddrPort, inner net.Conn, from []byte) {
	defer func() {
		d.mu.Lock()
		if d.clients[client] == inner { // not his next one
			delete(d.clients, client)
		}
		d.mu.Unlock()
		inner.Close()
	}()
	body := make([]byte, maxDatagram)
	for {
		_ = inner.SetReadDeadline(time.Now().Add(idle))
		n, err := inner.Read(body)
		if err != nil {
			return
		}
		_, _, _ = d.conn.WriteMsgUDPAddrPort(body[:n], from, client)
	}
}

// answerFrom makes of the control message that tells where a datagram came to the one
// that has the answer come from there.
func answerFrom(oob []byte) []byte {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo {
			// struct in_pktinfo: interface, address to come from, address of the header. Any
			// interface may carry the answer.
			var info unix.Inet4Pktinfo
			copy(info.Spec_dst[:], m.Data[8:12])
			return unix.PktInfo4(&info)
		}
	}
	return nil
}
