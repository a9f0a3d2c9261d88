package bridge

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/network"
)

func TestPlanLimit(t *testing.T) {
	for rate, want := range map[api.Rate]limit{
		{Limit: 64 << 10}:                  {table: "b0-bt1", device: "bt1", rate: 64 << 10, burst: 192 << 10},
		{Limit: 80 << 20}:                  {table: "b0-bt1", device: "bt1", rate: 80 << 20},
		{Limit: 80 << 20, Burst: 90 << 20}: {table: "b0-bt1", device: "bt1", rate: 80 << 20, burst: 10 << 20},
		{Limit: 1 << 40, Burst: 1 << 41}:   {table: "b0-bt1", device: "bt1", rate: 1 << 40, burst: 1<<32 - 1},
	} {
		if got := planLimit("b0", "bt1", rate); got != want {
			t.Errorf("%+v: %+v, want %+v", rate, got, want)
		}
	}
}

// inForce lists the limits of devices that the kernel has.
func inForce(t *testing.T) (list []string) {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyNetdev)
	if err != nil {
		t.Fatal(err)
	}
	for _, chain := range chains {
		rules, err := c.GetRules(chain.Table, chain)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rules {
			if l, ok := r.Exprs[0].(*expr.Limit); ok {
				list = append(list, fmt.Sprintf("%s %s %d:%d %v", chain.Table.Name, chain.Name, l.Rate, l.Burst, l.Over))
			}
		}
	}
	slices.Sort(list)
	return list
}

// TestLimit limits an instance, changes that while it is used, survives the daemon, and
// leaves nothing behind.
func TestLimit(t *testing.T) {
	n, reopen := testNetwork(t, "")
	web := attachInstance(t, n, network.Request{ID: "web", Publish: []api.Port{{HostPort: 8090, Port: 80}}})
	gone := attachInstance(t, n, network.Request{ID: "gone"})
	serve(t, web.NS, 80)
	want := func(rates map[string]string) {
		t.Helper()
		var list []string
		for device, rate := range rates {
			for _, chain := range []string{"received", "sent"} {
				list = append(list, fmt.Sprintf("%s-%s %s %s true", n.cfg.Bridge, device, chain, rate))
			}
		}
		slices.Sort(list)
		if diff := cmp.Diff(list, inForce(t)); diff != "" {
			t.Error(diff)
		}
		if got := talk(nil, "tcp", "127.0.0.1:8090"); got != web.Gateway.String() {
			t.Errorf("it answers %s", got)
		}
	}
	limit := func(id string, rate api.Rate) {
		t.Helper()
		if err := n.Limit(t.Context(), id, rate); err != nil {
			t.Fatal(err)
		}
	}
	limit("web", api.Rate{Limit: 4 << 20})
	limit("gone", api.Rate{Limit: 1 << 20})
	want(map[string]string{web.HostName: "4194304:0", gone.HostName: "1048576:0"})
	limit("web", api.Rate{Limit: 8 << 20, Burst: 9 << 20})
	n.kill()
	n = reopen().(*Network)
	if err := n.Apply(t.Context(), []string{"web"}); err != nil {
		t.Fatal(err)
	}
	want(map[string]string{web.HostName: "8388608:1048576"})
	limit("web", api.Rate{Limit: -1})
	want(nil)
	limit("web", api.Rate{Limit: 4 << 20}) // for testNetwork to find a trace of
}
