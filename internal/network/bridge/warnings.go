package bridge

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// Warnings implements network.Network. Accepting a packet in Berth's own table
// does not save it from another table's drop: every table's base chains are
// passed (nft(8), "verdicts"). Berth never changes foreign rules; it says which
// ones are in the way.
func (n *Network) Warnings(context.Context) []string {
	n.mu.Lock()
	dnsErr, subnet := n.dnsErr, n.subnet
	n.mu.Unlock()
	out := warnOverlap(n.cfg.Bridge, subnet, n.lastingPath())
	if dnsErr != nil {
		out = append(out, fmt.Sprintf("instances cannot resolve each other's names: %v; free port 53 of the address and restart berthd", dnsErr))
	}
	chains, err := foreignChains(n.cfg.Bridge)
	if err != nil {
		return append(out, fmt.Sprintf("the host's firewall rules cannot be read: %v", err))
	}
	out = append(out, warnChains(chains, n.cfg.Bridge)...)
	return append(out, warnLegacy()...)
}

// warnOverlap tells of a route that came up after the subnet had been chosen, as
// a VPN's.
func warnOverlap(bridge string, subnet netip.Prefix, file string) []string {
	if !subnet.IsValid() {
		return nil
	}
	used, err := usedSubnets(bridge)
	if err != nil {
		return nil
	}
	for _, u := range used {
		if u.Overlaps(subnet) {
			return []string{fmt.Sprintf("the host has a route to %s, which overlaps the instances' %s; to have another subnet chosen, remove all instances, stop berthd and remove %s", u, subnet, file)}
		}
	}
	return nil
}

// foreignChain is what matters of a base chain that is not Berth's.
type foreignChain struct {
	family, table, name string
	hook                nftables.ChainHook
	drops               bool   // by policy
	owner               string // a program that is known to make such chains, or ""
}

// foreignChains lists the base chains of other tables that see IPv4.
func foreignChains(own string) ([]foreignChain, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, err
	}
	var out []foreignChain
	for family, name := range map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "ip", nftables.TableFamilyINet: "inet"} {
		chains, err := c.ListChainsOfTableFamily(family)
		if err != nil {
			return nil, err
		}
		owners := map[string]string{} // of tables
		for _, ch := range chains {
			if o := ownerOf(ch.Table.Name, ch.Name); o != "" {
				owners[ch.Table.Name] = o
			}
		}
		for _, ch := range chains {
			if ch.Hooknum == nil || strings.HasPrefix(ch.Table.Name, "berth") {
				continue
			}
			out = append(out, foreignChain{
				family: name, table: ch.Table.Name, name: ch.Name, hook: *ch.Hooknum,
				drops: ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop,
				owner: owners[ch.Table.Name],
			})
		}
	}
	return out, nil
}

// ownerOf knows programs by the chains they make.
func ownerOf(table, chain string) string {
	switch {
	case table == "firewalld":
		return "firewalld"
	case strings.HasPrefix(chain, "ufw-"):
		return "ufw"
	case strings.HasPrefix(chain, "DOCKER"):
		return "Docker"
	}
	return ""
}

// warnChains says which of the chains cut instances off, and the way out.
func warnChains(chains []foreignChain, bridge string) []string {
	var out []string
	for _, c := range chains {
		forward := c.hook == *nftables.ChainHookForward
		input := c.hook == *nftables.ChainHookInput
		// firewalld's chains have policy accept and reject at their end.
		if !forward && !input || !c.drops && c.owner != "firewalld" {
			continue
		}
		who := c.owner
		if who == "" {
			who = "a firewall"
		}
		effect := "cuts instances off from the world and published ports from their instances"
		if input {
			effect = "keeps instances from the name server on " + bridge
		}
		out = append(out, fmt.Sprintf("%s (nftables table %s %s, chain %s) %s; %s",
			who, c.family, c.table, c.name, effect, wayOut(c, bridge, forward)))
	}
	return out
}

// wayOut is what an administrator would do.
func wayOut(c foreignChain, bridge string, forward bool) string {
	switch {
	case c.owner == "firewalld":
		return "allow it: firewall-cmd --permanent --zone=trusted --add-interface=" + bridge + " && firewall-cmd --reload"
	case c.owner == "ufw" && forward:
		return "allow it: ufw route allow in on " + bridge + " && ufw route allow out on " + bridge
	case c.owner == "ufw":
		return "allow it: ufw allow in on " + bridge
	case forward:
		return fmt.Sprintf("allow it: nft 'insert rule %s %s %s iifname %s accept; insert rule %s %s %s oifname %s accept'",
			c.family, c.table, chainFor(c), bridge, c.family, c.table, chainFor(c), bridge)
	}
	return fmt.Sprintf("allow it: nft insert rule %s %s %s iifname %s accept", c.family, c.table, c.name, bridge)
}

// chainFor is the chain in which Docker leaves other people's rules alone.
func chainFor(c foreignChain) string {
	if c.owner == "Docker" {
		return "DOCKER-USER"
	}
	return c.name
}

// warnLegacy tells of rules that nftables cannot show.
func warnLegacy() []string {
	data, err := os.ReadFile("/proc/net/ip_tables_names")
	if err != nil {
		return nil
	}
	if !slices.Contains(strings.Fields(string(data)), "filter") {
		return nil
	}
	return []string{"the host has rules of iptables-legacy, which Berth cannot read; if instances are cut off, look at iptables-legacy -S FORWARD"}
}
