package bridge

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/nftables"
	"pgregory.net/rapid"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/network"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestPlan(t *testing.T) {
	subnet := netip.MustParsePrefix("10.89.0.0/20")
	web := netip.MustParseAddr("10.89.0.2")
	for name, targets := range map[string][]target{
		"empty":    nil,
		"internal": nil,
		"ports": {
			{"tcp", netip.Addr{}, 8080, netip.AddrPortFrom(web, 80)},
			{"udp", netip.MustParseAddr("192.0.2.1"), 53, netip.AddrPortFrom(web, 5353)},
		},
	} {
		got := plan("berth0", subnet, name == "internal", targets).String()
		file := filepath.Join("testdata", name+".golden")
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil || got != string(want) {
			t.Errorf("%s: got\n%s\nwant\n%s%v", name, got, want, err)
		}
	}
}

// TestPool: whatever is taken and given back, no address is owned twice or
// lost, and only a full pool refuses.
func TestPool(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.IntRange(26, 29).Draw(t, "bits")
		p := newPool(netip.PrefixFrom(netip.MustParseAddr("10.0.0.77"), bits))
		size := 1<<(32-bits) - 3
		have := map[string]netip.Addr{}
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				id := rapid.StringMatching("[a-z]{4}").Draw(t, "id")
				if _, ok := have[id]; ok {
					t.Skip()
				}
				a, err := p.take(id, netip.Addr{})
				if full := len(have) == size; full != api.IsKind(err, api.Exhausted) || !full && err != nil {
					t.Fatalf("%d of %d taken: %v", len(have), size, err)
				}
				if err != nil {
					return
				}
				for other, b := range have {
					if a == b {
						t.Fatalf("%v is %s's", a, other)
					}
				}
				if !p.prefix.Contains(a) || a == p.prefix.Addr() || a == p.gateway() || a == p.broadcast() {
					t.Fatalf("%v is no address for an instance", a)
				}
				have[id] = a
			},
			"give": func(t *rapid.T) {
				for id, a := range have {
					p.give("somebody else", a)
					p.give(id, a)
					p.give(id, a)
					delete(have, id)
					return
				}
				t.Skip()
			},
			"": func(t *rapid.T) {
				if len(p.owner) != len(have) {
					t.Fatalf("%d owners, want %d", len(p.owner), len(have))
				}
			},
		})
	})
}

func TestChooseSubnet(t *testing.T) {
	used := []netip.Prefix{netip.MustParsePrefix("10.89.0.0/16"), netip.MustParsePrefix("10.90.16.7/32")}
	got, err := chooseSubnet(DefaultName, used[:1])
	if err != nil || got != netip.MustParsePrefix("10.90.0.0/20") {
		t.Errorf("got %v, %v", got, err)
	}
	for _, name := range []string{DefaultName, "berth12345678", "berthx"} {
		got, err := chooseSubnet(name, used)
		if err != nil || got.Overlaps(used[0]) || got.Overlaps(used[1]) {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
	if _, err := chooseSubnet(DefaultName, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}); !api.IsKind(err, api.Exhausted) {
		t.Errorf("error = %v", err)
	}
}

func TestHostName(t *testing.T) {
	for id, want := range map[string]string{
		strings.Repeat("0123456789abcdef", 4): "bv0123456789ab",
		"a":                                   "bvcca463cd1f1c",
	} {
		if got := hostName(id, network.Veth, 0); len(got) != 14 || want != got && len(id) > 12 {
			t.Errorf("%s: %s", id, got)
		}
	}
	if a, b := hostName("a", network.Tap, 0), hostName("a", network.Veth, 0); a == b {
		t.Error("a tap has the name of a veth")
	}
}

func TestWarnChains(t *testing.T) {
	fw, in := *nftables.ChainHookForward, *nftables.ChainHookInput
	for _, tc := range []struct {
		chain foreignChain
		want  []string
	}{
		{foreignChain{"ip", "filter", "FORWARD", fw, true, "Docker"}, []string{"Docker", "table ip filter", "DOCKER-USER", "berth0"}},
		{foreignChain{"ip", "filter", "INPUT", in, true, "ufw"}, []string{"ufw allow in on berth0", "name server"}},
		{foreignChain{"inet", "firewalld", "filter_FORWARD", fw, false, "firewalld"}, []string{"firewall-cmd"}},
		{foreignChain{"inet", "mine", "fwd", fw, true, ""}, []string{"a firewall", "insert rule inet mine fwd"}},
		{foreignChain{"ip", "filter", "FORWARD", fw, false, "Docker"}, nil},
		{foreignChain{"ip", "raw", "PREROUTING", *nftables.ChainHookPrerouting, true, ""}, nil},
	} {
		got := warnChains([]foreignChain{tc.chain}, "berth0")
		if len(got) != min(1, len(tc.want)) {
			t.Errorf("%+v: %q", tc.chain, got)
			continue
		}
		for _, want := range tc.want {
			if !strings.Contains(got[0], want) || strings.Contains(got[0], "\n") {
				t.Errorf("%q lacks %q", got[0], want)
			}
		}
	}
}
