package engine

import (
	"bytes"
	"strings"
	"testing"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/instance"
)

// TestFurtherDisks: a disk is a volume that one VM writes at a time.
func TestFurtherDisks(t *testing.T) {
	w := newWorld(t)
	opt := image.DiskOptions{Name: "disk/agent", Format: disk.Raw, Agent: true}
	if _, err := w.images.ImportDisk(t.Context(), bytes.NewReader(make([]byte, 20<<20)), opt); err != nil {
		t.Fatal(err)
	}
	with := func(mounts ...api.Mount) api.Spec {
		return api.Spec{Kind: api.VM, Image: "disk/agent", Mounts: mounts}
	}
	// prepare does what a start does first.
	prepare := func(spec api.Spec) (string, []instance.Mount, error) {
		inst, err := w.Create(t.Context(), spec)
		if err != nil {
			return "", nil, err
		}
		var p instance.Prepared
		err = w.prepareMounts(t.Context(), record{Instance: inst}, &p, nil)
		return inst.Name, p.Mounts, err
	}
	data := api.Mount{Type: api.MountDisk, Source: "data", Size: 64 << 20, Target: "/data"}
	fixed := data
	fixed.ReadOnly = true
	first, mounts, err := prepare(with(data, api.Mount{Type: api.MountDisk, Size: 32 << 20}))
	if err != nil || len(mounts) != 2 || mounts[0].Size != 64<<20 || mounts[0].Name != "data" || mounts[1].Target != "" {
		t.Fatalf("%+v, %v", mounts, err)
	}
	if v, err := w.Volume(t.Context(), "data"); err != nil || v.Path != mounts[0].Source || v.Size != 64<<20 || len(v.Users) != 1 {
		t.Errorf("%+v, %v", v, err)
	}
	if list, err := w.Volumes(t.Context()); err != nil || len(list) != 2 {
		t.Errorf("%+v, %v: want one with a name, and one without", list, err)
	}
	if err := w.RemoveVolume(t.Context(), "data", false); !api.IsKind(err, api.InUse) {
		t.Errorf("removing a disk in use: %v", err)
	}
	if _, err := w.CreateVolume(t.Context(), "tree", 0, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := w.CreateVolume(t.Context(), "small", 1<<20, nil); !api.IsKind(err, api.Invalid) {
		t.Errorf("a disk of one MiB: %v", err)
	}
	en, err := w.find(first)
	if err != nil {
		t.Fatal(err)
	}
	state := func(s api.State) { en.amend(func(r *record) { r.Status.State = s }) }
	defer state(api.Created)
	state(api.Running)
	container := with(data)
	container.Kind, container.Image = api.Container, "base"
	for name, c := range map[string]struct {
		spec api.Spec
		says string
	}{
		"container":   {container, "make it a VM with --vm"},
		"in use":      {with(data), first + " runs with this disk"},
		"missing":     {with(api.Mount{Type: api.MountDisk, Source: "none"}), "berth volume create --size"},
		"no tree":     {with(api.Mount{Type: api.MountDisk, Source: "tree"}), "file tree and no disk"},
		"no disk":     {with(api.Mount{Type: api.MountVolume, Source: "data", Target: "/x"}), "--mount type=disk"},
		"nothing":     {with(api.Mount{Type: api.MountDisk}), "a size to make one of"},
		"twice":       {with(data, api.Mount{Type: api.MountDisk, Source: "data"}), "named twice"},
		"small":       {with(api.Mount{Type: api.MountDisk, Source: "s", Size: 1 << 20}), "16MiB"},
		"same target": {with(data, api.Mount{Type: api.MountDisk, Source: "b", Size: 16 << 20, Target: "/data"}), "two mounts"},
	} {
		if _, _, err := prepare(c.spec); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, which does not say %q", name, err, c.says)
		}
	}
	en.amend(func(r *record) { r.Spec.Mounts = []api.Mount{fixed} })
	if _, _, err := prepare(with(fixed)); err != nil {
		t.Errorf("two that only read: %v", err)
	}
}
