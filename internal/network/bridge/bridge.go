// Package bridge is networks on Linux bridges of the host.
//
// # What is on the host
//
// For each network:
//
//   - The bridge, with the gateway's address, IPv4 only.
//   - One nftables table (family ip) with the bridge's name: masquerading, the
//     published ports, and the rule that nothing from outside reaches an
//     instance otherwise. rules.go has the plan. It is replaced whole, in one
//     transaction.
//   - The sysctls net.ipv4.ip_forward and, for the bridge, route_localnet (so
//     that 127.0.0.1:PORT of the host leads to a published port).
//   - A name server on the gateway's address (package dns).
//   - A bound, silent socket per published port, so that no other program of
//     the host takes the port meanwhile.
//
// Forwarding makes a router of the host: what reaches it for other networks it
// passes on, as far as the host's own firewall lets it. Every bridge network
// needs that; Berth's rules concern its bridge alone.
//
// An internal network has no masquerading and no published ports, what would leave
// it is dropped, and its name server knows nothing of the world (CVE-2024-29018).
//
// It all appears with the first endpoint. Close, with no endpoint left, takes
// it away; ip_forward goes back to what it was, if this daemon switched it on
// and no other bridge of Berth's needs it.
//
// # Addresses that an instance sees
//
// A client's own address arrives with a connection to a published port, also
// from the host to one of its own addresses. Two cannot: a client on the host
// that connects to 127.0.0.1, and an instance that connects to a published port
// of its own network; both appear as the gateway.
//
// # When berthd is away
//
// Addresses, rules and ports stay and work. Names are not answered until it is
// back.
//
// # Files
//
//	DIR/network.json          bridge and subnet, chosen once
//	DIR/named/NAME/           the same of a network that was made
//	RUN/endpoints/ID.json     an endpoint; like the instances it dies with a boot
//	RUN/named/NAME/           the same of a network that was made
package bridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/link"
	"github.com/berthcloud/berth/internal/network"
	"github.com/berthcloud/berth/internal/network/dns"
)

// Config says where a network is.
type Config struct {
	Dir    string       // lasting; made where missing
	RunDir string       // dies with a boot; made where missing
	Bridge string       // the device; see Name
	Subnet netip.Prefix // zero: chosen once among what is free
	Log    *slog.Logger // nil: silent
	Ports  Ports        // nil: this network namespace has the host's addresses

	Name     string // "": the default network
	Internal bool   // no way out
	Labels   map[string]string
	Created  time.Time

	ledger *ledger // nil: it is the daemon's only network
}

// Ports leads published ports to instances where the host's addresses are those of
// another network namespace, out of reach of the rules of this one. The error of
// Try is EADDRINUSE, EADDRNOTAVAIL or EACCES where that is why.
type Ports interface {
	// Try finds out whether the port could be listened on.
	Try(api.Port) error
	// Lead leads these ports, each to its address, and no others.
	Lead(map[api.Port]netip.AddrPort) error
}

// Network implements network.Network.
type Network struct {
	cfg Config
	log *slog.Logger
	dns *dns.Server

	unplugging sync.WaitGroup // devices being deleted

	// mu guards the fields below and the host's devices and rules.
	mu        sync.Mutex
	subnet    netip.Prefix
	mtu       int
	pool      *pool
	endpoints map[string]*record
	limited   map[string]bool // devices with a limit
	ready     bool            // the bridge, the table and the sysctls are in place
	dnsErr    error
	closed    bool
}

var _ network.Network = (*Network)(nil)

