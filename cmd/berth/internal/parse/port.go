package parse

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/berthcloud/berth/api"
)

// maxPorts bounds the ports of one range.
const maxPorts = 1000

// Publish reads [[IP:][HOST-PORT]:]PORT[/PROTOCOL], where both ports may be
// ranges of the same length. IPv6 addresses stand in brackets.
func Publish(s string) ([]api.Port, error) {
	bad := func(why string) ([]api.Port, error) {
		return nil, fmt.Errorf("%q: %s; write [[IP:]HOST-PORT:]PORT[/tcp|udp] as in 8080:80", s, why)
	}
	rest, protocol, _ := strings.Cut(s, "/")
	switch protocol = strings.ToLower(protocol); protocol {
	case "", "tcp":
		protocol = "tcp"
	case "udp":
	default:
		return bad("protocol " + strconv.Quote(protocol) + " is neither tcp nor udp")
	}
	var ip, host string
	port := rest
	if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		host, port = rest[:i], rest[i+1:]
		if i := strings.LastIndexByte(host, ':'); i >= 0 {
			ip, host = host[:i], host[i+1:]
			ip = strings.TrimSuffix(strings.TrimPrefix(ip, "["), "]")
			addr, err := netip.ParseAddr(ip)
			if err != nil {
				return bad("not an address: " + strconv.Quote(ip))
			}
			ip = addr.String()
		}
	}
	first, last, err := portRange(port)
	if err != nil {
		return bad(err.Error())
	}
	hostFirst := 0
	if host != "" {
		var hostLast int
		if hostFirst, hostLast, err = portRange(host); err != nil {
			return bad(err.Error())
		}
		if hostLast-hostFirst != last-first {
			return bad("the ranges differ in length")
		}
	}
	ports := make([]api.Port, 0, last-first+1)
	for i := 0; i <= last-first; i++ {
		p := api.Port{HostIP: ip, Port: uint16(first + i), Protocol: protocol}
		if host != "" {
			p.HostPort = uint16(hostFirst + i)
		}
		ports = append(ports, p)
	}
	return ports, nil
}

// portRange reads N or N-M.
func portRange(s string) (first, last int, err error) {
	a, b, ranged := strings.Cut(s, "-")
	if !ranged {
		b = a
	}
	f, err1 := strconv.ParseUint(a, 10, 16)
	l, err2 := strconv.ParseUint(b, 10, 16)
	switch {
	case err1 != nil || err2 != nil || f == 0:
		return 0, 0, fmt.Errorf("%q is not a port", s)
	case l < f:
		return 0, 0, fmt.Errorf("the range %q goes backwards", s)
	case l-f >= maxPorts:
		return 0, 0, fmt.Errorf("the range %q has more than %d ports", s, maxPorts)
	}
	return int(f), int(l), nil
}
