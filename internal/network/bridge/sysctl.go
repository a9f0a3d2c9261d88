package bridge

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/nftables"

	"github.com/berthcloud/berth/internal/link"
)

// savedSysctl is a sysctl of the host that this network has changed.
type savedSysctl struct {
	Name string `json:"name"`
	Was  string `json:"was"`
}

const ipForward = "net/ipv4/ip_forward"

// savedPath is where the sysctls' former values stand, so that a daemon that
// was killed in between does not take the changed value for the former one.
func (n *Network) savedPath() string { return filepath.Join(n.cfg.ledger.runDir, "sysctls.json") }

// setSysctls switches on what the network needs. Those of the bridge go with
// it. The caller holds mu.
func (n *Network) setSysctls() error {
	if err := link.SetSysctl("net/ipv4/conf/"+n.cfg.Bridge+"/route_localnet", "1"); err != nil {
		return fmt.Errorf("let 127.0.0.1 reach published ports: %w", err)
	}
	was, err := link.Sysctl(ipForward)
	if err != nil || was == "1" {
		return err
	}
	if err := writeJSON(n.savedPath(), []savedSysctl{{ipForward, was}}, false); err != nil {
		return err
	}
	if err := link.SetSysctl(ipForward, "1"); err != nil {
		return fmt.Errorf("switch on forwarding (%s): %w", ipForward, err)
	}
	return nil
}

// restoreSysctls puts back what setSysctls changed, unless another bridge of
// Berth's needs it still; then it stays on. The caller holds mu.
func (n *Network) restoreSysctls() error {
	if !n.cfg.ledger.alone(n.cfg.Bridge) {
		return nil // the last one does
	}
	var saved []savedSysctl
	err := readJSON(n.savedPath(), &saved)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	others, err := otherTables(n.cfg.Bridge)
	if err != nil {
		return err
	}
	for _, s := range saved {
		if s.Name != ipForward || others {
			continue
		}
		if err := link.SetSysctl(s.Name, s.Was); err != nil {
			return err
		}
	}
	return os.Remove(n.savedPath())
}

// otherTables reports whether another bridge of Berth's has a table.
func otherTables(own string) (bool, error) {
	c, err := nftables.New()
	if err != nil {
		return false, err
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return false, err
	}
	for _, t := range tables {
		if strings.HasPrefix(t.Name, "berth") && t.Name != own {
			return true, nil
		}
	}
	return false, nil
}
