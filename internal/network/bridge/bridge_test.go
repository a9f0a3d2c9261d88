package bridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/link"
	"github.com/berthcloud/berth/internal/link/linktest"
	"github.com/berthcloud/berth/internal/network"
	"github.com/berthcloud/berth/internal/network/networktest"
)

func TestMain(m *testing.M) { os.Exit(linktest.Main(m)) }

// open opens a network in dir as a daemon would.
func open(t *testing.T, dir string, subnet string) *Network {
	t.Helper()
	linktest.Root(t)
	cfg := Config{Dir: filepath.Join(dir, "root"), RunDir: filepath.Join(dir, "run"), Bridge: "berthtest"}
	if subnet != "" {
		cfg.Subnet = netip.MustParsePrefix(subnet)
	}
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// kill ends a network as kill -9 ends its daemon: what the process holds is
// closed, the host stays as it is.
func (n *Network) kill() {
	n.dns.Close()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.endpoints {
		r.release()
	}
	n.closed = true
}

// testNetwork opens a network and, in the end, checks that it is gone without
// trace.
func testNetwork(t *testing.T, subnet string) (n *Network, reopen func() network.Network) {
	t.Helper()
	linktest.Root(t)
	if err := link.Prepare(selfNS(t), map[string]string{"net.ipv4.ip_forward": "0"}); err != nil {
		t.Fatal(err)
	}
	before := hostState(t)
	dir := t.TempDir()
	n = open(t, dir, subnet)
	t.Cleanup(func() {
		if err := n.Apply(context.Background(), nil); err != nil {
			t.Error(err)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		if after := hostState(t); after != before {
			t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
		}
	})
	return n, func() network.Network {
		n.kill()
		n = open(t, dir, subnet)
		return n
	}
}

func selfNS(t *testing.T) int {
	t.Helper()
	f, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return int(f.Fd())
}

// hostState is everything of the namespace that a network may change.
func hostState(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		fmt.Fprintln(&b, "link", l.Attrs().Name)
	}
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := c.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		fmt.Fprintln(&b, "table", table.Name)
	}
	forward, err := link.Sysctl(ipForward)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(&b, "forward", forward)
	return b.String()
}

func TestSuite(t *testing.T) {
	networktest.Run(t, func(t *testing.T) (network.Network, func() network.Network) {
		return testNetwork(t, "")
	})
}

// instance is an endpoint with a namespace plugged into it.
type instance struct {
	*linktest.NS
	network.Endpoint
}

func (i instance) addr() string { return i.Address[0].Addr().String() }

func attachInstance(t *testing.T, n *Network, req network.Request) instance {
	t.Helper()
	req.LinkKind = network.Veth
	if req.Names == nil {
		req.Names = []string{req.ID}
	}
	ep, err := n.Attach(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	i := instance{linktest.New(t), ep}
	plug(t, i)
	return i
}

func plug(t *testing.T, i instance) {
	t.Helper()
	plugAs(t, i, "eth0")
}

func plugAs(t *testing.T, i instance, name string) {
	t.Helper()
	if err := link.Prepare(i.FD(), link.ContainerSysctls(1<<31-1)); err != nil {
		t.Fatal(err)
	}
	err := link.Plug(i.FD(), link.Veth{
		HostName: i.HostName, Bridge: i.Bridge, Name: name, MAC: i.MAC, Addresses: i.Address, Gateway: i.Gateway, MTU: i.MTU,
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The world outside: a namespace with a wire to the host.
const (
	hostOutside  = "192.0.2.1"
	worldOutside = "192.0.2.2"
)

// outside makes it. It knows a way to the instances' subnet, by the host.
func outside(t *testing.T, subnet netip.Prefix) *linktest.NS {
	t.Helper()
	ns := linktest.New(t)
	prefix := func(a string) []netip.Prefix { return []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr(a), 24)} }
	if err := link.EnsureBridge(link.Bridge{Name: "wan", MAC: "02:00:00:00:00:01", Address: prefix(hostOutside)[0]}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(link.Delete("wire"), link.Delete("wan")); err != nil {
			t.Error(err)
		}
	})
	if err := link.Prepare(ns.FD(), nil); err != nil {
		t.Fatal(err)
	}
	err := link.Plug(ns.FD(), link.Veth{HostName: "wire", Bridge: "wan", Name: "eth0", MAC: "02:00:00:00:00:02", Addresses: prefix(worldOutside)})
	if err != nil {
		t.Fatal(err)
	}
	err = ns.Do(func() error {
		_, dst, _ := net.ParseCIDR(subnet.String())
		return netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(hostOutside)})
	})
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// serve answers connections and datagrams to the port in the namespace (nil:
// the host's) with the client's address.
func serve(t *testing.T, ns *linktest.NS, port int) {
	t.Helper()
	var l net.Listener
	var p net.PacketConn
	in(t, ns, func() (err error) {
		if l, err = net.Listen("tcp4", fmt.Sprint(":", port)); err != nil {
			return err
		}
		p, err = net.ListenPacket("udp4", fmt.Sprint(":", port))
		return err
	})
	t.Cleanup(func() { l.Close(); p.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			io.WriteString(c, host)
			c.Close()
		}
	}()
	go func() {
		buf := make([]byte, 100)
		for {
			_, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(from.String())
			p.WriteTo([]byte(host), from)
		}
	}()
}

