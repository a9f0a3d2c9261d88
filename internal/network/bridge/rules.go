package bridge

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// ruleset is the content of Berth's own nftables table (family ip). It is a
// pure function of what is attached: plan makes it, replace puts it in place.
type ruleset struct {
	table  string
	chains []chain
}

// chain is a base chain with policy accept: what Berth does not forbid is left
// to the host's other rules.
type chain struct {
	name     string
	kind     nftables.ChainType
	hook     *nftables.ChainHook
	hookName string
	priority nftables.ChainPriority
	rules    []rule
}

// rule is a list of matches and a verdict.
type rule []statement

// statement is one match or verdict, as a person reads it and as the kernel
// does.
type statement struct {
	text  string
	exprs []expr.Any
}

// target is where a published port leads.
type target struct {
	proto    string     // tcp or udp
	hostIP   netip.Addr // the host's address it is published on; zero for all
	hostPort uint16
	to       netip.AddrPort
}

// plan returns the table for a bridge with the subnet and the published ports. What
// is internal has neither ports nor a way out.
//
//	packet of                        meets
//	an instance, to the world        postrouting: masqueraded
//	an instance, to a published      prerouting: led to the instance; postrouting: masqueraded,
//	  port of the host                 or the answer would go straight back, past the host
//	the world, to a published port   prerouting: led to the instance, with its own source address;
//	                                   forward: let through, as it was led
//	the world, to an instance        forward: dropped
//	the host, to a published port    output: led to the instance; postrouting: from 127.0.0.0/8
//	                                   masqueraded, as nobody can answer to that
//
// The guard stands before connection tracking. The bridge routes packets from
// 127.0.0.0/8 (route_localnet), which without it would open the host's loopback
// services to instances: CVE-2020-8558.
func plan(bridge string, subnet netip.Prefix, internal bool, targets []target) ruleset {
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	lead := make([]rule, len(targets))
	for i, t := range targets {
		lead[i] = leadTo(t)
	}
	guard := chain{"guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, "prerouting", *nftables.ChainPriorityRaw, []rule{
		{iifname(bridge), daddr(loopback), verdict(expr.VerdictDrop)},
		{iifname(bridge), notSaddr(subnet), verdict(expr.VerdictDrop)},
	}}
	if internal {
		return ruleset{table: bridge, chains: []chain{guard, {"forward", nftables.ChainTypeFilter, nftables.ChainHookForward, "forward", *nftables.ChainPriorityFilter, []rule{
			{iifname(bridge), oifname(bridge), verdict(expr.VerdictAccept)},
			{iifname(bridge), verdict(expr.VerdictDrop)},
			{oifname(bridge), verdict(expr.VerdictDrop)},
		}}}}
	}
	return ruleset{table: bridge, chains: []chain{
		guard,
		{"prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, "prerouting", *nftables.ChainPriorityNATDest, lead},
		{"output", nftables.ChainTypeNAT, nftables.ChainHookOutput, "output", *nftables.ChainPriorityNATDest, lead},
		{"forward", nftables.ChainTypeFilter, nftables.ChainHookForward, "forward", *nftables.ChainPriorityFilter, []rule{
			{oifname(bridge), established(), verdict(expr.VerdictAccept)},
			{oifname(bridge), iifname(bridge), verdict(expr.VerdictAccept)},
			{oifname(bridge), led(), verdict(expr.VerdictAccept)},
			{oifname(bridge), verdict(expr.VerdictDrop)},
		}},
		{"postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, "postrouting", *nftables.ChainPriorityNATSource, []rule{
			{notOifname(bridge), saddr(subnet), masquerade()},
			{oifname(bridge), saddr(loopback), masquerade()},
			{oifname(bridge), saddr(subnet), led(), masquerade()},
		}},
	}}
}

// leadTo sends what reaches a published port to its instance.
func leadTo(t target) rule {
	r := rule{localDaddr()}
	if t.hostIP.IsValid() && !t.hostIP.IsUnspecified() {
		r = append(r, daddr(netip.PrefixFrom(t.hostIP, t.hostIP.BitLen())))
	}
	return append(r, dport(t.proto, t.hostPort), dnat(t.to))
}

