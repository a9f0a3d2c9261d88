package engine

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/instance"
)

// savingDriver makes machines of processes, whose memory is their instance's id at first
// and whose disk is one file with that.
type savingDriver struct {
	instance.Driver
	broken *bool // no machine goes on from what was saved
}

func (d savingDriver) Create(ctx context.Context, p *instance.Prepared) (instance.Handle, error) {
	memory, err := os.ReadFile(filepath.Join(p.SavedDir(), instance.SavedState))
	switch {
	case err == nil && *d.broken:
		return nil, api.E("create", "", p.Spec.Name, errors.New("QEMU cannot read what was saved"))
	case err == nil:
		err = errors.Join(d.PutDisks(ctx, p, p.SavedDir()), os.RemoveAll(p.SavedDir()))
	case errors.Is(err, os.ErrNotExist):
		memory = []byte(p.ID)
		if _, err = os.Stat(p.Dir + "/root"); err != nil {
			err = os.WriteFile(p.Dir+"/root", memory, 0o600)
		}
	}
	if err != nil {
		return nil, err
	}
	q := *p
	q.Process.Args = []string{"sleep", "600"}
	h, err := d.Driver.Create(ctx, &q)
	return savingRun{h, h.(instance.Pauser), p, memory}, err
}

func (d savingDriver) SaveDisks(_ context.Context, p *instance.Prepared, dir string) error {
	return errors.Join(os.Mkdir(dir, 0o700), disk.Clone(dir+"/root", p.Dir+"/root"))
}

func (d savingDriver) PutDisks(_ context.Context, p *instance.Prepared, dir string) error {
	return os.Rename(dir+"/root", p.Dir+"/root")
}

func (d savingDriver) Copyable(dir string) error {
	memory, err := os.ReadFile(filepath.Join(dir, instance.SavedState))
	if err == nil && strings.HasPrefix(string(memory), "loose") {
		return api.E("", api.Unsupported, "", errors.New("its agent did not hold it still"))
	}
	return err
}

type savingRun struct {
	instance.Handle
	instance.Pauser
	p      *instance.Prepared
	memory []byte
}

func (r savingRun) Save(ctx context.Context, dir string, o instance.SaveOptions) error {
	err := os.Mkdir(dir, 0o700)
	if o.Disks && err == nil {
		err = disk.Clone(dir+"/root", r.p.Dir+"/root")
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, instance.SavedState), r.memory, 0o600)
	}
	if o.End && err == nil {
		err = r.Delete(ctx)
	}
	return err
}

// newMachines returns a world with a machine that runs.
func newMachines(t *testing.T) (w *world, source api.Instance, broken *bool) {
	w, broken = newWorld(t), new(bool)
	w.drivers[api.VM] = savingDriver{w.drivers[api.VM], broken}
	opt := image.DiskOptions{Name: "disk/agent", Format: disk.Raw, Agent: true}
	if _, err := w.images.ImportDisk(t.Context(), bytes.NewReader(make([]byte, 20<<20)), opt); err != nil {
		t.Fatal(err)
	}
	spec := api.Spec{Name: "source", Image: "disk/agent", Hostname: "ship", Network: api.NetworkSpec{
		Name: api.NetworkDefault, MAC: "02:00:00:00:00:99", Publish: []api.Port{{HostPort: 18999, Port: 80}},
	}}
	return w, w.start(t, spec), broken
}

