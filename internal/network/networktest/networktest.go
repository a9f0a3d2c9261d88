// Package networktest is the suite that every driver of package network
// passes.
package networktest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/network"
)

// Factory makes a network without endpoints. It closes it when the test ends.
// Reopen stands for a new daemon: it closes the network as a kill would and
// opens it from what it has recorded; nil where a driver records nothing.
type Factory func(t *testing.T) (n network.Network, reopen func() network.Network)

// Run runs the suite.
func Run(t *testing.T, factory Factory) {
	for name, test := range map[string]func(*testing.T, Factory){
		"attach":          attach,
		"attach again":    attachAgain,
		"wanted address":  wantedAddress,
		"wanted MAC":      wantedMAC,
		"publish":         publish,
		"publish refused": publishRefused,
		"replace":         replace,
		"detach":          detach,
		"rename":          rename,
		"limit":           limit,
		"apply":           apply,
		"reopen":          reopened,
		"bad requests":    badRequests,
		"canceled":        canceled,
		"concurrent":      concurrent,
	} {
		t.Run(name, func(t *testing.T) { test(t, factory) })
	}
}

// request asks for what most instances ask for.
func request(id string) network.Request {
	return network.Request{ID: id, Names: []string{"name-of-" + id}, LinkKind: network.Veth}
}

func mustAttach(t *testing.T, n network.Network, r network.Request) network.Endpoint {
	t.Helper()
	ep, err := n.Attach(t.Context(), r)
	if err != nil {
		t.Fatalf("attach %s: %v", r.ID, err)
	}
	return ep
}

func mustDetach(t *testing.T, n network.Network, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := n.Detach(t.Context(), id); err != nil {
			t.Errorf("detach %s: %v", id, err)
		}
	}
}

func wantKind(t *testing.T, what string, err error, kind api.ErrorKind) {
	t.Helper()
	if !api.IsKind(err, kind) {
		t.Errorf("%s: error %v (%s), want kind %s", what, err, api.KindOf(err), kind)
	}
}

// same compares endpoints.
func same(t *testing.T, what string, got, want network.Endpoint) {
	t.Helper()
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmpopts.EquateEmpty()); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func attach(t *testing.T, factory Factory) {
	n, _ := factory(t)
	a, b := mustAttach(t, n, request("a")), mustAttach(t, n, request("b"))
	for _, ep := range []network.Endpoint{a, b} {
		if len(ep.Address) != 1 || !ep.Address[0].Contains(ep.Gateway) || ep.Address[0].Addr() == ep.Gateway {
			t.Errorf("addresses %v with gateway %v", ep.Address, ep.Gateway)
		}
		if ep.Network != api.NetworkDefault || ep.Bridge == "" || ep.MAC == "" || ep.MTU < 576 || len(ep.DNS) == 0 {
			t.Errorf("incomplete: %+v", ep)
		}
		if len(ep.HostName) == 0 || len(ep.HostName) > 15 {
			t.Errorf("host name %q", ep.HostName)
		}
	}
	if a.Address[0] == b.Address[0] || a.MAC == b.MAC || a.HostName == b.HostName {
		t.Errorf("two endpoints share something: %+v, %+v", a, b)
	}
	mustDetach(t, n, "a", "b")
}

func attachAgain(t *testing.T, factory Factory) {
	n, _ := factory(t)
	r := request("a")
	r.Publish = []api.Port{{Port: 80, Protocol: "tcp"}}
	first := mustAttach(t, n, r)
	same(t, "the second attachment", mustAttach(t, n, r), first)
	mustDetach(t, n, "a")
}

func wantedAddress(t *testing.T, factory Factory) {
	n, _ := factory(t)
	a := mustAttach(t, n, request("a"))
	taken := a.Address[0].Addr()
	free := taken.Next().Next()
	r := request("b")
	for addr, kind := range map[netip.Addr]api.ErrorKind{
		taken:                            api.InUse,
		a.Gateway:                        api.InUse,
		netip.MustParseAddr("192.0.2.1"): api.Invalid,
	} {
		r.Address = addr
		_, err := n.Attach(t.Context(), r)
		wantKind(t, addr.String(), err, kind)
	}
	r.Address = free
	if ep := mustAttach(t, n, r); ep.Address[0].Addr() != free {
		t.Errorf("got %v, want %v", ep.Address, free)
	}
	mustDetach(t, n, "a", "b")
}

