package vm

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/berthcloud/berth/internal/agent"
	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/qemu"
)

// The seed is a small disk by which a disk guest learns what it is to be, once by
// cloud-init's convention "NoCloud" (its documentation, reference/datasources/nocloud)
// and once as berth-agent reads it.
const (
	seedLabel = "CIDATA" // which NoCloud looks for
	seedID    = 0xbe27_4001
	seedSpare = 1 << 20 // bytes beside the files: tables, and the least that mkfs.vfat makes
)

// seedDisk is the seed as the machine sees it.
func seedDisk(p *instance.Prepared, bus qemu.DiskBus, path string) qemu.Disk {
	d := qemu.Disk{Path: path, Bus: bus, Format: qemu.Raw, ReadOnly: true, Serial: agent.SeedSerial}
	if bus != qemu.VirtioDisk {
		d.Overlay = overlayPath(p)
	}
	return d
}

// metaData, and the types below it, are what NoCloud reads. JSON is YAML, and lets no
// text of a user's be taken for more than it is.
type metaData struct {
	InstanceID string   `json:"instance-id"`
	Hostname   string   `json:"local-hostname"`
	PublicKeys []string `json:"public-keys,omitempty"`
}

type networkConfig struct {
	Version   int                 `json:"version"`
	Ethernets map[string]ethernet `json:"ethernets"`
}

type ethernet struct {
	Match struct {
		MAC string `json:"macaddress"`
	} `json:"match"`
	Name        string      `json:"set-name"`
	Addresses   []string    `json:"addresses,omitempty"`
	Routes      []route     `json:"routes,omitempty"`
	Nameservers nameservers `json:"nameservers,omitzero"`
	MTU         int         `json:"mtu,omitempty"`
}

type route struct {
	To  string `json:"to"`
	Via string `json:"via"`
}

type nameservers struct {
	Addresses []string `json:"addresses,omitempty"`
}

// seedFiles are the files of the seed. It is a pure function.
func seedFiles(p *instance.Prepared, guest *agent.Config) (map[string][]byte, error) {
	own, err := guest.Encode()
	if err != nil {
		return nil, err
	}
	vm := p.Spec.VM
	meta := metaData{InstanceID: p.ID, Hostname: p.Hostname}
	for key := range strings.Lines(vm.SSHKeys) {
		if key = strings.TrimSpace(key); key != "" {
			meta.PublicKeys = append(meta.PublicKeys, key)
		}
	}
	network := networkConfig{Version: 2, Ethernets: map[string]ethernet{}}
	for _, i := range p.Interfaces {
		e := ethernet{Name: i.Name, Addresses: i.Address, MTU: i.MTU, Nameservers: nameservers{p.DNS}}
		if e.Match.MAC = i.MAC; i.Gateway != "" {
			e.Routes = []route{{To: "0.0.0.0/0", Via: i.Gateway}}
		}
		network.Ethernets[i.Name] = e
	}
	files := map[string][]byte{agent.SeedFile: own}
	for name, doc := range map[string]any{"meta-data": meta, "network-config": network} {
		if files[name], err = json.MarshalIndent(doc, "", " "); err != nil {
			return nil, err
		}
	}
	files["user-data"] = []byte("#cloud-config\n{}\n")
	if vm.UserData != "" {
		files["user-data"] = []byte(vm.UserData)
	}
	if vm.NetworkConfig != "" {
		files["network-config"] = []byte(vm.NetworkConfig)
	}
	return files, nil
}

// makeSeed makes the seed anew: addresses differ from run to run.
func (h *handle) makeSeed(ctx context.Context, plan *plan) error {
	if err := plan.markFiles(); err != nil {
		return err
	}
	files, err := seedFiles(h.p, &plan.Guest)
	if err != nil {
		return err
	}
	size := int64(seedSpare)
	for _, content := range files {
		size += int64(len(content)+4095) / 4096 * 4096
	}
	seed := plan.machine.Disks[1]
	if before, err := os.Stat(seed.Path); err == nil {
		size = max(size, before.Size()) // a guest that goes on knows how large it is
	}
	for _, path := range []string{seed.Path, seed.Overlay} {
		if err := os.Remove(path); path != "" && err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	f := disk.FAT{Label: seedLabel, ID: seedID, Size: size, Files: files, Time: time.Now()}
	if err := disk.CreateFAT(ctx, seed.Path, f); err != nil {
		return err
	}
	return h.makeOverlay(seed, size)
}
