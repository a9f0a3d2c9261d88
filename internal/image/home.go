package image

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"sync/atomic"
	"syscall"

	"github.com/berthcloud/berth/api"
)

// home is where a registry is. It may lead its clients elsewhere, by a redirect, the place
// of an upload or the realm of its tokens, but not to what only this host or its network
// can reach and the registry itself cannot: a cloud's metadata, a service without a
// password.
type home struct {
	host string // and port, as in URLs
	near atomic.Int32
}

// How near an address is.
const (
	far    = iota
	onSite // RFC 1918, RFC 4193, RFC 6598
	onHost // or its link
)

var shared = netip.MustParsePrefix("100.64.0.0/10")

func nearness(ip netip.Addr) int32 {
	switch ip = ip.Unmap(); {
	case ip.IsLoopback(), ip.IsUnspecified(), ip.IsLinkLocalUnicast(), ip.IsMulticast():
		return onHost
	case ip.IsPrivate(), shared.Contains(ip):
		return onSite
	}
	return far
}

// ledKey marks the context of a request to where a registry has led.
type ledKey struct{}

// mark marks a request that leaves home. A proxy that carries it knows what it may reach.
func (h *home) mark(req *http.Request) *http.Request {
	if req.URL.Host == h.host {
		return req
	}
	if proxy, err := http.ProxyFromEnvironment(req); err != nil || proxy != nil {
		return req
	}
	return req.WithContext(context.WithValue(req.Context(), ledKey{}, req.URL.Host))
}

// check is a net.Dialer's ControlContext: it sees the address that a name has led to.
func (h *home) check(ctx context.Context, _, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	near := nearness(to.Addr())
	if led, ok := ctx.Value(ledKey{}).(string); ok {
		if near > h.near.Load() {
			return api.E("", api.Denied, "", fmt.Errorf("the registry %s leads to %s, which is %s, an address of this host or site; refused", h.host, led, to.Addr()))
		}
		return nil
	}
	h.near.Store(max(near, h.near.Load()))
	return nil
}
