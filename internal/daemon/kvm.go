package daemon

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/qemu"
)

// proof is what was found out about the processor by trying. It holds for a
// boot of the host and a build of QEMU, so it is kept in the run directory.
type proof struct {
	Boot   string `json:"boot"`
	QEMU   string `json:"qemu"` // path and time of change
	Works  bool   `json:"works"`
	Reason string `json:"reason"`
	TSCKHz int    `json:"tsc_khz"`
}

// proveProcessor fills in what only trying tells: whether KVM runs a guest, and
// how fast the time stamp counter runs. The first start after a boot takes up
// to fifteen seconds for it where KVM crawls, a tenth of one else; the others none.
func (c *Config) proveProcessor(ctx context.Context, h *instance.Host) error {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	want := proof{Boot: string(boot), QEMU: h.QEMU}
	if info, err := os.Stat(h.QEMU); err == nil {
		want.QEMU += info.ModTime().UTC().String()
	}
	path := filepath.Join(c.Run, "processor.json")
	p, err := readProof(path)
	if err != nil || p.Boot != want.Boot || p.QEMU != want.QEMU {
		p = want
		p.TSCKHz = qemu.TSCKHz(ctx)
		p.Works, p.Reason = qemu.Probe(ctx, h.QEMU)
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := writeProof(path, p); err != nil {
			return err
		}
	}
	h.KVM, h.KVMReason, h.TSCKHz = p.Works, p.Reason, p.TSCKHz
	return nil
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
