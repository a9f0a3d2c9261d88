package rootless

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// Forward is the process that listens on published ports of the host and runs pasta,
// until it is asked to end. It calls ready once it answers.
func Forward(ctx context.Context, dir string, log *slog.Logger, ready func()) error {
	holder, files, err := ask(ctx, dir, holdSocket, request{Op: opNamespaces})
	closeFiles(files)
	if err != nil {
		return err
	}
	defer keepPasta(ctx, dir, holder.PID, log)()
	l, err := listen(dir, forwardSocket)
	if err != nil {
		return err
	}
	f := &forwarder{dir: dir, log: log, leads: map[listenKey]*lead{}}
	defer f.closeAll()
	ready()
	return serve(ctx, l, func(ctx context.Context, r request) ([]*os.File, error) {
		switch {
		case r.Op == opTry && len(r.Ports) == 1:
			return nil, f.try(r.Ports[0])
		case r.Op == opLead:
			return nil, f.lead(r.Ports)
		case r.Op == opEnd:
			f.closeAll()
			return nil, nil
		}
		return nil, fmt.Errorf("unknown operation %q", r.Op)
	})
}

// forwarder leads ports.
type forwarder struct {
	dir string
	log *slog.Logger

	mu    sync.Mutex
	leads map[listenKey]*lead
}

// listenKey is where a port is listened on.
type listenKey struct {
	network string
	host    netip.AddrPort
}

// lead is one port that is listened on.
type lead struct {
	io.Closer

	mu sync.Mutex
	to netip.AddrPort
}

// redirect leads new clients to another instance. One who goes on sending datagrams is a
// new client.
func (l *lead) redirect(to netip.AddrPort) {
	l.mu.Lock()
	same := l.to == to
	l.to = to
	l.mu.Unlock()
	if d, ok := l.Closer.(*datagrams); ok && !same {
		d.forget()
	}
}

func (l *lead) target() netip.AddrPort {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to
}

// try fails with EADDRINUSE or its like where the port cannot be listened on. One that
// is led already can.
func (f *forwarder) try(p Port) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.leads[listenKey{p.Network, p.Host}] != nil {
		return nil
	}
	c, err := f.open(p, &lead{})
	if err != nil {
		return err
	}
	return c.Close()
}

// lead leads these ports and no others. Connections under way stay. If it fails,
// nothing has changed.
func (f *forwarder) lead(ports []Port) (err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	next, fresh := map[listenKey]*lead{}, map[listenKey]func(){}
	defer func() {
		if err != nil {
			for key := range fresh {
				next[key].Close()
			}
		}
	}()
	for _, p := range ports {
		key := listenKey{p.Network, p.Host}
		if l := f.leads[key]; l != nil {
			next[key] = l
			continue
		}
		l := &lead{to: p.To}
		run, err := f.listen(p, l)
		if err != nil {
			return err
		}
		next[key], fresh[key] = l, run
	}
	for key, l := range f.leads {
		if next[key] == nil {
			l.Close()
		}
	}
	for _, p := range ports {
		next[listenKey{p.Network, p.Host}].redirect(p.To)
	}
	for _, run := range fresh {
		go run()
	}
	f.leads = next
	return nil
}

func (f *forwarder) closeAll() { _ = f.lead(nil) }

// open listens on a port and serves nobody.
func (f *forwarder) open(p Port, l *lead) (io.Closer, error) {
	_, err := f.listen(p, l)
	return l.Closer, err
}

// listen listens on a port and returns what serves it.
func (f *forwarder) listen(p Port, l *lead) (run func(), err error) {
	if p.Network == "udp" {
		conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(p.Host))
		if err != nil {
			return nil, err
		}
		u := newDatagrams(f, conn, l)
		l.Closer = u
		return u.run, nil
	}
	// Not multipath TCP, which a client sees and cannot use here.
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	listener, err := config.Listen(context.Background(), "tcp4", p.Host.String())
	if err != nil {
		return nil, err
	}
	l.Closer = listener
	return func() { f.acceptAll(listener, l) }, nil
}

func (f *forwarder) acceptAll(listener net.Listener, l *lead) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors: some will end
			<-time.After(100 * time.Millisecond)
			continue
		}
		go f.carry(conn.(*net.TCPConn), l.target())
	}
}

// carry connects a client to its instance and copies until both have ended.
func (f *forwarder) carry(client *net.TCPConn, to netip.AddrPort) {
	defer client.Close()
	inner, err := f.connect("tcp", client.RemoteAddr().(*net.TCPAddr).AddrPort(), to)
	if err != nil {
		f.log.Warn("a client of a published port is sent away", "to", to, "error", err)
		return
	}
	defer inner.Close()
	server := inner.(*net.TCPConn)
	done := make(chan struct{})
	go func() {
		defer close(done)
		relay(server, client)
	}()
	relay(client, server)
	<-done
}

// relay copies, within the kernel, until the source has ended, and says so to the
// destination. One that fails ends the other direction too.
func relay(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		from.Close()
		return
	}
	_ = to.CloseWrite()
}

// connect returns a connection of the inside that comes from the client. One on the
// host's loopback cannot be answered, and appears as the gateway.
func (f *forwarder) connect(network string, client, to netip.AddrPort) (net.Conn, error) {
	from := netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
	if from.Addr().IsLoopback() {
		from = netip.AddrPort{}
	}
	_, files, err := ask(context.Background(), f.dir, holdSocket, request{Op: opConnect, From: from, Ports: []Port{{Network: network, To: to}}})
	if err != nil {
		return nil, err
	}
	defer closeFiles(files)
	if len(files) != 1 {
		return nil, errors.New("no socket came")
	}
	return net.FileConn(files[0])
}
