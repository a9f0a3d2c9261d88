package bridge

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/berthcloud/berth/api"
)

// pool hands out the addresses of one prefix: all but the network's own, the
// gateway's (the first) and the broadcast address. It goes round, so that an
// address given back is not given out again at once, while peers may still
// remember whose it was. The caller synchronizes.
type pool struct {
	prefix netip.Prefix
	owner  map[netip.Addr]string // instance ids
	last   netip.Addr            // given out last
}

func newPool(prefix netip.Prefix) *pool {
	p := &pool{prefix: prefix.Masked(), owner: make(map[netip.Addr]string)}
	p.last = p.gateway()
	return p
}

func (p *pool) gateway() netip.Addr { return p.prefix.Addr().Next() }

// broadcast returns the last address of the prefix.
func (p *pool) broadcast() netip.Addr {
	b := p.prefix.Addr().As4()
	for i := p.prefix.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}

// take gives id the wanted address, or any free one where want is zero.
func (p *pool) take(id string, want netip.Addr) (netip.Addr, error) {
	if want.IsValid() {
		return want, p.takeThis(id, want)
	}
	for a := p.after(p.last); ; a = p.after(a) {
		if _, taken := p.owner[a]; !taken {
			p.owner[a], p.last = id, a
			return a, nil
		}
		if a == p.last {
			return netip.Addr{}, api.E("attach", api.Exhausted, p.prefix.String(),
				fmt.Errorf("all %d addresses are taken; remove instances that are no longer needed", len(p.owner)))
		}
	}
}

func (p *pool) takeThis(id string, want netip.Addr) error {
	switch by := p.owner[want]; {
	case !p.prefix.Contains(want):
		return api.E("attach", api.Invalid, want.String(), fmt.Errorf("the address is not in the network's %s", p.prefix))
	case want == p.prefix.Addr() || want == p.broadcast():
		return api.E("attach", api.Invalid, want.String(), errors.New("the address stands for the whole network"))
	case want == p.gateway():
		return api.E("attach", api.InUse, want.String(), errors.New("the address is the network's gateway; choose another"))
	case by != "" && by != id:
		return api.E("attach", api.InUse, want.String(), fmt.Errorf("the address is taken by instance %.12s; choose another", by))
	}
	p.owner[want] = id
	return nil
}

// after returns the next address that may be handed out, round the pool.
func (p *pool) after(a netip.Addr) netip.Addr {
	if a = a.Next(); a != p.broadcast() && p.prefix.Contains(a) {
		return a
	}
	return p.gateway().Next()
}

// give takes an address back, if it is id's.
func (p *pool) give(id string, a netip.Addr) {
	if p.owner[a] == id {
		delete(p.owner, a)
	}
}
