package dns

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/berthcloud/berth/internal/link"
	"github.com/berthcloud/berth/internal/link/linktest"
)

func TestMain(m *testing.M) { os.Exit(linktest.Main(m)) }

var (
	gateway = netip.MustParseAddr("127.53.0.1")
	subnet  = netip.MustParsePrefix("127.53.0.0/24")
	web     = netip.MustParseAddr("127.53.0.2")
)

// listen starts a server on loopback, with the given host's resolv.conf.
func listen(t *testing.T, resolvConf string) *Server {
	t.Helper()
	linktest.Root(t)
	up(t)
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte(resolvConf), 0o600); err != nil {
		t.Fatal(err)
	}
	s := New(Config{})
	s.upstream.path = path
	s.SetNames(map[string]netip.Addr{"web": web, "Front": web, "bad name..": web})
	if err := s.Listen(gateway, subnet); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// up brings loopback up in the tests' namespace.
func up(t *testing.T) {
	t.Helper()
	f, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := link.Prepare(int(f.Fd()), nil); err != nil {
		t.Fatal(err)
	}
}

// ask returns the code and the answers of the server.
func ask(t *testing.T, proto, name string, qtype uint16) string {
	t.Helper()
	c := dns.Client{Net: proto, Timeout: 5 * time.Second}
	m, _, err := c.Exchange(new(dns.Msg).SetQuestion(name, qtype), netip.AddrPortFrom(gateway, 53).String())
	if err != nil {
		return err.Error()
	}
	words := []string{dns.RcodeToString[m.Rcode]}
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			words = append(words, rr.A.String())
		case *dns.PTR:
			words = append(words, rr.Ptr)
		default:
			words = append(words, rr.String())
		}
	}
	return strings.Join(words, " ")
}

func TestLocal(t *testing.T) {
	s := listen(t, "")
	for _, tc := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"web.", dns.TypeA, "NOERROR 127.53.0.2"},
		{"WeB.", dns.TypeA, "NOERROR 127.53.0.2"},
		{"front.", dns.TypeA, "NOERROR 127.53.0.2"},
		{"web.berth.", dns.TypeA, "NOERROR 127.53.0.2"},
		{"web.", dns.TypeAAAA, "NOERROR"},
		{"web.", dns.TypeMX, "NOERROR"},
		{"nobody.berth.", dns.TypeA, "NXDOMAIN"},
		{"berth.", dns.TypeA, "NOERROR"},
		{"2.0.53.127.in-addr.arpa.", dns.TypePTR, "NOERROR front.berth."},
		{"3.0.53.127.in-addr.arpa.", dns.TypePTR, "NXDOMAIN"},
		{"nobody.", dns.TypeA, "SERVFAIL"}, // there is nobody to ask
		{"1.2.0.192.in-addr.arpa.", dns.TypePTR, "SERVFAIL"},
	} {
		for _, proto := range []string{"udp", "tcp"} {
			if got := ask(t, proto, tc.name, tc.qtype); got != tc.want {
				t.Errorf("%s %s %s: %s, want %s", proto, tc.name, dns.TypeToString[tc.qtype], got, tc.want)
			}
		}
	}
	s.SetNames(nil)
	if got := ask(t, "udp", "web.berth.", dns.TypeA); got != "NXDOMAIN" {
		t.Errorf("a removed name: %s", got)
	}
}

// TestForward: the host's name servers are asked in order; one on loopback,
// such as systemd-resolved's stub, and a dead one are no obstacle.
func TestForward(t *testing.T) {
	listen(t, "# comment\nnameserver 127.53.1.9\nnameserver 127.53.1.1\nnameserver not-an-address\nsearch example.com\n")
	upstream := &dns.Server{Addr: "127.53.1.1:53", Net: "udp", Handler: dns.HandlerFunc(func(w dns.ResponseWriter, req *dns.Msg) {
		m := new(dns.Msg).SetReply(req)
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: req.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.IPv4(192, 0, 2, 7)}}
		w.WriteMsg(m)
	})}
	started := make(chan struct{})
	upstream.NotifyStartedFunc = func() { close(started) }
	go upstream.ListenAndServe()
	<-started
	defer upstream.Shutdown()
	if got := ask(t, "udp", "example.com.", dns.TypeA); got != "NOERROR 192.0.2.7" {
		t.Errorf("got %s", got)
	}
	if got := ask(t, "udp", "secret.berth.", dns.TypeA); got != "NXDOMAIN" {
		t.Errorf("a name of Berth's domain was asked for outside: %s", got)
	}
}