func wantedMAC(t *testing.T, factory Factory) {
	n, _ := factory(t)
	r := request("a")
	r.MAC = "02:be:00:00:00:99"
	if ep := mustAttach(t, n, r); ep.MAC != r.MAC {
		t.Errorf("MAC is %s", ep.MAC)
	}
	mustDetach(t, n, "a")
}

// freePort is one that nobody on the host listens on, found by asking.
func freePort(t *testing.T, n network.Network) uint16 {
	t.Helper()
	r := request("probe")
	r.Publish = []api.Port{{Port: 1, Protocol: "tcp"}}
	ep := mustAttach(t, n, r)
	mustDetach(t, n, "probe")
	return ep.Publish[0].HostPort
}

func publish(t *testing.T, factory Factory) {
	n, _ := factory(t)
	port := freePort(t, n)
	r := request("a")
	r.Publish = []api.Port{{HostPort: port, Port: 80, Protocol: "tcp"}, {Port: 81, Protocol: "tcp"}, {HostPort: port, Port: 53, Protocol: "udp"}}
	ep := mustAttach(t, n, r)
	if len(ep.Publish) != 3 || ep.Publish[0] != r.Publish[0] || ep.Publish[1].HostPort == 0 || ep.Publish[1].HostPort == port || ep.Publish[2] != r.Publish[2] {
		t.Errorf("published %+v", ep.Publish)
	}
	mustDetach(t, n, "a")
	r.ID = "b"
	mustAttach(t, n, r) // the ports were given back
	mustDetach(t, n, "b")
}

func publishRefused(t *testing.T, factory Factory) {
	n, _ := factory(t)
	port := freePort(t, n)
	r := request("a")
	r.Publish = []api.Port{{HostPort: port, Port: 80, Protocol: "tcp"}}
	mustAttach(t, n, r)
	other := request("b")
	other.Publish = []api.Port{{HostPort: port, Port: 8080, Protocol: "tcp"}}
	_, err := n.Attach(t.Context(), other)
	wantKind(t, "a taken port", err, api.InUse)
	// The refused instance has nothing: it may take another way.
	other.Publish = nil
	mustAttach(t, n, other)
	mustDetach(t, n, "a", "b")
}

func replace(t *testing.T, factory Factory) {
	n, _ := factory(t)
	port := freePort(t, n)
	r := request("a")
	r.Publish = []api.Port{{HostPort: port, Port: 80, Protocol: "tcp"}}
	mustAttach(t, n, r)
	r.Publish[0].Port = 81
	if ep := mustAttach(t, n, r); ep.Publish[0].Port != 81 || ep.Publish[0].HostPort != port {
		t.Errorf("published %+v", ep.Publish)
	}
	r.Publish = nil
	if ep := mustAttach(t, n, r); len(ep.Publish) != 0 {
		t.Errorf("published %+v", ep.Publish)
	}
	mustDetach(t, n, "a")
}

func detach(t *testing.T, factory Factory) {
	n, _ := factory(t)
	mustDetach(t, n, "nobody")
	r := request("a")
	r.Address = mustAttach(t, n, request("a")).Address[0].Addr()
	mustDetach(t, n, "a", "a")
	r.ID = "b"
	mustAttach(t, n, r) // the address was given back
	mustDetach(t, n, "b")
}

// limit needs no link: drivers that make some test that a limit holds.
func limit(t *testing.T, factory Factory) {
	n, _ := factory(t)
	wantKind(t, "limit nobody", n.Limit(t.Context(), "nobody", api.Rate{Limit: 1 << 20}), api.NotFound)
	mustAttach(t, n, request("a"))
	if err := n.Limit(t.Context(), "a", api.Rate{Limit: -1}); err != nil {
		t.Errorf("lift no limit: %v", err)
	}
	mustDetach(t, n, "a")
}

