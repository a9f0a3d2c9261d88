// Package dns is the name server of a network: it answers for the instances
// and asks the host's own name servers for everything else.
//
// It answers the names it was given, bare and with the suffix ".berth", and
// the addresses of its subnet backwards. Names below ".berth" that it does not
// know do not exist; they are never asked for outside.
//
// A client that is on several networks is told the names of all of them, whichever
// server it asks. One of an internal network asks for nothing outside: questions are
// a way out, too (CVE-2024-29018).
//
// It listens on one address, the network's gateway, and answers only clients of
// the subnet and of the host itself: the gateway's address can be reached
// through the host's other interfaces too, and an open resolver is a weapon.
package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Suffix is the domain of instances.
const Suffix = "berth."

const (
	ttl        = 5 // seconds; an instance's address changes with its restart
	maxAsking  = 256
	maxTimeout = 2 * time.Second // for one answer of one upstream
)

// Server is a name server. Its methods may be called concurrently.
type Server struct {
	names    atomic.Pointer[names]
	upstream upstreams
	asking   chan struct{} // a place for each question that is asked outside
	cfg      Config

	where atomic.Pointer[where]

	mu  sync.Mutex
	udp *dns.Server
	tcp *dns.Server
}

// Config says how a server answers.
type Config struct {
	Internal bool // nothing outside exists
	// Beyond returns the servers of the other networks that a client is on; nil: of
	// none.
	Beyond func(client netip.Addr) []*Server
}

// where says at which address a server listens, and for whom.
type where struct {
	addr   netip.Addr
	subnet netip.Prefix
}

// names are the two directions of what the server knows.
type names struct {
	forward map[string]netip.Addr // lower case, fully qualified without the suffix: "web."
	reverse map[netip.Addr]string
}

// New returns a server that does not listen yet.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, asking: make(chan struct{}, maxAsking), upstream: upstreams{path: "/etc/resolv.conf"}}
	s.names.Store(&names{})
	s.where.Store(&where{})
	return s
}

// SetNames replaces all names.
func (s *Server) SetNames(to map[string]netip.Addr) {
	n := &names{forward: make(map[string]netip.Addr, len(to)), reverse: make(map[netip.Addr]string, len(to))}
	for name, addr := range to {
		name = strings.ToLower(dns.Fqdn(name))
		if _, ok := dns.IsDomainName(name); !ok {
			continue
		}
		n.forward[name] = addr
		if old, ok := n.reverse[addr]; !ok || name < old {
			n.reverse[addr] = name
		}
	}
	s.names.Store(n)
}

// Listen begins to answer on port 53 of addr, by UDP and TCP, for clients of
// subnet. Listening on the same address again does nothing.
func (s *Server) Listen(addr netip.Addr, subnet netip.Prefix) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.udp != nil {
		if *s.where.Load() == (where{addr, subnet}) {
			return nil
		}
		s.stop()
	}
	at := netip.AddrPortFrom(addr, 53).String()
	packets, err := net.ListenPacket("udp4", at)
	if err != nil {
		return fmt.Errorf("answer names: %w", err)
	}
	streams, err := net.Listen("tcp4", at)
	if err != nil {
		packets.Close()
		return fmt.Errorf("answer names: %w", err)
	}
	s.where.Store(&where{addr, subnet})
	handler := dns.HandlerFunc(s.handle)
	s.udp = &dns.Server{PacketConn: packets, Handler: handler}
	s.tcp = &dns.Server{Listener: streams, Handler: handler, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second}
	for _, srv := range []*dns.Server{s.udp, s.tcp} {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		go func() { _ = srv.ActivateAndServe() }() // until stop
		<-started
	}
	return nil
}

// Close ends answering.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
	return nil
}

// stop closes the sockets. The caller holds mu.
func (s *Server) stop() {
	if s.udp == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	// Questions still asked outside are not waited for.
	_ = s.udp.ShutdownContext(ctx)
	_ = s.tcp.ShutdownContext(ctx)
	s.udp, s.tcp = nil, nil
}

// Upstreams returns the host's name servers that an instance can reach by
// itself: not those on the host's loopback.
func (s *Server) Upstreams() []netip.Addr {
	var out []netip.Addr
	for _, a := range s.upstream.list() {
		if ip := a.Addr(); ip.Is4() && !ip.IsLoopback() {
			out = append(out, ip)
		}
	}
	return out
}

