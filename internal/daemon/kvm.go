package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/qemu"
)

// proof is what was found out about the processor by trying. It holds for a
// boot of the host and a build of QEMU, so it is kept in the run directory.
type proof struct {
	Boot   string `json:"boot"`
	QEMU   string `json:"qemu"` // paths and times of change
	Works  bool   `json:"works"`
	Reason string `json:"reason"`
	TSCKHz int    `json:"tsc_khz"`

	CPUModels map[string][]string `json:"cpu_models"`
}

// proveProcessor fills in what only trying tells: whether KVM runs a guest, and
// how fast the time stamp counter runs. The first start after a boot takes up
// to fifteen seconds for it where KVM crawls, a tenth of one else; the others none.
func (c *Config) proveProcessor(ctx context.Context, h *instance.Host) error {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	want := proof{Boot: string(boot), QEMU: builds(h.QEMU), CPUModels: map[string][]string{}}
	path := filepath.Join(c.Run, "processor.json")
	p, err := readProof(path)
	if err != nil || p.Boot != want.Boot || p.QEMU != want.QEMU {
		p = want
		p.TSCKHz = qemu.TSCKHz(ctx)
		p.Works, p.Reason = qemu.Probe(ctx, h.QEMU[h.Arch])
		for arch, path := range h.QEMU {
			if p.CPUModels[arch], err = qemu.CPUModels(ctx, path); err != nil {
				c.Log.Warn("QEMU does not list its CPU models", "qemu", path, "error", err)
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := writeProof(path, p); err != nil {
			return err
		}
	}
	h.KVM, h.KVMReason, h.TSCKHz, h.CPUModels = p.Works, p.Reason, p.TSCKHz, p.CPUModels
	return nil
}

// builds names the builds of programs: their paths and times of change.
func builds(programs map[string]string) string {
	var text strings.Builder
	for _, arch := range slices.Sorted(maps.Keys(programs)) {
		fmt.Fprintf(&text, "%s ", programs[arch])
		if info, err := os.Stat(programs[arch]); err == nil {
			fmt.Fprintf(&text, "%s; ", info.ModTime().UTC())
		}
	}
	return text.String()
}

func readProof(path string) (p proof, err error) {
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	return p, err
}

func writeProof(path string, p proof) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".tmp", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}