// TestNoOpenResolver: a client outside the subnet gets no answer of use.
func TestNoOpenResolver(t *testing.T) {
	s := listen(t, "")
	for client, want := range map[string]bool{
		"127.53.0.9:1": true, "127.0.0.1:1": true, "[::ffff:127.53.0.9]:1": true,
		"192.0.2.1:1": false, "10.0.0.1:53": false, "": false,
	} {
		addr, _ := net.ResolveUDPAddr("udp", client)
		if client == "" {
			addr = &net.UDPAddr{}
		}
		if _, got := s.serves(addr); got != want {
			t.Errorf("%s: %v", client, got)
		}
	}
}

// TestMalformed sends what no client should.
func TestMalformed(t *testing.T) {
	listen(t, "")
	c, err := net.Dial("udp4", netip.AddrPortFrom(gateway, 53).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, junk := range []string{"", "x", strings.Repeat("\xff", 600), "\x00\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00"} {
		c.Write([]byte(junk))
	}
	if got := ask(t, "udp", "web.", dns.TypeA); got != "NOERROR 127.53.0.2" {
		t.Errorf("after junk: %s", got)
	}
	m := new(dns.Msg)
	m.Opcode = dns.OpcodeUpdate
	m.Question = []dns.Question{{Name: "web.", Qtype: dns.TypeSOA, Qclass: dns.ClassINET}}
	r, err := dns.Exchange(m, netip.AddrPortFrom(gateway, 53).String())
	if err == nil && r.Rcode == dns.RcodeSuccess {
		t.Error("an update was accepted")
	}
}

func TestListenAgain(t *testing.T) {
	s := listen(t, "")
	if err := s.Listen(gateway, subnet); err != nil {
		t.Error(err)
	}
	if err := New(Config{}).Listen(gateway, subnet); err == nil {
		t.Error("two servers on one address")
	}
	s.Close()
	if err := s.Listen(gateway, subnet); err != nil {
		t.Error(err)
	}
}

func TestUpstreams(t *testing.T) {
	linktest.Root(t)
	path := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(text string, age time.Duration) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(-age)
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	s := New(Config{})
	s.upstream.path = path
	if got := s.Upstreams(); len(got) > 0 {
		t.Errorf("without a file: %v", got)
	}
	write("nameserver 127.0.0.53\nnameserver 192.0.2.1\nnameserver fe80::1\nnameserver 192.0.2.2\n", time.Hour)
	s.upstream.looked = time.Time{}
	if got := fmt.Sprint(s.Upstreams()); got != "[192.0.2.1]" {
		t.Errorf("got %v", got)
	}
	write("nameserver 192.0.2.3\n", time.Minute)
	s.upstream.looked = time.Time{}
	if got := fmt.Sprint(s.Upstreams()); got != "[192.0.2.3]" {
		t.Errorf("after a change: %v", got)
	}
}

// FuzzReverse: no name makes the reverse parser fail otherwise than by saying no.
func FuzzReverse(f *testing.F) {
	f.Add("1.2.0.192.in-addr.arpa.")
	f.Add("a.b.c.d.in-addr.arpa.")
	f.Fuzz(func(t *testing.T, name string) {
		if ip, ok := fromReverse(name); ok && !ip.IsValid() {
			t.Errorf("%q: %v", name, ip)
		}
	})
}

// client is whoever asks; it takes the answer.
type client struct {
	dns.ResponseWriter
	answer *dns.Msg
}

func (*client) RemoteAddr() net.Addr             { return &net.UDPAddr{IP: web.AsSlice(), Port: 5353} }
func (c *client) WriteMsg(answer *dns.Msg) error { c.answer = answer; return nil }

// FuzzHandle: every message of an instance that can be read gets an answer that can
// be written, to its own question.
func FuzzHandle(f *testing.F) {
	for _, name := range []string{"web.", "WEB.berth.", "nobody.berth.", "berth.", ".", "2.0.53.127.in-addr.arpa.", "9.0.53.127.in-addr.arpa."} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypePTR, dns.TypeANY} {
			packed, err := new(dns.Msg).SetQuestion(name, qtype).Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(packed)
		}
	}
	s := New(Config{})
	s.upstream.path = filepath.Join(f.TempDir(), "resolv.conf") // there is none
	s.SetNames(map[string]netip.Addr{"web": web})
	s.where.Store(&where{gateway, subnet})
	f.Fuzz(func(t *testing.T, packet []byte) {
		req := new(dns.Msg)
		if req.Unpack(packet) != nil {
			return // miekg/dns answers those itself
		}
		c := &client{}
		s.handle(c, req)
		if c.answer == nil || c.answer.Id != req.Id || !c.answer.Response {
			t.Fatalf("to %v: %v", req, c.answer)
		}
		if _, err := c.answer.Pack(); err != nil && len(req.Question) == 1 {
			t.Errorf("to %v: %v: %v", req, c.answer, err)
		}
	})
}
