package bridge

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/network"
)

// record is an endpoint as it is stored, and what this process holds for it.
type record struct {
	Request  network.Request  `json:"request"`
	Endpoint network.Endpoint `json:"endpoint"`

	held []int // sockets, one for each published port that could be bound
}

func (r *record) address() netip.Addr { return r.Endpoint.Address[0].Addr() }

// asksFor reports whether req is what r was made from.
func (r *record) asksFor(req network.Request) bool {
	a := &r.Request
	return slices.Equal(a.Names, req.Names) && a.Address == req.Address && a.MAC == req.MAC && a.Number == req.Number &&
		slices.Equal(a.Publish, req.Publish) && a.LinkKind == req.LinkKind
}

// hostName names the host's end of an instance's link: v for a veth, t for a
// tap, then the first digits of the id, so that a person finds the instance, then
// the number of an interface that is not the first.
func hostName(id string, kind network.LinkKind, number int) string {
	const digits = 12
	prefix := "bv"
	if kind == network.Tap {
		prefix = "bt"
	}
	suffix := ""
	if number > 0 {
		suffix = strconv.Itoa(number)
	}
	if len(id) >= digits && strings.Trim(id[:digits], "0123456789abcdef") == "" {
		return prefix + id[:digits] + suffix
	}
	h := fnv.New64a()
	h.Write([]byte(id))
	return fmt.Sprintf("%s%012x%s", prefix, h.Sum64()&(1<<48-1), suffix)
}

// lasting is DIR/network.json.
type lasting struct {
	Bridge string       `json:"bridge"`
	Subnet netip.Prefix `json:"subnet"`

	// Of a network that was made.
	Internal bool              `json:"internal,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Created  time.Time         `json:"created,omitzero"`
}

const lastingFile = "network.json"

func (n *Network) lastingPath() string { return filepath.Join(n.cfg.Dir, lastingFile) }

// load reads the records. A torn endpoint file cannot be, as it is renamed into
// place; one that cannot be read is of no use and goes.
func (n *Network) load() error {
	var l lasting
	err := readJSON(n.lastingPath(), &l)
	switch {
	case err == nil:
		n.setSubnet(l.Subnet)
		n.cfg.ledger.tell(n.cfg.Bridge, func(p *page) { p.subnet = n.subnet })
	case !errors.Is(err, fs.ErrNotExist):
		return api.E("read", api.Corrupt, n.lastingPath(), fmt.Errorf("%w; remove the file to have a subnet chosen anew", err))
	}
	files, err := os.ReadDir(n.endpointsDir())
	if err != nil {
		return err
	}
	for _, f := range files {
		path := filepath.Join(n.endpointsDir(), f.Name())
		var r record
		err := readJSON(path, &r)
		if err == nil && (n.pool == nil || len(r.Endpoint.Address) != 1 || len(r.Endpoint.Names) == 0 || f.Name() != r.Endpoint.ID+".json") {
			err = errors.New("not an endpoint")
		}
		if err == nil {
			err = n.pool.takeThis(r.Endpoint.ID, r.address())
		}
		if err != nil {
			n.log.Warn("a record of an endpoint is dropped", "file", path, "error", err)
			if err := os.Remove(path); err != nil {
				return err
			}
			continue
		}
		n.endpoints[r.Endpoint.ID] = &r
	}
	return nil
}

// settle chooses the subnet, once for all: instances may have been told of it.
// The caller holds mu.
func (n *Network) settle() error {
	if n.pool != nil && (!n.cfg.Subnet.IsValid() || n.cfg.Subnet.Masked() == n.subnet || len(n.endpoints) > 0) {
		return nil
	}
	return n.cfg.ledger.choose(n.cfg.Bridge, func(taken []netip.Prefix) (netip.Prefix, error) {
		subnet, err := n.wantedSubnet(taken)
		if err != nil {
			return subnet, err
		}
		err = writeJSON(n.lastingPath(), lasting{
			Bridge: n.cfg.Bridge, Subnet: subnet, Internal: n.cfg.Internal, Labels: n.cfg.Labels, Created: n.cfg.Created,
		}, true)
		if err == nil {
			n.setSubnet(subnet)
		}
		return subnet, err
	})
}

// wantedSubnet is the one asked for, or one that neither the host nor another network
// knows.
func (n *Network) wantedSubnet(taken []netip.Prefix) (netip.Prefix, error) {
	subnet := n.cfg.Subnet.Masked()
	if !subnet.IsValid() {
		used, err := usedSubnets(n.cfg.Bridge)
		if err != nil {
			return subnet, err
		}
		return chooseSubnet(n.cfg.Bridge, slices.Concat(used, taken))
	}
	if !subnet.Addr().Is4() || subnet.Bits() < 8 || subnet.Bits() > 29 {
		return subnet, api.E("make network", api.Invalid, subnet.String(), errors.New("want an IPv4 subnet between /8 and /29"))
	}
	for _, other := range taken {
		if other.Overlaps(subnet) {
			return subnet, network.SubnetInUse(subnet, other)
		}
	}
	return subnet, nil
}

func (n *Network) setSubnet(subnet netip.Prefix) {
	n.subnet = subnet.Masked()
	n.pool = newPool(n.subnet)
}

func (n *Network) endpointPath(id string) string {
	return filepath.Join(n.endpointsDir(), id+".json")
}

// save records an endpoint.
func (n *Network) save(r *record) error {
	if r.Endpoint.ID != filepath.Base(r.Endpoint.ID) {
		return api.E("attach", api.Invalid, r.Endpoint.ID, errors.New("not an instance's id"))
	}
	return writeJSON(n.endpointPath(r.Endpoint.ID), r, false)
}

// drop removes the record of an endpoint.
func (n *Network) drop(id string) error {
	err := os.Remove(n.endpointPath(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// writeJSON replaces a file in one step; sync is for files that outlive a boot.
func writeJSON(path string, v any, sync bool) (err error) {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && sync {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Rename(tmp, path)
}

func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