// New reads what is recorded. It changes nothing on the host: Apply or the
// first Attach does.
func New(cfg Config) (*Network, error) {
	if cfg.Name == "" {
		cfg.Name = api.NetworkDefault
	}
	if cfg.ledger == nil {
		cfg.ledger = newLedger(cfg.RunDir, cfg.Ports)
	}
	n := &Network{cfg: cfg, log: cfg.Log, endpoints: make(map[string]*record), limited: make(map[string]bool)}
	if n.log == nil {
		n.log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	n.dns = dns.New(dns.Config{
		Internal: cfg.Internal,
		Beyond:   func(client netip.Addr) []*dns.Server { return cfg.ledger.beyond(cfg.Bridge, client) },
	})
	for _, dir := range []string{cfg.Dir, n.endpointsDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	if err := n.load(); err != nil {
		return nil, err
	}
	return n, nil
}

// ensure makes the bridge, the sysctls, the table and the name server. The
// caller holds mu.
func (n *Network) ensure() error {
	if n.closed {
		return api.E("attach", api.Unavailable, n.cfg.Bridge, errors.New("the network is closed"))
	}
	if n.ready {
		return nil
	}
	if err := n.settle(); err != nil {
		return err
	}
	n.mtu = uplinkMTU()
	err := link.EnsureBridge(link.Bridge{
		Name: n.cfg.Bridge, MAC: macOf(n.pool.gateway()), MTU: n.mtu,
		Address: netip.PrefixFrom(n.pool.gateway(), n.subnet.Bits()),
	})
	if err != nil {
		return api.E("make network", api.Internal, n.cfg.Bridge, err)
	}
	if err := n.setSysctls(); err != nil {
		return api.E("make network", api.Internal, n.cfg.Bridge, err)
	}
	if err := n.replaceRules(); err != nil {
		return err
	}
	n.dnsErr = n.dns.Listen(n.pool.gateway(), n.subnet)
	if n.dnsErr != nil {
		n.log.Warn("names of instances are not answered", "network", n.cfg.Bridge, "error", n.dnsErr)
	}
	n.ready = true
	n.cfg.ledger.tell(n.cfg.Bridge, func(p *page) { p.ready, p.names = true, n.dns })
	return nil
}

// replaceRules puts the table for the current endpoints in place. The caller
// holds mu.
func (n *Network) replaceRules() error {
	var targets []target
	leads := make(map[api.Port]netip.AddrPort)
	for _, id := range sortedKeys(n.endpoints) {
		r := n.endpoints[id]
		targets = append(targets, r.targets()...)
		for _, p := range r.Endpoint.Publish {
			leads[p] = netip.AddrPortFrom(r.address(), p.Port)
		}
	}
	err := plan(n.cfg.Bridge, n.subnet, n.cfg.Internal, targets).replace()
	if err == nil {
		err = n.cfg.ledger.lead(n.cfg.Bridge, leads)
	}
	return api.E("make network", api.Internal, n.cfg.Bridge, err)
}

// Apply implements network.Network.
func (n *Network) Apply(ctx context.Context, ids []string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	keep := make(map[string]bool)
	for _, id := range ids {
		keep[id] = true
	}
	for _, id := range sortedKeys(n.endpoints) {
		if !keep[id] {
			if err := n.forget(n.endpoints[id]); err != nil {
				return err
			}
		}
	}
	if err := n.findLimits(); err != nil {
		return err
	}
	if len(n.endpoints) == 0 && !n.ready {
		return n.remove() // what a killed daemon may have left
	}
	n.ready = false
	if err := n.ensure(); err != nil {
		return err
	}
	n.announce()
	for _, r := range n.endpoints {
		if len(r.held) == 0 {
			r.hold() // a port that somebody took meanwhile is DNATed all the same
		}
	}
	return n.removeStalePorts()
}

// removeStalePorts removes devices on the bridge that belong to no endpoint.
// The caller holds mu.
func (n *Network) removeStalePorts() error {
	wanted := make(map[string]bool)
	for _, r := range n.endpoints {
		wanted[r.Endpoint.HostName] = true
	}
	ports, err := link.Ports(n.cfg.Bridge)
	if err != nil {
		return err
	}
	for _, name := range ports {
		if wanted[name] {
			continue
		}
		if err := link.Delete(name); err != nil {
			return err
		}
	}
	return nil
}

// Close implements network.Network.
func (n *Network) Close() error {
	err := n.dns.Close()
	n.unplugging.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.endpoints {
		r.release()
	}
	if !n.closed && len(n.endpoints) == 0 {
		err = errors.Join(err, n.remove())
	}
	n.closed, n.ready = true, false
	return err
}

// remove takes everything off the host. The caller holds mu.
func (n *Network) remove() error {
	ports, err := link.Ports(n.cfg.Bridge)
	for _, name := range ports {
		err = errors.Join(err, link.Delete(name))
	}
	err = errors.Join(err, link.Delete(n.cfg.Bridge), removeTable(n.cfg.Bridge), n.restoreSysctls(), n.cfg.ledger.lead(n.cfg.Bridge, nil))
	if err != nil {
		return api.E("remove network", api.Internal, n.cfg.Bridge, err)
	}
	n.ready = false
	n.cfg.ledger.tell(n.cfg.Bridge, func(p *page) { p.ready, p.names = false, nil })
	return nil
}

// macOf derives a MAC address from an IPv4 address: locally administered,
// unique on the segment, the same whenever the address is.
func macOf(a netip.Addr) string {
	b := a.As4()
	return fmt.Sprintf("02:be:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3])
}

func (n *Network) endpointsDir() string { return filepath.Join(n.cfg.RunDir, "endpoints") }
