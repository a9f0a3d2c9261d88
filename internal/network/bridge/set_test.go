package bridge

import (
	"context"
	"net"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/link"
	"github.com/berthcloud/berth/internal/link/linktest"
	"github.com/berthcloud/berth/internal/network"
	"github.com/berthcloud/berth/internal/network/networktest"
)

// kill is Network.kill of all.
func (s *Set) kill() {
	for _, n := range s.networks {
		n.kill()
	}
}

// testSet opens a set and, in the end, checks that it is gone without trace.
func testSet(t *testing.T) (s *Set, reopen func() network.Set) {
	t.Helper()
	linktest.Root(t)
	if err := link.Prepare(selfNS(t), map[string]string{"net.ipv4.ip_forward": "0"}); err != nil {
		t.Fatal(err)
	}
	before, dir := hostState(t), t.TempDir()
	open := func() *Set {
		s, err := NewSet(Config{Dir: filepath.Join(dir, "root"), RunDir: filepath.Join(dir, "run"), Bridge: "berthtest"})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s = open()
	t.Cleanup(func() {
		for _, n := range s.networks {
			if err := n.Apply(context.Background(), nil); err != nil {
				t.Error(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if after := hostState(t); after != before {
			t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
		}
	})
	return s, func() network.Set {
		s.kill()
		s = open()
		return s
	}
}

func TestSetSuite(t *testing.T) {
	networktest.RunSet(t, func(t *testing.T) (network.Set, func() network.Set) { return testSet(t) })
}

// withoutGateway is a further interface: the way out leads through the first.
func withoutGateway(i instance) instance {
	i.Gateway = netip.Addr{}
	return i
}

// TestSeveralNetworks has web on the default network and on lan, db on lan, secret on
// an internal network with web, and alone on the default network.
func TestSeveralNetworks(t *testing.T) {
	s, _ := testSet(t)
	for _, want := range []api.Network{{Name: "lan"}, {Name: "vault", Internal: true}} {
		if _, err := s.Create(t.Context(), want); err != nil {
			t.Fatal(err)
		}
	}
	front, lan, vault := s.networks[api.NetworkDefault], s.networks["lan"], s.networks["vault"]
	web := attachInstance(t, front, network.Request{ID: "web", Publish: []api.Port{{HostPort: 8080, Port: 80, Protocol: "tcp"}}})
	further := make(map[string]instance)
	for i, n := range []*Network{lan, vault} {
		ep, err := n.Attach(t.Context(), network.Request{ID: "web", Names: []string{"web"}, Number: i + 1, LinkKind: network.Veth})
		if err != nil {
			t.Fatal(err)
		}
		further[n.cfg.Name] = instance{web.NS, ep}
		plugAs(t, withoutGateway(further[n.cfg.Name]), []string{"eth1", "eth2"}[i])
	}
	alone := attachInstance(t, front, network.Request{ID: "alone"})
	db := attachInstance(t, lan, network.Request{ID: "db"})
	secret := attachInstance(t, vault, network.Request{ID: "secret"})
	world := outside(t, vault.subnet)
	for _, ns := range []*linktest.NS{web.NS, alone.NS, db.NS, secret.NS, world} {
		serve(t, ns, 80)
	}

	for _, c := range []struct {
		what string
		from *linktest.NS
		to   instance
		seen string
	}{
		{"its neighbor on lan", web.NS, db, further["lan"].addr()},
		{"its neighbor in the vault", web.NS, secret, further["vault"].addr()},
		{"back on lan", db.NS, further["lan"], db.addr()},
	} {
		for _, proto := range []string{"tcp", "udp"} {
			if got := talk(c.from, proto, net.JoinHostPort(c.to.addr(), "80")); got != c.seen {
				t.Errorf("%s, %s: seen as %q, want %q", c.what, proto, got, c.seen)
			}
		}
	}
	for _, c := range []struct {
		what string
		from *linktest.NS
		to   string
	}{
		{"from the default network to lan", alone.NS, db.addr()},
		{"from lan to the default network", db.NS, alone.addr()},
		{"from lan to the vault", db.NS, secret.addr()},
		{"from the vault to lan", secret.NS, db.addr()},
		{"from the vault to the world", secret.NS, worldOutside},
		{"from the world to the vault", world, secret.addr()},
	} {
		if got := shun(c.from, "tcp", net.JoinHostPort(c.to, "80")); got != "error" {
			t.Errorf("%s: seen as %q", c.what, got)
		}
	}
	if got := talk(db.NS, "tcp", net.JoinHostPort(worldOutside, "80")); got != hostOutside {
		t.Errorf("from lan to the world: seen as %q", got)
	}
	if got := talk(world, "tcp", net.JoinHostPort(hostOutside, "8080")); got != worldOutside {
		t.Errorf("a published port of an instance on several networks: seen as %q", got)
	}
	for _, c := range []struct {
		who  instance
		name string
		want string
	}{
		{web, "alone.", alone.addr()}, {web, "db.", db.addr()}, {web, "secret.berth.", secret.addr()}, {web, "nobody.berth.", "error"},
		{db, "web.", further["lan"].addr()}, {db, "alone.berth.", "error"}, {secret, "web.", further["vault"].addr()},
		{secret, "db.berth.", "error"}, {secret, "example.com.", "error"}, {alone, "secret.berth.", "error"},
	} {
		if got := resolve(t, c.who, c.name); got != c.want {
			t.Errorf("%s asks for %s: %q, want %q", c.who.ID, c.name, got, c.want)
		}
	}
	_, err := lan.Attach(t.Context(), network.Request{ID: "thief", Names: []string{"thief"}, LinkKind: network.Veth, Publish: []api.Port{{HostPort: 8080, Port: 80, Protocol: "tcp"}}})
	if !api.IsKind(err, api.InUse) || err.Error() != "publish port 8080/tcp: the port is taken by instance web; choose another" {
		t.Errorf("a port of another network's instance: %v", err)
	}
}