// handle answers one message.
func (s *Server) handle(w dns.ResponseWriter, req *dns.Msg) {
	client, ok := s.serves(w.RemoteAddr())
	if !ok {
		refuse(w, req, dns.RcodeRefused)
		return
	}
	if len(req.Question) != 1 || req.Opcode != dns.OpcodeQuery {
		refuse(w, req, dns.RcodeFormatError)
		return
	}
	if answer := s.known(req, client); answer != nil {
		_ = w.WriteMsg(answer)
		return
	}
	if s.cfg.Internal {
		refuse(w, req, dns.RcodeNameError)
		return
	}
	select {
	case s.asking <- struct{}{}:
		defer func() { <-s.asking }()
	default:
		refuse(w, req, dns.RcodeServerFailure)
		return
	}
	_, udp := w.RemoteAddr().(*net.UDPAddr)
	answer, err := s.forward(req, udp)
	if err != nil {
		refuse(w, req, dns.RcodeServerFailure)
		return
	}
	answer.Id = req.Id
	_ = w.WriteMsg(answer)
}

// refuse answers with a code alone. A client that cannot be answered asks again.
func refuse(w dns.ResponseWriter, req *dns.Msg, code int) {
	_ = w.WriteMsg(new(dns.Msg).SetRcode(req, code))
}

// serves returns a client's address, and whether it may ask.
func (s *Server) serves(client net.Addr) (netip.Addr, bool) {
	ap, err := netip.ParseAddrPort(client.String())
	if err != nil {
		return netip.Addr{}, false
	}
	ip := ap.Addr().Unmap()
	return ip, s.where.Load().subnet.Contains(ip) || ip.IsLoopback()
}

// known answers what concerns instances on a client's networks, and returns nil for
// all else. What one network does not know, another may.
func (s *Server) known(req *dns.Msg, client netip.Addr) *dns.Msg {
	answer := s.local(req)
	if answer != nil && answer.Rcode == dns.RcodeSuccess || s.cfg.Beyond == nil {
		return answer
	}
	for _, other := range s.cfg.Beyond(client) {
		if m := other.local(req); m != nil && (answer == nil || m.Rcode == dns.RcodeSuccess) {
			answer = m
		}
	}
	return answer
}

// local answers what concerns instances, and returns nil for all else.
func (s *Server) local(req *dns.Msg) *dns.Msg {
	q := req.Question[0]
	name := strings.ToLower(q.Name)
	known := s.names.Load()
	m := new(dns.Msg).SetReply(req)
	m.Authoritative, m.RecursionAvailable = true, true
	if ip, ok := fromReverse(name); ok {
		if !s.where.Load().subnet.Contains(ip) {
			return nil
		}
		who, ok := known.reverse[ip]
		if !ok {
			m.Rcode = dns.RcodeNameError
		} else if q.Qtype == dns.TypePTR || q.Qtype == dns.TypeANY {
			m.Answer = []dns.RR{&dns.PTR{Hdr: header(q.Name, dns.TypePTR), Ptr: who + Suffix}}
		}
		return m
	}
	bare, below := strings.CutSuffix(name, "."+Suffix)
	if below {
		bare += "."
	} else {
		bare = name
	}
	ip, ok := known.forward[bare]
	switch {
	case ok && (q.Qtype == dns.TypeA || q.Qtype == dns.TypeANY):
		m.Answer = []dns.RR{&dns.A{Hdr: header(q.Name, dns.TypeA), A: ip.AsSlice()}}
	case ok, name == Suffix:
		// It exists, without such a record: AAAA above all.
	case below:
		m.Rcode = dns.RcodeNameError
	default:
		return nil
	}
	return m
}

func header(name string, t uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: t, Class: dns.ClassINET, Ttl: ttl}
}

// fromReverse reads an address from its name below in-addr.arpa.
func fromReverse(name string) (netip.Addr, bool) {
	labels, ok := strings.CutSuffix(name, ".in-addr.arpa.")
	if !ok {
		return netip.Addr{}, false
	}
	parts := strings.Split(labels, ".")
	if len(parts) != 4 {
		return netip.Addr{}, false
	}
	ip, err := netip.ParseAddr(parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0])
	return ip, err == nil
}

var errNoUpstream = errors.New("the host has no name server")

// forward asks the host's name servers in order, by the client's protocol, and
// returns the first answer.
func (s *Server) forward(req *dns.Msg, udp bool) (*dns.Msg, error) {
	self := s.where.Load().addr
	c := &dns.Client{Net: "tcp", Timeout: maxTimeout}
	if udp {
		c.Net, c.UDPSize = "udp", dns.DefaultMsgSize
	}
	err := errNoUpstream
	for _, up := range s.upstream.list() {
		if up.Addr() == self {
			continue // a host that asks itself
		}
		var answer *dns.Msg
		if answer, _, err = c.Exchange(req, up.String()); err == nil {
			return answer, nil
		}
	}
	return nil, err
}