// TestClone makes clones of a machine in every state that it can be cloned in: each goes
// on from the source's memory, with its disk and an identity of its own.
func TestClone(t *testing.T) {
	w, source, _ := newMachines(t)
	clone := func(o CloneOptions, want api.State) {
		t.Helper()
		state := w.state(t, "source")
		inst, err := w.Clone(t.Context(), "source", o)
		if err != nil {
			t.Fatal(err)
		}
		if now := w.state(t, "source"); now != state {
			t.Errorf("its source was %s and is %s", state, now)
		}
		n := inst.Spec.Network
		if inst.Status.State != want || inst.ID == source.ID || inst.Spec.Hostname != inst.ID[:12] || n.MAC != "" || n.Publish[0].HostPort != 0 || inst.Name != inst.Spec.Name {
			t.Errorf("a clone is %+v", inst)
		}
		root, err := os.ReadFile(w.dir(inst.ID) + "/root")
		if err != nil || string(root) != source.ID {
			t.Errorf("its disk has %q, %v", root, err)
		}
		en, err := w.find(inst.ID)
		if err != nil {
			t.Fatal(err)
		}
		if want == api.Running {
			r := en.currentRun()
			if got := string(r.handle.(savingRun).memory); got != source.ID || !r.prepared.Cloned {
				t.Errorf("it goes on from %q: %+v", got, r.prepared)
			}
			mine := inst.Status.Interfaces[0]
			if theirs := source.Status.Interfaces[0]; state.Alive() && (mine.MAC == theirs.MAC || mine.Address == theirs.Address) {
				t.Errorf("it is at %+v", mine)
			}
		}
		if w.saved(inst.ID) {
			t.Error("what it began from is left")
		}
	}
	clone(CloneOptions{Name: "one"}, api.Running)
	clone(CloneOptions{}, api.Running)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(w.Pause(t.Context(), "source"))
	clone(CloneOptions{}, api.Running)
	must(w.Unpause(t.Context(), "source"))
	_, err := w.CreateSnapshot(t.Context(), "source", SnapshotOptions{Name: "warm"})
	must(err)
	must(w.Suspend(t.Context(), "source"))
	clone(CloneOptions{}, api.Running)
	must(w.Kill(t.Context(), "source", ""))
	clone(CloneOptions{}, api.Created)
	_, err = w.CreateSnapshot(t.Context(), "source", SnapshotOptions{Name: "cold"})
	must(err)
	clone(CloneOptions{Snapshot: "warm"}, api.Running)
	clone(CloneOptions{Snapshot: "cold"}, api.Created)
}

func (w *world) state(t *testing.T, ref string) api.State {
	t.Helper()
	inst, err := w.Get(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	return inst.Status.State
}

// TestCloneRefused leaves nothing of a clone that cannot be, and the source as it is.
func TestCloneRefused(t *testing.T) {
	w, source, broken := newMachines(t)
	w.start(t, shell("box", "sleep 600"))
	refused := func(ref string, o CloneOptions, kind api.ErrorKind, says string) {
		t.Helper()
		before, _ := os.ReadDir(filepath.Join(w.root, "instances"))
		_, err := w.Clone(t.Context(), ref, o)
		if err == nil || kind != "" && !api.IsKind(err, kind) || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s %+v: %v; want it to say %q", ref, o, err, says)
		}
		after, _ := os.ReadDir(filepath.Join(w.root, "instances"))
		if len(after) != len(before) || len(w.all(t)) != 2 {
			t.Errorf("%s %+v: left behind: %v", ref, o, after)
		}
		if state := w.state(t, "source"); state != api.Running {
			t.Errorf("its source is %s", state)
		}
	}
	refused("box", CloneOptions{}, api.Unsupported, "berth commit box")
	refused("source", CloneOptions{Name: "box"}, api.Exists, "box")
	refused("source", CloneOptions{Name: "a b"}, api.Invalid, "a b")
	refused("source", CloneOptions{Snapshot: "none"}, api.NotFound, "berth snapshot ls source")
	en, err := w.find("source")
	if err != nil {
		t.Fatal(err)
	}
	set := func(f func(*api.Spec)) {
		if err := w.change(t.Context(), en, func(r *record) { r.Spec = source.Spec; f(&r.Spec) }); err != nil {
			t.Fatal(err)
		}
	}
	set(func(s *api.Spec) { s.AutoRemove = true })
	refused("source", CloneOptions{}, api.Conflict, "--rm")
	set(func(s *api.Spec) { s.VM.TPM = true })
	refused("source", CloneOptions{}, api.Unsupported, "TPM")
	set(func(s *api.Spec) { s.Mounts = []api.Mount{{Type: api.MountDisk, Source: "data", Size: 64 << 20}} })
	refused("source", CloneOptions{}, api.Unsupported, "the disk data")
	set(func(*api.Spec) {})

	*broken = true
	refused("source", CloneOptions{Name: "more"}, "", "cannot read what was saved")
	*broken = false
	if _, err := w.CreateSnapshot(t.Context(), "source", SnapshotOptions{Name: "loose"}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.snapshotDir(en.id, "loose"), instance.SavedState), []byte("loose"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused("source", CloneOptions{Snapshot: "loose"}, api.Unsupported, "did not hold it still")
	if _, err := w.Clone(t.Context(), "source", CloneOptions{Name: "more"}); err != nil {
		t.Errorf("its name is not free: %v", err)
	}
}

// TestCloneSwept kills an engine while it makes a clone: the next one finds nothing of it.
func TestCloneSwept(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(w.dir(newID()), instance.SavedName+".new")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	w.close(t)
	w.open(t)
	if left, err := os.ReadDir(filepath.Join(w.root, "instances")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