// String returns the table as nft(8) would list it.
func (rs ruleset) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table ip %s {\n", rs.table)
	for _, c := range rs.chains {
		fmt.Fprintf(&b, "\tchain %s {\n\t\ttype %s hook %s priority %d; policy accept;\n", c.name, c.kind, c.hookName, c.priority)
		for _, r := range c.rules {
			words := make([]string, len(r))
			for i, s := range r {
				words[i] = s.text
			}
			fmt.Fprintf(&b, "\t\t%s\n", strings.Join(words, " "))
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// register is the one nftables register that every match loads and compares.
const register = 1

func iifname(name string) statement {
	return ifname("iifname", expr.MetaKeyIIFNAME, expr.CmpOpEq, name)
}
func oifname(name string) statement {
	return ifname("oifname", expr.MetaKeyOIFNAME, expr.CmpOpEq, name)
}
func notOifname(name string) statement {
	return ifname("oifname !=", expr.MetaKeyOIFNAME, expr.CmpOpNeq, name)
}

func ifname(text string, key expr.MetaKey, op expr.CmpOp, name string) statement {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return statement{fmt.Sprintf("%s %q", text, name), []expr.Any{
		&expr.Meta{Key: key, Register: register},
		&expr.Cmp{Op: op, Register: register, Data: padded},
	}}
}

// Offsets of the addresses in an IPv4 header.
const (
	offsetSaddr = 12
	offsetDaddr = 16
)

func saddr(p netip.Prefix) statement    { return addr("ip saddr", offsetSaddr, expr.CmpOpEq, p) }
func notSaddr(p netip.Prefix) statement { return addr("ip saddr !=", offsetSaddr, expr.CmpOpNeq, p) }
func daddr(p netip.Prefix) statement    { return addr("ip daddr", offsetDaddr, expr.CmpOpEq, p) }

func addr(text string, offset uint32, op expr.CmpOp, p netip.Prefix) statement {
	mask := make([]byte, 4)
	binary.BigEndian.PutUint32(mask, ^uint32(0)<<(32-p.Bits()))
	what := p.String()
	if p.IsSingleIP() {
		what = p.Addr().String()
	}
	return statement{text + " " + what, []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: register, Data: p.Masked().Addr().AsSlice()},
	}}
}

// localDaddr matches packets to any address of the host.
func localDaddr() statement {
	return statement{"fib daddr type local", []expr.Any{
		&expr.Fib{Register: register, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}}
}

func dport(proto string, port uint16) statement {
	number := byte(unix.IPPROTO_TCP)
	if proto == "udp" {
		number = unix.IPPROTO_UDP
	}
	return statement{fmt.Sprintf("%s dport %d", proto, port), []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{number}},
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binaryutil.BigEndian.PutUint16(port)},
	}}
}

func established() statement {
	return ct("ct state established,related", expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
}

// led matches packets of connections whose destination was changed here.
func led() statement {
	const ipsDstNAT = 1 << 5 // IPS_DST_NAT, linux/netfilter/nf_conntrack_common.h
	return ct("ct status dnat", expr.CtKeySTATUS, ipsDstNAT)
}

func ct(text string, key expr.CtKey, bits uint32) statement {
	return statement{text, []expr.Any{
		&expr.Ct{Key: key, Register: register},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: make([]byte, 4)},
	}}
}

func verdict(kind expr.VerdictKind) statement {
	text := "accept"
	if kind == expr.VerdictDrop {
		text = "drop"
	}
	return statement{text, []expr.Any{&expr.Verdict{Kind: kind}}}
}

func masquerade() statement { return statement{"masquerade", []expr.Any{&expr.Masq{}}} }

func dnat(to netip.AddrPort) statement {
	return statement{"dnat to " + to.String(), []expr.Any{
		&expr.Immediate{Register: register, Data: to.Addr().AsSlice()},
		&expr.Immediate{Register: register + 1, Data: binaryutil.BigEndian.PutUint16(to.Port())},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: register, RegProtoMin: register + 1},
	}}
}

// replace puts the table in place of the one there was, if any, in one
// transaction: no packet sees half of it. Connections under way keep what was
// decided for them. It takes about 10 ms, nearly all of it the kernel's wait for
// all processors to have left the old rules.
func (rs ruleset) replace() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	t := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: rs.table}
	c.AddTable(t) // so that there is one to delete
	c.DelTable(t)
	c.AddTable(t)
	for _, ch := range rs.chains {
		nc := c.AddChain(&nftables.Chain{Name: ch.name, Table: t, Type: ch.kind, Hooknum: ch.hook, Priority: &ch.priority})
		for _, r := range ch.rules {
			var exprs []expr.Any
			for _, s := range r {
				exprs = append(exprs, s.exprs...)
			}
			c.AddRule(&nftables.Rule{Table: t, Chain: nc, Exprs: exprs})
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables: replace table %s: %w", rs.table, err)
	}
	return nil
}

// removeTable removes Berth's table. It is no error if there is none.
func removeTable(name string) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	t := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: name}
	c.AddTable(t)
	c.DelTable(t)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables: remove table %s: %w", name, err)
	}
	return nil
}
