package bridge

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
)

// minBurst is the least that passes at once, in bytes: a packet on its way between
// two interfaces of the host is up to 64 KiB long, and one that does not fit is lost.
const minBurst = 256 << 10

// limit is an nftables table (family netdev) of one device, which drops what passes
// beyond a rate: TCP slows down. Shaping by tc would queue instead, but only what
// leaves a device; what arrives would take a policer, which is tc's own and not in
// every kernel, or a device more for each instance.
type limit struct {
	table, device string
	rate, burst   uint64 // bytes per second; bytes beyond one second's
}

// planLimit is a pure function. What leaves the device arrives in the instance, and
// the other way round.
func planLimit(bridge, device string, rate api.Rate) limit {
	// The kernel adds a second's worth to the burst that it is told (nft_limit_init).
	burst := max(rate.Burst, minBurst) - rate.Limit
	return limit{table: limitPrefix(bridge) + device, device: device, rate: uint64(rate.Limit), burst: uint64(min(max(burst, 0), math.MaxUint32))}
}

// limitPrefix begins the names of a bridge's tables.
func limitPrefix(bridge string) string { return bridge + "-" }

// hooks are the chains of a table.
func hooks() map[string]*nftables.ChainHook {
	return map[string]*nftables.ChainHook{"sent": nftables.ChainHookIngress, "received": nftables.ChainHookEgress}
}

// replace puts the table in place of the one there was, if any, in one transaction.
func (l limit) replace() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	t := &nftables.Table{Family: nftables.TableFamilyNetdev, Name: l.table}
	c.AddTable(t) // so that there is one to delete
	c.DelTable(t)
	c.AddTable(t)
	for name, hook := range hooks() {
		chain := c.AddChain(&nftables.Chain{
			Name: name, Table: t, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter, Device: l.device,
		})
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: []expr.Any{
			&expr.Limit{Type: expr.LimitTypePktBytes, Rate: l.rate, Unit: expr.LimitTimeSecond, Burst: uint32(l.burst), Over: true},
			&expr.Verdict{Kind: expr.VerdictDrop},
		}})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables: limit %s: %w", l.device, err)
	}
	return nil
}

// Limit implements network.Network.
func (n *Network) Limit(_ context.Context, id string, rate api.Rate) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.endpoints[id]
	if r == nil {
		return api.E("limit", api.NotFound, id, errors.New("the instance is not attached to the network"))
	}
	device := r.Endpoint.HostName
	if !rate.Limits() {
		return n.unlimit(device)
	}
	l := planLimit(n.cfg.Bridge, device, rate)
	if err := l.replace(); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
			err = api.E("", api.Unsupported, "", fmt.Errorf("--net-bandwidth takes nftables at devices, for what arrives and leaves (Linux 5.16): %w", err))
		}
		return api.E("limit", "", id, err)
	}
	n.limited[device] = true
	return nil
}

// unlimit takes a device's limit away, where it has one. The caller holds mu.
func (n *Network) unlimit(device string) error {
	if !n.limited[device] {
		return nil
	}
	delete(n.limited, device)
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	t := &nftables.Table{Family: nftables.TableFamilyNetdev, Name: limitPrefix(n.cfg.Bridge) + device}
	c.AddTable(t) // no error where somebody has deleted it
	c.DelTable(t)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables: remove the limit of %s: %w", device, err)
	}
	return nil
}

// findLimits learns which devices have limits, from before this daemon, and takes
// those away whose instance is gone. The caller holds mu.
func (n *Network) findLimits() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyNetdev)
	if err != nil {
		return fmt.Errorf("nftables: list tables: %w", err)
	}
	attached := make(map[string]bool)
	for _, r := range n.endpoints {
		attached[r.Endpoint.HostName] = true
	}
	for _, t := range tables {
		device, ours := strings.CutPrefix(t.Name, limitPrefix(n.cfg.Bridge))
		if !ours {
			continue
		}
		n.limited[device] = true
		if !attached[device] {
			if err := n.unlimit(device); err != nil {
				return err
			}
		}
	}
	return nil
}