func in(t *testing.T, ns *linktest.NS, fn func() error) {
	t.Helper()
	do := func(fn func() error) error { return fn() }
	if ns != nil {
		do = ns.Do
	}
	if err := do(fn); err != nil {
		t.Fatal(err)
	}
}

// talk returns the address that a server sees when called from the namespace,
// or "error".
func talk(ns *linktest.NS, proto, addr string) string {
	return talkWithin(10*time.Second, ns, proto, addr)
}

// shun expects that nobody answers, and therefore waits less.
func shun(ns *linktest.NS, proto, addr string) string {
	return talkWithin(500*time.Millisecond, ns, proto, addr)
}

func talkWithin(timeout time.Duration, ns *linktest.NS, proto, addr string) string {
	var answer string
	do := func() error {
		c, err := net.DialTimeout(proto+"4", addr, timeout)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(timeout))
		if proto == "udp" {
			if _, err := c.Write([]byte("who am I")); err != nil {
				return err
			}
		}
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		answer = string(buf[:n])
		return err
	}
	where := func(fn func() error) error { return fn() }
	if ns != nil {
		where = ns.Do
	}
	if where(do) != nil {
		return "error"
	}
	return answer
}

// TestReachability is the whole matrix: who reaches whom, by which way, and
// seen as whom. It is the test for network trust (attack class 17: CVE-2021-20199,
// where all traffic was seen as 127.0.0.1).
func TestReachability(t *testing.T) {
	n, _ := testNetwork(t, "10.89.0.0/24")
	world := outside(t, netip.MustParsePrefix("10.89.0.0/24"))
	web := attachInstance(t, n, network.Request{ID: "web", Publish: []api.Port{
		{HostPort: 8080, Port: 80}, {HostPort: 8080, Port: 80, Protocol: "udp"}, {HostIP: hostOutside, HostPort: 8081, Port: 80}}})
	peer := attachInstance(t, n, network.Request{ID: "peer"})
	serve(t, web.NS, 80)
	serve(t, world, 80)
	serve(t, nil, 9000)
	gateway := web.Gateway.String()
	for _, tc := range []struct {
		what string
		from *linktest.NS
		to   string
		seen string // as whom; "error": not reached
	}{
		{"instance to instance", peer.NS, web.addr() + ":80", peer.addr()},
		{"instance to the world: masqueraded", web.NS, worldOutside + ":80", hostOutside},
		{"host to instance", nil, web.addr() + ":80", gateway},
		{"world to published port: its own address", world, hostOutside + ":8080", worldOutside},
		{"world to port published on one address", world, hostOutside + ":8081", worldOutside},
		{"world to instance, past publishing", world, web.addr() + ":80", "error"},
		{"world to unpublished port", world, hostOutside + ":8082", "error"},
		{"host to published port, by its address", nil, hostOutside + ":8080", hostOutside},
		{"host to published port, by loopback", nil, "127.0.0.1:8080", gateway},
		{"host to published port, by another loopback address", nil, "127.1.2.3:8080", gateway},
		{"host by loopback to port published elsewhere", nil, "127.0.0.1:8081", "error"},
		{"instance to published port of another", peer.NS, hostOutside + ":8080", gateway},
		{"instance to its own published port", web.NS, gateway + ":8080", gateway},
		{"instance to the host's own service", peer.NS, gateway + ":9000", peer.addr()},
	} {
		protos := []string{"tcp", "udp"}
		if strings.Contains(tc.to, ":8081") {
			protos = protos[:1]
		}
		for _, proto := range protos {
			call := talk
			if tc.seen == "error" {
				call = shun
			}
			if got := call(tc.from, proto, tc.to); got != tc.seen {
				t.Errorf("%s, %s %s: seen as %s, want %s", tc.what, proto, tc.to, got, tc.seen)
			}
		}
	}
	if err := n.Detach(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	if got := shun(world, "tcp", hostOutside+":8080"); got != "error" {
		t.Errorf("the port outlives its instance: %s", got)
	}
}

// TestLoopbackGuard: route_localnet must not open the host's loopback services
// to instances (CVE-2020-8558).
func TestLoopbackGuard(t *testing.T) {
	n, _ := testNetwork(t, "10.89.0.0/24")
	i := attachInstance(t, n, network.Request{ID: "i"})
	serve(t, nil, 9001)
	err := i.Do(func() error {
		// The attacker sends 127.0.0.1 to the bridge.
		if err := link.SetSysctl("net.ipv4.conf.all.route_localnet", "1"); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.AddrDel(lo, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(8, 32)}}); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: &net.IPNet{IP: net.IPv4(127, 0, 0, 0), Mask: net.CIDRMask(8, 32)}, Gw: i.Gateway.AsSlice()})
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, proto := range []string{"tcp", "udp"} {
		if got := shun(i.NS, proto, "127.0.0.1:9001"); got != "error" {
			t.Errorf("%s: an instance reaches the host's loopback, seen as %s", proto, got)
		}
	}
}