func rename(t *testing.T, factory Factory) {
	n, _ := factory(t)
	r := request("a")
	r.Names = []string{"old", "host"}
	old := mustAttach(t, n, r)
	if err := n.Rename(t.Context(), "a", "new"); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "rename nobody", n.Rename(t.Context(), "nobody", "x"), api.NotFound)
	r.Names = []string{"new", "host"}
	ep := mustAttach(t, n, r)
	if !slices.Equal(ep.Names, r.Names) || ep.Address[0] != old.Address[0] {
		t.Errorf("endpoint = %+v", ep)
	}
	mustDetach(t, n, "a")
}

func apply(t *testing.T, factory Factory) {
	n, _ := factory(t)
	a, b := mustAttach(t, n, request("a")), mustAttach(t, n, request("b"))
	for range 2 {
		if err := n.Apply(t.Context(), []string{"a", "unknown"}); err != nil {
			t.Fatal(err)
		}
	}
	same(t, "what was kept", mustAttach(t, n, request("a")), a)
	r := request("c")
	r.Address = b.Address[0].Addr()
	mustAttach(t, n, r) // b was detached
	if err := n.Apply(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	mustDetach(t, n, "a", "c")
}

func reopened(t *testing.T, factory Factory) {
	n, reopen := factory(t)
	if reopen == nil {
		t.Skip("the driver records nothing")
	}
	r := request("a")
	r.Publish = []api.Port{{Port: 80, Protocol: "tcp"}}
	want := mustAttach(t, n, r)
	n = reopen()
	if err := n.Apply(t.Context(), []string{"a"}); err != nil {
		t.Fatal(err)
	}
	same(t, "after the reopening", mustAttach(t, n, r), want)
	n = reopen()
	if err := n.Apply(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	r.ID, r.Address = "b", want.Address[0].Addr()
	mustAttach(t, n, r)
	mustDetach(t, n, "b")
}

func badRequests(t *testing.T, factory Factory) {
	n, _ := factory(t)
	for name, change := range map[string]func(*network.Request){
		"MAC":            func(r *network.Request) { r.MAC = "no" },
		"multicast MAC":  func(r *network.Request) { r.MAC = "01:00:5e:00:00:01" },
		"protocol":       func(r *network.Request) { r.Publish = []api.Port{{HostPort: 1, Port: 1, Protocol: "sctp"}} },
		"port":           func(r *network.Request) { r.Publish = []api.Port{{HostPort: 1, Protocol: "tcp"}} },
		"address":        func(r *network.Request) { r.Publish = []api.Port{{HostIP: "localhost", Port: 1, Protocol: "tcp"}} },
		"IPv6 address":   func(r *network.Request) { r.Address = netip.MustParseAddr("fd00::1") },
		"no name at all": func(r *network.Request) { r.Names = nil },
	} {
		r := request("a")
		change(&r)
		_, err := n.Attach(t.Context(), r)
		wantKind(t, name, err, api.Invalid)
	}
}

func canceled(t *testing.T, factory Factory) {
	n, _ := factory(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := n.Attach(ctx, request("a"))
	wantKind(t, "attach", err, api.Canceled)
}

// concurrent attaches from many goroutines: no address and no port is given out
// twice.
func concurrent(t *testing.T, factory Factory) {
	n, _ := factory(t)
	const many = 16
	got := make(chan network.Endpoint, many)
	for i := range many {
		go func() {
			r := request(fmt.Sprint("i", i))
			r.Publish = []api.Port{{Port: 80, Protocol: "tcp"}}
			ep, err := n.Attach(t.Context(), r)
			if err == nil && i%4 == 0 {
				err = errors.Join(n.Detach(t.Context(), r.ID), n.Rename(t.Context(), "nobody", "x"))
				if api.IsKind(err, api.NotFound) {
					ep, err = n.Attach(t.Context(), r)
				}
			}
			if err != nil {
				t.Errorf("attach: %v", err)
			}
			got <- ep
		}()
	}
	seen := map[any]string{}
	for range many {
		ep := <-got
		if len(ep.Address) != 1 || len(ep.Publish) != 1 {
			continue // reported already
		}
		for _, thing := range []any{ep.Address[0], ep.MAC, ep.HostName, ep.Publish[0].HostPort} {
			if other, ok := seen[thing]; ok {
				t.Errorf("%v belongs to %s and %s", thing, other, ep.ID)
			}
			seen[thing] = ep.ID
		}
	}
	for i := range many {
		mustDetach(t, n, fmt.Sprint("i", i))
	}
}
