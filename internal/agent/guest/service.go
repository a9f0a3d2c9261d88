package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/agent"
)

// The agent as a service: the machine has started by itself, from its disk, and has
// an init. There is no entrypoint; all else is the same.
//
//	init ─▶ berth-agent ─▶ seed: host name, addresses, shares ─▶ control port

// servicePath marks, for one boot, that the machine has become what it is to be: a
// service may start again.
const servicePath = "/run/berth-agent.told"

// nicPatience bounds the wait for a network card's driver.
const nicPatience = 30 * time.Second

// Service serves the host until the machine shuts down. It returns an error where
// this machine is none of Berth's.
func Service() error {
	config, err := readSeed()
	if err != nil {
		return err
	}
	m := newMachine(config, nil, nil)
	if _, err := os.Stat(servicePath); errors.Is(err, os.ErrNotExist) {
		m.tell()
	}
	config.Process.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	m.serve()
	return errNoPort
}

// tell makes of the machine what it is to be. One that cannot be all of that can still be
// repaired.
func (m *machine) tell() {
	err := m.renewOnce()
	awaitInterfaces(m.config.Interfaces)
	err = errors.Join(err, openNetwork(), furnish(m.config, nil))
	if err == nil {
		err = os.WriteFile(servicePath, nil, 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "berth-agent:", err)
	}
}

// readSeed reads what the host tells this machine. It mounts the seed out of sight.
func readSeed() (*agent.Config, error) {
	device, err := findDisk(agent.SeedSerial, 0)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("/run", "berth-seed-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(dir)
	if err := mount(device, dir, "vfat", noSetuid|unix.MS_RDONLY, ""); err != nil {
		return nil, err
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	file, err := os.Open(filepath.Join(dir, agent.SeedFile))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return decodeConfig(file)
}

// awaitInterfaces returns when every network card has its driver, or late.
func awaitInterfaces(interfaces []agent.Interface) {
	missing := func() bool {
		return slices.ContainsFunc(interfaces, func(i agent.Interface) bool {
			_, err := interfaceByMAC(i.MAC)
			return err != nil
		})
	}
	for deadline := time.Now().Add(nicPatience); missing() && time.Now().Before(deadline); {
		<-time.After(20 * time.Millisecond)
	}
}

// isService reports whether another init has started the machine.
func (m *machine) isService() bool { return m.main == nil }

// answerService answers the calls that are about an entrypoint elsewhere.
func (m *machine) answerService(c *agent.Call) {
	if c.Request.Op == agent.OpShutdown {
		c.Reply(m.shutDown())
		return
	}
	c.Reply(agent.Reply{Kind: api.Unsupported, Error: "the machine has an init of its own, and no entrypoint: berth exec reaches its processes"})
}

// shutDown has the machine's init shut down, whichever it is.
func (m *machine) shutDown() agent.Reply { return replyOf(m.runTool("poweroff")) }
