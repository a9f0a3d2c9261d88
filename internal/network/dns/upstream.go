package dns

import (
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// recheck is how often the host's resolv.conf is looked at.
const recheck = 2 * time.Second

// maxUpstreams is what resolv.conf(5) uses of its name servers.
const maxUpstreams = 3

// upstreams are the host's name servers. Those on loopback (systemd-resolved,
// dnsmasq) are as good as any: it is the host that asks them.
type upstreams struct {
	path string

	mu      sync.Mutex
	looked  time.Time
	changed time.Time // modification time of the file that was read
	servers []netip.AddrPort
}

// list returns the servers, read again where the file has changed.
func (u *upstreams) list() []netip.AddrPort {
	u.mu.Lock()
	defer u.mu.Unlock()
	if time.Since(u.looked) < recheck {
		return u.servers
	}
	u.looked = time.Now()
	info, err := os.Stat(u.path)
	if err != nil || info.ModTime().Equal(u.changed) {
		return u.servers // a file being replaced leaves the last good list
	}
	conf, err := dns.ClientConfigFromFile(u.path)
	if err != nil {
		return u.servers
	}
	u.changed, u.servers = info.ModTime(), nil
	for _, s := range conf.Servers {
		if a, err := netip.ParseAddr(s); err == nil && len(u.servers) < maxUpstreams {
			u.servers = append(u.servers, netip.AddrPortFrom(a, 53))
		}
	}
	return u.servers
}
