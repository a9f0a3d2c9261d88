package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/agent"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/keeper"
	"github.com/berthcloud/berth/internal/qemu"
)

// share is a tree of the host that the guest mounts by virtiofs.
type share struct {
	Index  int         `json:"index"` // of the mount
	Tag    string      `json:"tag"`
	Server qemu.Server `json:"server"`
}

// shareID names a share's server in the keeper.
func shareID(id string, i int) string { return fmt.Sprintf("%s.fs%d", id, i) }

// markFiles tells the guest which shares are of a single file. It looks at the
// host, which a plan may not.
func (p *plan) markFiles() error {
	for _, s := range p.Shares {
		info, err := os.Stat(s.Server.Source)
		if err != nil {
			return err
		}
		for i := range p.Guest.Mounts {
			if m := &p.Guest.Mounts[i]; m.Tag == s.Tag && !info.IsDir() {
				m.Path = qemu.ShareFile
			}
		}
	}
	return nil
}

// startShare starts the server of a share. QEMU connects to it.
func (h *handle) startShare(ctx context.Context, s share, cgroups []string) error {
	var err error
	if s.Server.Program, err = h.driver.needs(ctx, s.Server.Virtiofsd, qemu.Libraries); err != nil {
		return err
	}
	plan, err := s.Server.Encode()
	if err != nil {
		return err
	}
	path := h.inRun(fmt.Sprintf("fs%d.json", s.Index))
	if err := os.WriteFile(path, plan, 0o600); err != nil {
		return err
	}
	_, err = h.driver.cfg.Keeper.Start(ctx, keeper.Process{
		ID: shareID(h.p.ID, s.Index), Mode: keeper.Direct, Args: []string{h.driver.cfg.Launcher, "share", path},
		Stdio: keeper.Stdio{Kind: keeper.Sockets}, Cgroups: cgroups, Alone: true,
	})
	return err
}

// planShares splits the mounts into what virtiofsd serves and what the guest mounts.
func planShares(p *instance.Prepared, host instance.Host, chosen api.Machine) ([]share, []agent.Mount, error) {
	var shares []share
	var mounts []agent.Mount
	for i, m := range p.Mounts {
		if m.Type == api.MountDisk {
			mounts = append(mounts, agent.Mount{Disk: diskSerial(m.Name), Target: m.Target, ReadOnly: m.ReadOnly})
			continue
		}
		guest := agent.Mount{Target: m.Target, ReadOnly: m.ReadOnly, Size: m.Size, Mode: m.Mode}
		if m.Type == api.MountTmpfs {
			mounts = append(mounts, guest)
			continue
		}
		if m.Image != "" {
			guest.Part, guest.Path = partOf(p, i), m.Entry
			mounts = append(mounts, guest)
			continue
		}
		if chosen.Virtualization == api.VirtFull {
			return nil, nil, api.E("", api.Unsupported, p.Spec.Name,
				errors.New("full virtualization has no virtiofs, by which a VM mounts "+m.Source+": choose --virt para, or copy with berth cp"))
		}
		if host.Virtiofsd == "" {
			return nil, nil, api.E("", api.Unsupported, p.Spec.Name,
				errors.New("no virtiofsd on this host, so a VM cannot mount "+m.Source+": install qemu-system-common"))
		}
		if p.Spec.VM.KSM {
			return nil, nil, api.E("", api.Unsupported, p.Spec.Name,
				errors.New("KSM merges no memory that virtiofsd maps too, as it does for "+m.Source+": leave that or --ksm out"))
		}
		guest.Tag = fmt.Sprintf("share%d", i)
		shares = append(shares, share{Index: i, Tag: guest.Tag, Server: qemu.Server{
			Virtiofsd: host.Virtiofsd, Source: m.Source, ReadOnly: m.ReadOnly,
			Socket: filepath.Join(p.RunDir, fmt.Sprintf("fs%d", i)),
		}})
		mounts = append(mounts, guest)
	}
	return shares, mounts, nil
}
