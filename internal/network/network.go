// Package network gives instances of both kinds their addresses and names,
// their way out, and the ports that lead to them.
//
// # Words
//
// A network is an isolated segment: a bridge of the host with a pool of
// addresses. An endpoint is an instance's place on it: an address, a MAC, the
// names it answers to, the ports of the host that lead to it. An internal network
// has no way out and no ports. The default one is always there; users make others,
// and an instance may be on several.
//
// # Who does what
//
// The package decides and records: which address, which rules, which names. It
// sets up what all instances share (the bridge, the nftables table, the name
// server). What belongs to one instance (a veth pair, a tap) is plugged by the
// instance's driver, by package link, from the Endpoint that Attach returned.
//
// # Networks without one
//
// An instance on network "none" has loopback alone, one on network "host" has
// the host's interfaces: both are the engine's and the driver's business and
// never reach this package.
//
// Drivers pass one suite: networktest.
package network

import (
	"context"
	"net/netip"

	"github.com/berthcloud/berth/api"
)

// Set is the networks of a host. All methods may be called concurrently.
type Set interface {
	// Network returns one by its name.
	//
	// Errors: NotFound.
	Network(name string) (Network, error)

	// Names returns the names of all, the default network's first, then sorted.
	Names() []string

	// Create makes a network of its Name, Internal, Labels and, where it is not "",
	// Subnet; the rest is decided. It is recorded durably before Create returns.
	//
	// Errors: Invalid; Exists; InUse where the host knows the subnet already;
	// Exhausted where no subnet is free.
	Create(context.Context, api.Network) (api.Network, error)

	// Remove takes a network away, from the host too.
	//
	// Errors: NotFound; Invalid for the default network; InUse while it has endpoints.
	Remove(ctx context.Context, name string) error

	// Close closes each network.
	Close() error
}

// Network is one network. All methods may be called concurrently.
type Network interface {
	// Attach gives an instance its endpoint. What it decides is recorded
	// durably before Attach returns, so that a new daemon knows it. Attaching
	// an instance that is attached already returns the same endpoint where the
	// request is the same, and replaces it otherwise.
	//
	// Errors: Exhausted where no address or no free port is left; InUse where
	// a wanted address or port is taken, naming by whom where known; Invalid
	// where the address is not of the network.
	Attach(context.Context, Request) (Endpoint, error)

	// Detach gives everything back and takes the host's end of the interface
	// away. It is no error if there is nothing.
	Detach(ctx context.Context, id string) error

	// Rename makes the instance answer to another name.
	Rename(ctx context.Context, id, name string) error

	// Limit bounds how many bytes per second an attached instance, whose link the
	// driver has plugged, sends and receives, each; a Limit of -1 lifts that. It ends
	// with the link.
	//
	// Errors: NotFound where the instance is not attached; Unsupported where the kernel
	// cannot.
	Limit(ctx context.Context, id string, rate api.Rate) error

	// Apply makes the host as it should be for the endpoints whose ids are
	// given, and detaches all others. The engine calls it when berthd starts;
	// it may be called at any time, any number of times.
	Apply(ctx context.Context, ids []string) error

	// Describe returns what the network is, without its users.
	Describe() (api.Network, error)

	// Warnings says, a line each, what on this host would cut instances off:
	// rules of Docker, ufw or firewalld.
	Warnings(context.Context) []string

	// Close ends the package's own work, as answering names. What instances
	// use stays. Without any endpoint left, everything is removed from the
	// host.
	Close() error
}

// Request is what an instance wants of the network.
type Request struct {
	ID       string     // the instance's
	Names    []string   // it answers to; the first is the instance's name
	Address  netip.Addr // wanted; zero for any
	MAC      string     // wanted; "" for one derived from the address
	Number   int        // of the instance's interface: 0 for eth0, up to MaxNumber
	Publish  []api.Port // host ports of 0 are chosen
	LinkKind LinkKind
}

// MaxNumber is the highest number of an interface.
const MaxNumber = 7

// LinkKind says what the driver will plug.
type LinkKind string

// The kinds of link.
const (
	Veth LinkKind = "veth"
	Tap  LinkKind = "tap"
)

// Endpoint is an instance's place on a network.
type Endpoint struct {
	ID       string         `json:"id"`
	Network  string         `json:"network"`   // its name: default
	Bridge   string         `json:"bridge"`    // the host's bridge
	HostName string         `json:"host_name"` // of the interface's end on the host, at most 15 bytes
	MAC      string         `json:"mac"`
	Address  []netip.Prefix `json:"address"` // with the network's prefix length
	Gateway  netip.Addr     `json:"gateway"` // zero on an internal network
	DNS      []netip.Addr   `json:"dns"`     // name servers
	MTU      int            `json:"mtu"`
	Publish  []api.Port     `json:"publish"` // as published, free ports filled in
	Names    []string       `json:"names"`
}
