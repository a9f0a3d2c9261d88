package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/keeper"
	"github.com/berthcloud/berth/internal/qemu"
)

// tpmID names a machine's TPM in the keeper.
func tpmID(id string) string { return id + ".tpm" }

// tpmState holds what a TPM keeps, which is the instance's and not a run's.
func tpmState(p *instance.Prepared) string { return filepath.Join(p.Dir, "tpm") }

// planTPM plans the TPM of a machine that is to have one; nil for none.
func planTPM(p *instance.Prepared, host instance.Host, chosen api.Machine) (*qemu.TPM, error) {
	if !chosen.TPM {
		return nil, nil
	}
	if host.Swtpm == "" {
		return nil, api.E("", api.Unsupported, p.Spec.Name, errors.New("no swtpm on this host, which emulates a TPM: install swtpm, or leave --tpm out"))
	}
	t := &qemu.TPM{Swtpm: host.Swtpm, Socket: filepath.Join(p.RunDir, "tpm"), State: tpmState(p), UID: p.Users.First}
	if p.Users.Size > 1 {
		t.UID++ // not QEMU's, which a guest may have taken over
	}
	return t, nil
}

// startTPM starts the TPM of the machine, where it has one. QEMU connects to it.
func (h *handle) startTPM(ctx context.Context, t *qemu.TPM, cgroups []string) error {
	if t == nil {
		return nil
	}
	if err := os.Mkdir(t.State, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := os.Chown(t.State, int(t.UID), int(t.UID)); err != nil {
		return err
	}
	var err error
	if t.Program, err = h.driver.needs(ctx, t.Swtpm, qemu.Libraries); err != nil {
		return err
	}
	plan, err := t.Encode()
	if err != nil {
		return err
	}
	path := h.inRun("tpm.json")
	if err := os.WriteFile(path, plan, 0o600); err != nil {
		return err
	}
	_, err = h.driver.cfg.Keeper.Start(ctx, keeper.Process{
		ID: tpmID(h.p.ID), Mode: keeper.Direct, Args: []string{h.driver.cfg.Launcher, "tpm", path},
		Stdio: keeper.Stdio{Kind: keeper.Sockets}, Cgroups: cgroups, Alone: true,
	})
	return err
}
