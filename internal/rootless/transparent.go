package rootless

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Marks of connections that were made for a client outside: of what goes to the
// instance, and of its answers, which alone the routing rule may meet. They are berth's
// letters, so that they meet nobody else's.
const (
	markOut  = 0x6265
	markBack = 0x6266
)

// The routing table of answers, and the name of the nftables table.
const (
	routes    = markBack
	tableName = "berth-clients"
)

// uplinkName is the device that pasta makes.
const uplinkName = "up0"

// gateway and uplink are the ends of the way out, from the addresses for providers'
// own use (RFC 6598), which hosts hardly have. The gateway is pasta; it answers names.
var (
	gateway = netip.AddrFrom4([4]byte{100, 127, 255, 1})
	uplink  = netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 127, 255, 2}), 30)
)

// openNetwork has packets that answer a client of a published port come to the socket
// that stands for him: their connection has its mark from the socket, they get it from
// the connection, and the rule routes them to this host, whatever their address. It may
// be called again, by the next hold.
func openNetwork() error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	if err := markAnswers(); err != nil {
		return fmt.Errorf("nftables: table %s: %w", tableName, err)
	}
	rule := netlink.NewRule()
	rule.Family, rule.Mark, rule.Table = unix.AF_INET, markBack, routes
	if err := netlink.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("routing rule: %w", err)
	}
	all := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	err = netlink.RouteReplace(&netlink.Route{
		LinkIndex: lo.Attrs().Index, Dst: all, Table: routes, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST,
	})
	if err != nil {
		return fmt.Errorf("route of answers: %w", err)
	}
	return nil
}

// markAnswers makes the table:
//
//	chain output     type filter hook output     priority mangle: meta mark OUT ct mark set OUT
//	chain prerouting type filter hook prerouting priority mangle: ct mark OUT meta mark set BACK
//	                                             iifname uplink ct state invalid drop
//
// The last rule is for pasta, which (as of 2023) tells of a window by a segment without
// flags. Connection tracking makes nothing of that, so it would reach this host
// untranslated, and be answered by a reset of the instance's connection.
func markAnswers() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	const register = 1
	number := binaryutil.NativeEndian.PutUint32
	isOut := &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: number(markOut)}
	device := make([]byte, unix.IFNAMSIZ)
	copy(device, uplinkName)
	t := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName}
	c.AddTable(t) // so that there is one to delete, which a hold that was killed has made
	c.DelTable(t)
	c.AddTable(t)
	for _, ch := range []struct {
		name  string
		hook  *nftables.ChainHook
		rules [][]expr.Any
	}{
		{"output", nftables.ChainHookOutput, [][]expr.Any{{
			&expr.Meta{Key: expr.MetaKeyMARK, Register: register}, isOut,
			&expr.Ct{Key: expr.CtKeyMARK, Register: register, SourceRegister: true},
		}}},
		{"prerouting", nftables.ChainHookPrerouting, [][]expr.Any{{
			&expr.Ct{Key: expr.CtKeyMARK, Register: register}, isOut,
			&expr.Immediate{Register: register, Data: number(markBack)},
			&expr.Meta{Key: expr.MetaKeyMARK, Register: register, SourceRegister: true},
		}, {
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register},
			&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: device},
			&expr.Ct{Key: expr.CtKeySTATE, Register: register},
			&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: number(expr.CtStateBitINVALID), Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: make([]byte, 4)},
			&expr.Verdict{Kind: expr.VerdictDrop},
		}}},
	} {
		nc := c.AddChain(&nftables.Chain{
			Name: ch.name, Table: t, Type: nftables.ChainTypeFilter, Hooknum: ch.hook, Priority: nftables.ChainPriorityMangle,
		})
		for _, exprs := range ch.rules {
			c.AddRule(&nftables.Rule{Table: t, Chain: nc, Exprs: exprs})
		}
	}
	return c.Flush()
}
