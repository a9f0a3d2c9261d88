package bridge

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/network"
)

// namedDir is where networks are that were made, below both directories.
const namedDir = "named"

// Set implements network.Set: the default network, and those that were made.
type Set struct {
	cfg    Config // the default network's
	ledger *ledger

	mu       sync.Mutex // guards networks, and their making and removal
	networks map[string]*Network
}

var _ network.Set = (*Set)(nil)

// NewSet reads what is recorded. It changes nothing on the host. The configuration is
// that of the default network.
func NewSet(cfg Config) (*Set, error) {
	s := &Set{cfg: cfg, ledger: newLedger(cfg.RunDir, cfg.Ports), networks: make(map[string]*Network)}
	s.cfg.Name, s.cfg.ledger = api.NetworkDefault, s.ledger
	n, err := New(s.cfg)
	if err != nil {
		return nil, err
	}
	s.networks[api.NetworkDefault] = n
	dirs, err := os.ReadDir(filepath.Join(cfg.Dir, namedDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, d := range dirs {
		if err := s.load(d.Name()); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// load reads a network that was made. A directory without its file is that of one whose
// making or removal a kill has cut off.
func (s *Set) load(name string) error {
	cfg := s.named(name)
	path := filepath.Join(cfg.Dir, lastingFile)
	var l lasting
	err := readJSON(path, &l)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.Join(os.RemoveAll(cfg.Dir), os.RemoveAll(cfg.RunDir))
	}
	if err != nil || l.Bridge == "" || !l.Subnet.IsValid() {
		return api.E("read", api.Corrupt, path, errors.Join(err, errors.New("it does not describe a network; restore the file, or remove it with its directory")))
	}
	cfg.Bridge, cfg.Subnet, cfg.Internal, cfg.Labels, cfg.Created = l.Bridge, l.Subnet, l.Internal, l.Labels, l.Created
	s.networks[name], err = New(cfg)
	return err
}

// named is the configuration of a network that is made, as far as its name says.
func (s *Set) named(name string) Config {
	c := s.cfg
	c.Name, c.Subnet = name, netip.Prefix{}
	c.Dir, c.RunDir = filepath.Join(c.Dir, namedDir, name), filepath.Join(c.RunDir, namedDir, name)
	// A hash, as the name of a device has 15 bytes at most.
	c.Bridge = fmt.Sprintf("berth%08x", hash(s.cfg.Bridge+"/"+name))
	return c
}

// Network implements network.Set.
func (s *Set) Network(name string) (network.Network, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.networks[name]
	if n == nil {
		return nil, network.Unknown(name)
	}
	return n, nil
}

// Names implements network.Set.
func (s *Set) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := sortedKeys(s.networks)
	at := slices.Index(names, api.NetworkDefault)
	return slices.Insert(slices.Delete(names, at, at+1), 0, api.NetworkDefault)
}

// Close implements network.Set.
func (s *Set) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	for _, n := range s.networks {
		err = errors.Join(err, n.Close())
	}
	return err
}
