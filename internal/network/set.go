package network

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"

	"github.com/berthcloud/berth/api"
)

var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$`)

// CheckNew validates what can be said of a network that is to be made without those
// there are. Drivers of a Set call it first. Its errors have the kind Invalid.
func CheckNew(n api.Network) error {
	refuse := func(name string, err error) error { return api.E("create network", api.Invalid, name, err) }
	if !validName.MatchString(n.Name) {
		return refuse(n.Name, errors.New("a network's name has 1 to 63 letters, digits, '_', '.' and '-', and begins with a letter or digit"))
	}
	if slices.Contains([]string{api.NetworkDefault, api.NetworkNone, api.NetworkHost, "bridge"}, n.Name) {
		return refuse(n.Name, errors.New("the name has a meaning of its own; choose another"))
	}
	if n.Subnet == "" {
		return nil
	}
	subnet, err := netip.ParsePrefix(n.Subnet)
	switch {
	case err != nil || !subnet.Addr().Is4() || subnet.Bits() < 8 || subnet.Bits() > 29:
		return refuse(n.Subnet, errors.New("want an IPv4 subnet between /8 and /29, as in 10.20.0.0/24"))
	case subnet != subnet.Masked():
		return refuse(n.Subnet, fmt.Errorf("it has bits set beyond its prefix; write %s", subnet.Masked()))
	case !subnet.Addr().IsPrivate():
		return refuse(n.Subnet, errors.New("choose one of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16: instances could not reach who has these addresses in the world"))
	}
	return nil
}

// Unknown is the error of a network that is not there.
func Unknown(name string) error {
	return api.E("", api.NotFound, name, errors.New("no such network; make it by berth network create, or see berth network ls"))
}

// Taken is the error of making a network that is there.
func Taken(name string) error {
	return api.E("create network", api.Exists, name, errors.New("there is one of this name; choose another, or use it"))
}

// SubnetInUse is the error of making a network of a subnet that somebody has.
func SubnetInUse(want, by netip.Prefix) error {
	return api.E("create network", api.InUse, want.String(), fmt.Errorf("it overlaps %s, which the host knows already; choose another, or leave it out", by))
}
