package bridge

import (
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/network/dns"
)

// ledger is what the networks of one daemon must know of each other: which subnet
// is whose, which port of the host is taken by whom, and who is on several of them.
// Its lock is a leaf: a network calls it with its own lock held.
type ledger struct {
	runDir string
	ports  Ports

	mu    sync.Mutex
	pages map[string]*page // by the network's bridge
}

// page is what one network has told.
type page struct {
	subnet  netip.Prefix
	ready   bool // it is on the host
	names   *dns.Server
	members []member
	leads   map[api.Port]netip.AddrPort
}

// member is an instance on a network.
type member struct {
	id, name string
	address  netip.Addr
	publish  []api.Port
}

func newLedger(runDir string, ports Ports) *ledger {
	return &ledger{runDir: runDir, ports: ports, pages: make(map[string]*page)}
}

// page returns a network's page. The caller holds mu.
func (l *ledger) page(bridge string) *page {
	p := l.pages[bridge]
	if p == nil {
		p = &page{}
		l.pages[bridge] = p
	}
	return p
}

// tell changes a network's page.
func (l *ledger) tell(bridge string, change func(*page)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(l.page(bridge))
}

// leave forgets a network.
func (l *ledger) leave(bridge string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.pages, bridge)
}

// choose records the subnet that pick takes in sight of those that other networks
// have. The record of it, too, is written by pick, so that no two take the same.
func (l *ledger) choose(bridge string, pick func(taken []netip.Prefix) (netip.Prefix, error)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var taken []netip.Prefix
	for other, p := range l.pages {
		if other != bridge && p.subnet.IsValid() {
			taken = append(taken, p.subnet)
		}
	}
	subnet, err := pick(taken)
	if err == nil {
		l.page(bridge).subnet = subnet
	}
	return err
}

// publisher returns the name of the instance of another network that has the port.
func (l *ledger) publisher(bridge string, port api.Port) (name string, taken bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for other, p := range l.pages {
		for _, m := range p.members {
			if other != bridge && slices.ContainsFunc(m.publish, func(q api.Port) bool { return collide(port, q) }) {
				return m.name, true
			}
		}
	}
	return "", false
}

// lead has the ports of all networks led to where they shall, where that is not done
// by rules.
func (l *ledger) lead(bridge string, leads map[api.Port]netip.AddrPort) error {
	if l.ports == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.page(bridge).leads = leads
	all := make(map[api.Port]netip.AddrPort)
	for _, p := range l.pages {
		maps.Copy(all, p.leads)
	}
	return l.ports.Lead(all)
}

// alone reports whether no other network is on the host.
func (l *ledger) alone(bridge string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for other, p := range l.pages {
		if other != bridge && p.ready {
			return false
		}
	}
	return true
}

// beyond returns the name servers of the other networks that a client of one is on.
func (l *ledger) beyond(bridge string, client netip.Addr) []*dns.Server {
	l.mu.Lock()
	defer l.mu.Unlock()
	own := l.page(bridge).members
	at := slices.IndexFunc(own, func(m member) bool { return m.address == client })
	if at < 0 {
		return nil
	}
	var servers []*dns.Server
	for _, other := range sortedKeys(l.pages) {
		p := l.pages[other]
		if other != bridge && p.names != nil && slices.ContainsFunc(p.members, func(m member) bool { return m.id == own[at].id }) {
			servers = append(servers, p.names)
		}
	}
	return servers
}
