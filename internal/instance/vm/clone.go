package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/berthcloud/berth/internal/agent"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/qemu"
)

// A machine that goes on from where another instance's was saved has that one's name,
// addresses and secrets in its memory. It is given its own before it can use them:
//
//	berthd                                guest, whose processes are held still
//	  │── cables out, cont ─────────────▶ │  (a VM generation id, where it has one)
//	  │── time, randomness ─────────────▶ │  RNDADDENTROPY, RNDRESEEDCRNG
//	  │── name, addresses ──────────────▶ │  host name, machine id, MACs, ssh host keys
//	  │── let go ───────────────────────▶ │
//	  │── cables in                       │
//
// A berthd that dies in between leaves the run without the mark "woken": the next one
// does it all again.

// Copyable says why another instance cannot go on from what is saved in dir.
func (*Driver) Copyable(dir string) error {
	run, err := readRun(dir)
	switch {
	case err != nil:
		return err
	case run.Dir == "" || !isHeld(dir):
		return unsupported("its agent did not hold it still when it was saved, so no copy of it could be given an identity of its own")
	case run.Machine.TPM:
		return errTPM()
	}
	return nil
}

// takeOver makes the plan of a machine that was saved from the instance with the
// directory from one of p's.
func (p *plan) takeOver(from string, own *instance.Prepared) error {
	runDir := strings.TrimSuffix(p.machine.QMP, "/qmp")
	p.machine = p.machine.Moved(func(path string) string {
		if rest, found := strings.CutPrefix(path, from+"/"); found {
			return own.Dir + "/" + rest
		}
		if rest, found := strings.CutPrefix(path, runDir+"/"); found {
			return own.RunDir + "/" + rest
		}
		return path
	})
	if len(p.machine.NICs) != len(own.Interfaces) {
		return fmt.Errorf("it was saved with %d network interfaces and is to have %d", len(p.machine.NICs), len(own.Interfaces))
	}
	p.copied = []string{}
	for i := range p.machine.NICs {
		nic := &p.machine.NICs[i]
		p.copied = append(p.copied, nic.MAC)
		nic.MAC, nic.Tap = own.Interfaces[i].MAC, own.Interfaces[i].HostName
	}
	p.machine.Name, p.machine.UID = "berth-"+own.Spec.Name, own.Users.First
	p.Machine.Start = "a clone: it goes on from where another VM was saved"
	guest, err := guestConfig(own, nil)
	if err != nil {
		return err
	}
	p.Guest = *guest
	if own.Rootfs.Image != nil {
		p.Guest.Process = agent.Process{}
	}
	return nil
}

// letCopied lets a machine go on as one of its own.
func (h *handle) letCopied(ctx context.Context, m *qemu.Monitor) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unholdTimeout)
	defer cancel()
	if err := m.SetLinks(ctx, h.run.Layout, false); err != nil {
		return err
	}
	if err := m.Cont(ctx); err != nil {
		return err
	}
	config, err := h.identity()
	if err != nil {
		return err
	}
	err = h.unhold(ctx, func(ctx context.Context, c *agent.Client) error {
		if err := refresh(ctx, c); err != nil {
			return err
		}
		return c.Become(ctx, config)
	})
	if err != nil {
		return err
	}
	if err := m.SetLinks(ctx, h.run.Layout, true); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(h.inRun("woken"), nil, 0o600), os.RemoveAll(h.usedPath()))
}

// identity is what the guest of a copied machine is told of itself: no more than one
// message to the agent can hold.
func (h *handle) identity() (*agent.Config, error) {
	all, err := guestConfig(h.p, nil)
	if err != nil {
		return nil, err
	}
	c := &agent.Config{
		Hostname: all.Hostname, Hosts: all.Hosts, ResolvConf: all.ResolvConf, Interfaces: all.Interfaces,
		MachineID: all.MachineID, Process: agent.Process{Env: all.Process.Env},
	}
	for i := range c.Interfaces {
		c.Interfaces[i].Device = h.run.Copied[i]
	}
	return c, nil
}
