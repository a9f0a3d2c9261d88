package link

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// udpTo matches the flows of clients that send to one of the ports.
type udpTo map[uint16]bool

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (ports udpTo) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	return f.Forward.Protocol == unix.IPPROTO_UDP && ports[f.Forward.DstPort]
}

// ForgetUDP makes connection tracking forget the UDP flows to these ports of
// any address. Where a port leads is decided by a flow's first packet: a client
// that goes on sending would never notice that it leads elsewhere now. (TCP
// notices by itself.) A kernel that does not tell its flows has the same
// clients wait until their flows time out: no error.
func ForgetUDP(ports ...uint16) error {
	if len(ports) == 0 {
		return nil
	}
	match := make(udpTo)
	for _, p := range ports {
		match[p] = true
	}
	_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, match)
	switch {
	case err == nil, errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return nil
	}
	return fmt.Errorf("forget UDP flows: %w", err)
}
