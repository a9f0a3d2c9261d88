package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/berthcloud/berth/api"
)

// Check validates what can be said of a request without a network, and returns
// it with its defaults filled in. Drivers call it first. Its errors have the
// kind Invalid.
func Check(r Request) (Request, error) {
	if r.ID == "" || len(r.Names) == 0 {
		return r, api.E("attach", api.Invalid, r.ID, errors.New("an endpoint needs an id and a name"))
	}
	if r.MAC != "" {
		mac, err := net.ParseMAC(r.MAC)
		if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
			return r, api.E("attach", api.Invalid, r.MAC, errors.New("not the MAC address of an interface, as in 02:be:00:00:00:01"))
		}
		r.MAC = mac.String()
	}
	if r.Number < 0 || r.Number > MaxNumber {
		return r, api.E("attach", api.Invalid, r.ID, fmt.Errorf("an instance has at most %d network interfaces", MaxNumber+1))
	}
	r.Names, r.Publish = slices.Clone(r.Names), slices.Clone(r.Publish)
	for i := range r.Publish {
		if err := checkPort(&r.Publish[i]); err != nil {
			return r, err
		}
	}
	return r, nil
}

// checkPort validates a published port and fills in its protocol.
func checkPort(p *api.Port) error {
	if p.Protocol == "" {
		p.Protocol = "tcp"
	}
	switch {
	case p.Protocol != "tcp" && p.Protocol != "udp":
		return api.E("publish", api.Invalid, PortName(*p), errors.New("the protocol must be tcp or udp"))
	case p.Port == 0:
		return api.E("publish", api.Invalid, PortName(*p), errors.New("an instance has no port 0"))
	case p.HostIP == "":
		return nil
	}
	if a, err := netip.ParseAddr(p.HostIP); err != nil || !a.Is4() {
		return api.E("publish", api.Invalid, p.HostIP, errors.New("not an IPv4 address"))
	}
	return nil
}

// PortName names a published port in a message, as "port 8080/tcp".
func PortName(p api.Port) string {
	if p.HostIP == "" {
		return fmt.Sprintf("port %d/%s", p.HostPort, p.Protocol)
	}
	return fmt.Sprintf("port %s:%d/%s", p.HostIP, p.HostPort, p.Protocol)
}