// TestSpoofing: an instance cannot send with an address outside its network.
func TestSpoofing(t *testing.T) {
	n, _ := testNetwork(t, "10.89.0.0/24")
	world := outside(t, netip.MustParsePrefix("10.89.0.0/24"))
	serve(t, world, 80)
	i := attachInstance(t, n, network.Request{ID: "i"})
	err := i.Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(eth0, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(198, 51, 100, 1), Mask: net.CIDRMask(32, 32)}})
	})
	if err != nil {
		t.Fatal(err)
	}
	var got error
	i.Do(func() error {
		d := net.Dialer{Timeout: 500 * time.Millisecond, LocalAddr: &net.TCPAddr{IP: net.IPv4(198, 51, 100, 1)}}
		_, got = d.Dial("tcp4", worldOutside+":80")
		return nil
	})
	if got == nil {
		t.Error("a packet with a foreign source got out")
	}
}

// TestUDPFollows: a client that never stops sending is led to the instance that
// has the port now, before and after a change.
func TestUDPFollows(t *testing.T) {
	n, _ := testNetwork(t, "10.89.0.0/24")
	world := outside(t, netip.MustParsePrefix("10.89.0.0/24"))
	var client net.Conn
	in(t, world, func() (err error) {
		client, err = net.Dial("udp4", hostOutside+":8053")
		return err
	})
	defer client.Close()
	ask := func() string {
		client.SetDeadline(time.Now().Add(300 * time.Millisecond))
		client.Write([]byte("who?"))
		buf := make([]byte, 100)
		k, err := client.Read(buf)
		if err != nil {
			return "error"
		}
		return string(buf[:k])
	}
	if got := ask(); got != "error" {
		t.Fatalf("somebody answers: %s", got)
	}
	for _, id := range []string{"first", "second"} {
		i := attachInstance(t, n, network.Request{ID: id, Publish: []api.Port{{HostPort: 8053, Port: 53, Protocol: "udp"}}})
		var server net.PacketConn
		in(t, i.NS, func() (err error) {
			server, err = net.ListenPacket("udp4", ":53")
			return err
		})
		go func() {
			buf := make([]byte, 100)
			for {
				_, from, err := server.ReadFrom(buf)
				if err != nil {
					return
				}
				server.WriteTo([]byte(id), from)
			}
		}()
		got := "error"
		for range 10 { // the answer to an earlier packet, or its refusal, may come in between
			if got = ask(); got == id {
				break
			}
		}
		if got != id {
			t.Errorf("%s answers, want %s", got, id)
		}
		server.Close()
		if err := n.Detach(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRestart: nothing that instances use changes while the daemon is away or
// comes back, and Apply may be called at any time.
func TestRestart(t *testing.T) {
	n, reopen := testNetwork(t, "")
	web := attachInstance(t, n, network.Request{ID: "web", Publish: []api.Port{{HostPort: 8090, Port: 80}}})
	gone := attachInstance(t, n, network.Request{ID: "gone", Publish: []api.Port{{HostPort: 8091, Port: 80}}})
	serve(t, web.NS, 80)
	serve(t, gone.NS, 80)
	check := func(when string) {
		t.Helper()
		if got := talk(nil, "tcp", "127.0.0.1:8090"); got != web.Gateway.String() {
			t.Errorf("%s: %s", when, got)
		}
	}
	check("at first")
	n.kill()
	check("without a daemon")
	n = reopen().(*Network)
	check("with a daemon that has done nothing yet")
	for range 2 {
		if err := n.Apply(t.Context(), []string{"web"}); err != nil {
			t.Fatal(err)
		}
		check("after Apply")
	}
	if got := shun(nil, "tcp", "127.0.0.1:8091"); got != "error" {
		t.Errorf("the port of a gone instance: %s", got)
	}
	if ports, err := link.Ports(n.cfg.Bridge); err != nil || len(ports) != 1 || ports[0] != web.HostName {
		t.Errorf("ports of the bridge: %v, %v", ports, err)
	}
}

// TestClosedWithEndpoint: a daemon that ends leaves running instances alone.
func TestClosedWithEndpoint(t *testing.T) {
	n, reopen := testNetwork(t, "")
	web := attachInstance(t, n, network.Request{ID: "web"})
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	serve(t, web.NS, 80)
	if got := talk(nil, "tcp", web.addr()+":80"); got != web.Gateway.String() {
		t.Errorf("closing cut off an instance: %s", got)
	}
	if _, err := n.Attach(t.Context(), network.Request{ID: "x", Names: []string{"x"}}); !api.IsKind(err, api.Unavailable) {
		t.Errorf("attach to a closed network: %v", err)
	}
	reopen()
}

// TestDetachAtOnce: an instance that starts again at once keeps its new device,
// although the old one of the same name is still being deleted.
func TestDetachAtOnce(t *testing.T) {
	n, _ := testNetwork(t, "")
	for range 5 {
		i := attachInstance(t, n, network.Request{ID: "i"})
		if err := n.Detach(t.Context(), "i"); err != nil {
			t.Fatal(err)
		}
		again := attachInstance(t, n, network.Request{ID: "i"})
		if i.HostName != again.HostName {
			t.Fatalf("another name: %s, %s", i.HostName, again.HostName)
		}
		n.unplugging.Wait()
		if _, err := netlink.LinkByName(again.HostName); err != nil {
			t.Errorf("the new device has gone: %v", err)
		}
		if err := n.Detach(t.Context(), "i"); err != nil {
			t.Fatal(err)
		}
	}
}

// BenchmarkAttach is what an instance waits for.
func BenchmarkAttach(b *testing.B) {
	b.Run("plain", func(b *testing.B) { benchmarkAttach(b, nil) })
	b.Run("published", func(b *testing.B) { benchmarkAttach(b, []api.Port{{HostPort: 8200, Port: 80}}) })
}

func benchmarkAttach(b *testing.B, publish []api.Port) {
	linktest.Root(b)
	dir := b.TempDir()
	n, err := New(Config{Dir: dir, RunDir: filepath.Join(dir, "run"), Bridge: "berthbench"})
	if err != nil {
		b.Fatal(err)
	}
	defer n.Close()
	for b.Loop() {
		if _, err := n.Attach(b.Context(), network.Request{ID: "i", Names: []string{"i"}, Publish: publish}); err != nil {
			b.Fatal(err)
		}
		if err := n.Detach(b.Context(), "i"); err != nil {
			b.Fatal(err)
		}
	}
}

func TestPortOfHost(t *testing.T) {
	n, _ := testNetwork(t, "")
	l, err := net.Listen("tcp4", "127.0.0.1:8100")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	req := network.Request{ID: "web", Names: []string{"web"}, Publish: []api.Port{{HostPort: 8100, Port: 80}}}
	_, err = n.Attach(t.Context(), req)
	if !api.IsKind(err, api.InUse) || !strings.Contains(err.Error(), "port 8100/tcp") || !strings.Contains(err.Error(), "another program") {
		t.Errorf("error = %v", err)
	}
	req.Publish[0].HostIP = "198.51.100.7"
	if _, err = n.Attach(t.Context(), req); !api.IsKind(err, api.Invalid) {
		t.Errorf("error = %v", err)
	}
	// While an instance has the port, no program of the host can take it.
	req.Publish[0] = api.Port{HostPort: 8101, Port: 80}
	if _, err = n.Attach(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if l, err := net.Listen("tcp4", "0.0.0.0:8101"); err == nil {
		l.Close()
		t.Error("a program took a published port")
	}
}

func TestExhausted(t *testing.T) {
	n, _ := testNetwork(t, "10.89.0.0/29")
	for i := range 5 {
		id := fmt.Sprint("i", i)
		if _, err := n.Attach(t.Context(), network.Request{ID: id, Names: []string{id}}); err != nil {
			t.Fatal(err)
		}
	}
	_, err := n.Attach(t.Context(), network.Request{ID: "last", Names: []string{"last"}})
	if !api.IsKind(err, api.Exhausted) || !strings.Contains(err.Error(), "all 5 addresses are taken") {
		t.Errorf("error = %v", err)
	}
}

func TestNames(t *testing.T) {
	n, _ := testNetwork(t, "")
	web := attachInstance(t, n, network.Request{ID: "web", Names: []string{"web", "front"}})
	peer := attachInstance(t, n, network.Request{ID: "peer"})
	lookup := func(name string) string { return resolve(t, peer, name) }
	for name, want := range map[string]string{
		"web.": web.addr(), "WEB.berth.": web.addr(), "front.": web.addr(), "peer.": peer.addr(), "nobody.berth.": "error",
	} {
		if got := lookup(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if err := n.Rename(t.Context(), "web", "shop"); err != nil {
		t.Fatal(err)
	}
	if got := lookup("shop."); got != web.addr() {
		t.Errorf("after the renaming: %s", got)
	}
	if got := lookup("web.berth."); got != "error" {
		t.Errorf("the former name: %s", got)
	}
}

// resolve returns the addresses that an instance is told for a name, or "error".
func resolve(t *testing.T, who instance, name string) string {
	var got []string
	err := who.Do(func() error {
		r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, proto, _ string) (net.Conn, error) {
			// The resolver dials from other goroutines, hence other threads: back
			// into the namespace.
			var c net.Conn
			err := who.Do(func() (err error) {
				c, err = net.Dial(proto, who.DNS[0].String()+":53")
				return err
			})
			return c, err
		}}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		var err error
		got, err = r.LookupHost(ctx, name)
		return err
	})
	if err != nil {
		return "error"
	}
	return strings.Join(got, " ")
}

// TestNFTAgrees compares the plan with what nft reads from the kernel.
func TestNFTAgrees(t *testing.T) {
	nft, err := exec.LookPath("nft")
	if err != nil {
		t.Skip("nft is not installed")
	}
	n, _ := testNetwork(t, "10.89.0.0/24")
	_, err = n.Attach(t.Context(), network.Request{ID: "web", Names: []string{"web"}, Publish: []api.Port{
		{HostPort: 8110, Port: 80}, {HostIP: "127.0.0.1", HostPort: 8111, Port: 53, Protocol: "udp"}}})
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(nft, "-nn", "list", "table", "ip", n.cfg.Bridge).Output()
	if err != nil {
		t.Fatal(err)
	}
	want := plan(n.cfg.Bridge, n.subnet, false, n.endpoints["web"].targets()).String()
	// nft knows some priorities by name, numbers some bits, and indents.
	normal := strings.NewReplacer("priority raw", "priority -300", "priority dstnat", "priority -100", "priority filter", "priority 0",
		"priority srcnat", "priority 100", "ct state 0x2,0x4", "ct state established,related", "ct state 0x6", "ct state established,related",
		"ct status 0x20", "ct status dnat", "ct status 32", "ct status dnat", "fib daddr type 2", "fib daddr type local", "\n\n", "\n")
	if got := normal.Replace(string(out)); got != want {
		t.Errorf("nft reads:\n%s\nplan:\n%s", got, want)
	}
}

// TestWarnings makes a table that drops forwarded packets, as Docker's does.
func TestWarnings(t *testing.T) {
	n, _ := testNetwork(t, "")
	if got := n.Warnings(t.Context()); len(got) > 0 {
		t.Fatalf("warnings on a clean host: %q", got)
	}
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"})
	drop := nftables.ChainPolicyDrop
	c.AddChain(&nftables.Chain{Name: "FORWARD", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop})
	user := c.AddChain(&nftables.Chain{Name: "DOCKER-USER", Table: table})
	c.AddRule(&nftables.Rule{Table: table, Chain: user, Exprs: []expr.Any{&expr.Counter{}}})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		c.DelTable(table)
		if err := c.Flush(); err != nil {
			t.Error(err)
		}
	}()
	got := n.Warnings(t.Context())
	if len(got) != 1 || !strings.HasPrefix(got[0], "Docker (nftables table ip filter, chain FORWARD)") {
		t.Errorf("warnings: %q", got)
	}
}

// TestOverlap: a route that came later than the subnet is told of.
func TestOverlap(t *testing.T) {
	n, _ := testNetwork(t, "10.89.0.0/24")
	if _, err := n.Attach(t.Context(), network.Request{ID: "a", Names: []string{"a"}}); err != nil {
		t.Fatal(err)
	}
	if err := link.EnsureBridge(link.Bridge{Name: "vpn", MAC: "02:00:00:00:00:03", Address: netip.MustParsePrefix("10.89.0.130/25")}); err != nil {
		t.Fatal(err)
	}
	defer link.Delete("vpn")
	if got := n.Warnings(t.Context()); len(got) != 1 || !strings.Contains(got[0], "10.89.0.128/25") {
		t.Errorf("warnings: %q", got)
	}
}

// TestSideBySide: two daemons on one host share nothing, and the one that
// leaves last puts forwarding back.
func TestSideBySide(t *testing.T) {
	n, _ := testNetwork(t, "")
	dir := t.TempDir()
	other, err := New(Config{Dir: dir, RunDir: filepath.Join(dir, "run"), Bridge: "berthother"})
	if err != nil {
		t.Fatal(err)
	}
	a := attachInstance(t, n, network.Request{ID: "a"})
	b := attachInstance(t, other, network.Request{ID: "b"})
	if a.Address[0].Overlaps(b.Address[0]) {
		t.Errorf("one subnet for two networks: %v, %v", a.Address, b.Address)
	}
	serve(t, a.NS, 80)
	if got := shun(b.NS, "tcp", a.addr()+":80"); got != "error" {
		t.Errorf("one network reaches into the other, seen as %s", got)
	}
	if err := other.Apply(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	if got := talk(nil, "tcp", a.addr()+":80"); got != a.Gateway.String() {
		t.Errorf("the other one's end cut this one off: %s", got)
	}
	if on, err := link.Sysctl(ipForward); err != nil || on != "1" {
		t.Errorf("forwarding is %s, %v", on, err)
	}
}
