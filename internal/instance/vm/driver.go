// Package vm runs instances as virtual machines: a QEMU process per run, with
// berth-agent as process 1 of the guest.
//
//	Plan     Prepared ─▶ guest configuration, QEMU's arguments, limits   (pure)
//	Create   initramfs, disks, cgroup; QEMU starts with its processor stopped, and
//	         as a copy of a template where there is one
//	Start    QMP cont; returns when the agent says that the entrypoint runs
//	Wait     the keeper sees QEMU end; the exit port's file says with what code
//
// What a run leaves in its run directory, and so what Adopt reads:
//
//	run.json                what was decided: the machine, sizes
//	config, head, tail      the generated parts of the disk of layers
//	layers.vmdk             the descriptor that joins them with the layers
//	qemu.json               QEMU's plan, for the launcher
//	qmp, ctl, in, out, err  sockets
//	vnc                     the display's password
//	wake                    of a copy of a template: the socket that it is woken by
//	woken                   exists where it was, or where it goes on from a saved machine
//	events                  a monitor that tells of crashes
//	crashed                 exists where Berth ended QEMU because the guest crashed
//	exit                    the entrypoint's exit code, written by the guest
//	killed                  exists where Berth itself ended QEMU by force
//	saving                  names the saved machine that is being written
//	held                    exists where the guest was told to hold itself still
package vm

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/keeper"
	"github.com/berthcloud/berth/internal/qemu"
)

// Config is what a Driver is made of.
type Config struct {
	Keeper   *keeper.Client
	Launcher string            // path of berth-qemu
	Agents   map[string]string // paths of berth-agent, by architecture
	Cache    string            // existing directory for what is made once per kernel
	Host     instance.Host

	Templates    int          // how many templates are kept at most; 0 for none at all
	TemplateUser uint32       // that the machine runs as which becomes a template, and nothing else
	Cgroup       string       // path below the hierarchies' root that its cgroup goes under, as in /berth
	Log          *slog.Logger // of what no user is told
}

// Driver runs virtual machines. It is safe for concurrent use.
type Driver struct {
	cfg        Config
	templates  *templates
	background sync.WaitGroup // what runs on when a call has returned

	mu       sync.Mutex // what the cache lacks is made once
	programs map[string]program
}

// program is what a program of the host opens by name.
type program struct {
	changed time.Time // the program, when this was found out
	needs   []qemu.Shown
}

// New returns a driver.
func New(cfg Config) *Driver {
	return &Driver{cfg: cfg, programs: map[string]program{}, templates: newTemplates(filepath.Join(cfg.Cache, "templates"), cfg.Templates)}
}

// needs returns what a program opens by name, as find says. That is asked once, and
// again when another build has taken the program's place.
func (d *Driver) needs(ctx context.Context, path string, find func(context.Context, string) ([]qemu.Shown, error)) ([]qemu.Shown, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	known, ok := d.programs[path]
	if ok && known.changed.Equal(info.ModTime()) {
		return known.needs, nil
	}
	needs, err := find(ctx, path)
	if err != nil {
		return nil, err
	}
	d.programs[path] = program{changed: info.ModTime(), needs: needs}
	return needs, nil
}

// Recover removes what a driver that was killed left half made.
func (d *Driver) Recover(ctx context.Context) error { return d.forgetTemplate(ctx) }

// Close gives up what the driver holds. Its machines go on running.
func (d *Driver) Close() {
	d.background.Wait()
	d.templates.close()
}

// Kind returns api.VM.
func (*Driver) Kind() api.Kind { return api.VM }

// Adopt finds a run again.
func (d *Driver) Adopt(ctx context.Context, p *instance.Prepared) (instance.Handle, error) {
	run, err := readRun(p.RunDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, api.E("adopt", api.NotFound, p.Spec.Name, errors.New("it has no run"))
	}
	if err != nil {
		return nil, api.E("adopt", api.Corrupt, p.Spec.Name, err)
	}
	h := d.handle(p, *run)
	if st, err := d.cfg.Keeper.Status(ctx, p.ID); err != nil {
		return nil, api.E("adopt", "", p.Spec.Name, err)
	} else if st.Exit == nil {
		if err := h.recover(ctx); err != nil {
			d.cfg.Log.Warn("a machine that was being saved or resumed does not go on", "instance", p.Spec.Name, "error", err)
		}
	}
	return h, nil
}

// runFile is what Create decided, for Adopt.
type runFile struct {
	Machine api.Machine `json:"machine"`
	Notice  string      `json:"notice,omitempty"`
	CPUs    int         `json:"cpus"`
	Memory  int64       `json:"memory"` // of the guest, in bytes
	Disk    int64       `json:"disk"`   // its writable disk, in bytes

	// What a running machine can grow to; 0 where it cannot.
	MaxCPUs   int   `json:"max_cpus,omitempty"`
	MaxMemory int64 `json:"max_memory,omitempty"`

	Layout  *qemu.Machine `json:"layout"`            // as it was started; for one that goes on from it
	Resumed bool          `json:"resumed,omitempty"` // it goes on from a saved machine

	Dir    string   `json:"dir,omitempty"`    // of a saved machine: its instance's Prepared.Dir
	Copied []string `json:"copied,omitempty"` // of one that goes on from another instance's: the MAC addresses that its guest was saved with
}

// writeJSON writes a file of root's alone.
func writeJSON(path string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

func readRun(dir string) (*runFile, error) {
	data, err := os.ReadFile(filepath.Join(dir, "run.json"))
	if err != nil {
		return nil, err
	}
	var r runFile
	return &r, json.Unmarshal(data, &r)
}
