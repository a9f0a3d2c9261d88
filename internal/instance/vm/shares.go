package vm

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/agent"
	"github.com/berthcloud/berth/internal/instance"
)

// share is a directory of the host that the guest mounts by virtiofs.
type share struct {
	Tag      string `json:"tag"`
	Source   string `json:"source"`
	Socket   string `json:"socket"`
	ReadOnly bool   `json:"read_only,omitempty"`
}

// planShares splits the mounts into what virtiofsd serves and what the guest mounts.
func planShares(p *instance.Prepared, host instance.Host) ([]share, []agent.Mount, error) {
	var shares []share
	var mounts []agent.Mount
	for i, m := range p.Mounts {
		guest := agent.Mount{Target: m.Target, ReadOnly: m.ReadOnly, Size: m.Size, Mode: m.Mode}
		if m.Type == api.MountTmpfs {
			if guest.Mode == 0 {
				guest.Mode = 0o1777
			}
			mounts = append(mounts, guest)
			continue
		}
		if host.Virtiofsd == "" {
			return nil, nil, api.E("plan", api.Unsupported, p.Spec.Name,
				errors.New("no virtiofsd on this host, so a VM cannot mount "+m.Source+": install qemu-system-common"))
		}
		guest.Tag = fmt.Sprintf("share%d", i)
		shares = append(shares, share{Tag: guest.Tag, Source: m.Source, ReadOnly: m.ReadOnly,
			Socket: filepath.Join(p.RunDir, fmt.Sprintf("fs%d", i))})
		mounts = append(mounts, guest)
	}
	return shares, mounts, nil
}
