package networktest

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/network"
)

// SetFactory makes a set of the default network alone. It closes it when the test ends.
// Reopen is as a Factory's.
type SetFactory func(t *testing.T) (s network.Set, reopen func() network.Set)

// RunSet runs the suite of sets.
func RunSet(t *testing.T, factory SetFactory) {
	for name, test := range map[string]func(*testing.T, SetFactory){
		"create":     create,
		"bad names":  badNames,
		"one subnet": oneSubnet,
		"remove":     remove,
		"several":    several,
		"internal":   internalNetwork,
		"reopen":     setReopened,
	} {
		t.Run(name, func(t *testing.T) { test(t, factory) })
	}
}

func mustCreate(t *testing.T, s network.Set, want api.Network) (network.Network, api.Network) {
	t.Helper()
	made, err := s.Create(t.Context(), want)
	if err != nil {
		t.Fatalf("create %s: %v", want.Name, err)
	}
	return mustFind(t, s, want.Name), made
}

func mustFind(t *testing.T, s network.Set, name string) network.Network {
	t.Helper()
	n, err := s.Network(name)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func create(t *testing.T, factory SetFactory) {
	s, _ := factory(t)
	n, made := mustCreate(t, s, api.Network{Name: "lan", Labels: map[string]string{"a": "b"}})
	if subnet, err := netip.ParsePrefix(made.Subnet); err != nil || !subnet.Contains(netip.MustParseAddr(made.Gateway)) {
		t.Errorf("subnet %q with gateway %q", made.Subnet, made.Gateway)
	}
	if made.Name != "lan" || made.Bridge == "" || made.Labels["a"] != "b" || made.Created.IsZero() || made.Internal {
		t.Errorf("made %+v", made)
	}
	ep := mustAttach(t, n, request("a"))
	if ep.Network != "lan" || ep.Bridge != made.Bridge || ep.Address[0].Masked().String() != made.Subnet {
		t.Errorf("endpoint %+v of %+v", ep, made)
	}
	mustDetach(t, n, "a")
	mustCreate(t, s, api.Network{Name: "alone"})
	if names := s.Names(); !slices.Equal(names, []string{api.NetworkDefault, "alone", "lan"}) {
		t.Errorf("names %v", names)
	}
	_, err := s.Network("moon")
	wantKind(t, "an unknown network", err, api.NotFound)
	_, err = s.Create(t.Context(), api.Network{Name: "lan"})
	wantKind(t, "the same again", err, api.Exists)
}

func badNames(t *testing.T, factory SetFactory) {
	s, _ := factory(t)
	for _, want := range []api.Network{
		{Name: ""}, {Name: "../up"}, {Name: "a/b"}, {Name: "-x"}, {Name: api.NetworkDefault}, {Name: api.NetworkNone}, {Name: api.NetworkHost}, {Name: "bridge"},
		{Name: "n", Subnet: "moon"}, {Name: "n", Subnet: "10.1.2.3/24"}, {Name: "n", Subnet: "10.1.2.0/30"}, {Name: "n", Subnet: "fd00::/64"}, {Name: "n", Subnet: "8.8.8.0/24"},
	} {
		_, err := s.Create(t.Context(), want)
		wantKind(t, want.Name+" "+want.Subnet, err, api.Invalid)
	}
	if names := s.Names(); len(names) != 1 {
		t.Errorf("names %v", names)
	}
}

func oneSubnet(t *testing.T, factory SetFactory) {
	s, _ := factory(t)
	_, made := mustCreate(t, s, api.Network{Name: "a"})
	_, err := s.Create(t.Context(), api.Network{Name: "b", Subnet: made.Subnet})
	wantKind(t, "a subnet of another network", err, api.InUse)
	if _, other := mustCreate(t, s, api.Network{Name: "b"}); other.Subnet == made.Subnet || other.Bridge == made.Bridge {
		t.Errorf("two networks share something: %+v, %+v", made, other)
	}
}

func remove(t *testing.T, factory SetFactory) {
	s, _ := factory(t)
	n, made := mustCreate(t, s, api.Network{Name: "lan"})
	mustAttach(t, n, request("a"))
	wantKind(t, "remove a used network", s.Remove(t.Context(), "lan"), api.InUse)
	mustAttach(t, n, request("a")) // it works on
	mustDetach(t, n, "a")
	if err := s.Remove(t.Context(), "lan"); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "remove it again", s.Remove(t.Context(), "lan"), api.NotFound)
	wantKind(t, "remove the default network", s.Remove(t.Context(), api.NetworkDefault), api.Invalid)
	mustCreate(t, s, api.Network{Name: "lan", Subnet: made.Subnet}) // all was given back
}

// several puts one instance on two networks.
func several(t *testing.T, factory SetFactory) {
	s, _ := factory(t)
	first := mustFind(t, s, api.NetworkDefault)
	second, _ := mustCreate(t, s, api.Network{Name: "lan"})
	r := request("0123456789abcdef")
	r.Publish = []api.Port{{Port: 80, Protocol: "tcp"}}
	a := mustAttach(t, first, r)
	r.Number, r.Publish = 1, nil
	b := mustAttach(t, second, r)
	if a.HostName == b.HostName || a.MAC == b.MAC || a.Address[0].Overlaps(b.Address[0]) {
		t.Errorf("two interfaces share something: %+v, %+v", a, b)
	}
	r.Number = network.MaxNumber + 1
	_, err := second.Attach(t.Context(), r)
	wantKind(t, "too many interfaces", err, api.Invalid)
	for _, n := range []network.Network{first, second} {
		mustDetach(t, n, r.ID)
	}
}

func internalNetwork(t *testing.T, factory SetFactory) {
	s, _ := factory(t)
	n, made := mustCreate(t, s, api.Network{Name: "inside", Internal: true})
	if !made.Internal {
		t.Errorf("made %+v", made)
	}
	if ep := mustAttach(t, n, request("a")); ep.Gateway.IsValid() || len(ep.DNS) == 0 {
		t.Errorf("gateway %v, name servers %v", ep.Gateway, ep.DNS)
	}
	r := request("b")
	r.Publish = []api.Port{{Port: 80, Protocol: "tcp"}}
	_, err := n.Attach(t.Context(), r)
	wantKind(t, "publish", err, api.Invalid)
	mustDetach(t, n, "a", "b")
}

func setReopened(t *testing.T, factory SetFactory) {
	s, reopen := factory(t)
	if reopen == nil {
		t.Skip("the driver records nothing")
	}
	n, made := mustCreate(t, s, api.Network{Name: "lan", Internal: true, Labels: map[string]string{"a": "b"}})
	ep := mustAttach(t, n, request("a"))
	s = reopen()
	n = mustFind(t, s, "lan")
	if err := n.Apply(t.Context(), []string{"a"}); err != nil {
		t.Fatal(err)
	}
	same(t, "after the reopening", mustAttach(t, n, request("a")), ep)
	if now, err := n.Describe(); err != nil || now.Subnet != made.Subnet || now.Bridge != made.Bridge || !now.Internal || now.Labels["a"] != "b" || !now.Created.Equal(made.Created) {
		t.Errorf("described as %+v (%v), was %+v", now, err, made)
	}
	mustDetach(t, n, "a")
	if err := s.Remove(t.Context(), "lan"); err != nil {
		t.Error(err)
	}
	if names := reopen().Names(); len(names) != 1 {
		t.Errorf("names %v", names)
	}
}
