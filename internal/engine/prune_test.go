package engine

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/berthcloud/berth/api"
)

// TestPruneFilters prunes ended instances and volumes by age and by label.
func TestPruneFilters(t *testing.T) {
	w := newWorld(t)
	for name, labels := range map[string]map[string]string{"plain": nil, "kept": {"keep": "yes"}, "test": {"for": "test"}} {
		spec := shell(name, "true")
		spec.Labels = labels
		w.start(t, spec)
		w.awaitState(t, name, api.Exited)
		if _, err := w.CreateVolume(t.Context(), "v-"+name, 0, labels); err != nil {
			t.Fatal(err)
		}
	}
	running := shell("running", forever)
	running.Labels = map[string]string{"for": "test"}
	w.start(t, running)

	for _, c := range []struct {
		filters            map[string][]string
		instances, volumes []string
	}{
		{map[string][]string{"until": {"1h"}}, nil, nil},
		{map[string][]string{"until": {"2000-01-01T00:00:00Z"}}, nil, nil},
		{map[string][]string{"label": {"for=other"}}, nil, nil},
		{map[string][]string{"label": {"for", "keep"}}, nil, nil},
		{map[string][]string{"label": {"for=test"}, "until": {"0s"}}, []string{"test"}, []string{"v-test"}},
		{map[string][]string{"label!": {"keep"}}, []string{"plain"}, []string{"v-plain"}},
		{nil, []string{"kept"}, []string{"v-kept"}},
	} {
		p, err := w.Prune(t.Context(), PruneOptions{Volumes: true, Filters: c.filters})
		if err != nil || !slices.Equal(p.Instances, c.instances) || !slices.Equal(p.Volumes, c.volumes) {
			t.Errorf("%v: pruned %v and %v, %v; want %v and %v", c.filters, p.Instances, p.Volumes, err, c.instances, c.volumes)
		}
	}
	for _, odd := range []map[string][]string{{"until": {"soon"}}, {"until": {"-1h"}}, {"age": {"1h"}}} {
		if _, err := w.Prune(t.Context(), PruneOptions{Filters: odd}); !api.IsKind(err, api.Invalid) {
			t.Errorf("%v: %v", odd, err)
		}
	}
}

// TestUsage counts what instances and volumes take of the disk.
func TestUsage(t *testing.T) {
	w := newWorld(t)
	before, err := w.Usage(t.Context())
	if err != nil || before.Images.Total == 0 || before.Images.Active != 0 || before.Images.Size == 0 || before.Images.Reclaimable == 0 {
		t.Fatalf("%+v, %v", before, err)
	}
	inst := w.start(t, shell("one", forever))
	v, err := w.CreateVolume(t.Context(), "data", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	content := make([]byte, 1<<20)
	for i := range content {
		content[i] = byte(i)
	}
	dir := filepath.Join(w.dir(inst.ID), "written")
	for _, err := range []error{
		os.WriteFile(dir, content, 0o600), os.Link(dir, dir+"2"), // counted once
		os.WriteFile(filepath.Join(v.Path, "file"), content, 0o600), os.Truncate(filepath.Join(v.Path, "file"), 1<<30), // a hole
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	u, err := w.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	about := func(n int64) bool { return n >= 1<<20 && n < 3<<19 }
	if u.Instances.Total != 1 || u.Instances.Active != 1 || !about(u.Instances.Size) || u.Instances.Reclaimable != 0 {
		t.Errorf("instances %+v", u.Instances)
	}
	if u.Volumes.Total != 1 || u.Volumes.Active != 0 || !about(u.Volumes.Size) || u.Volumes.Reclaimable != u.Volumes.Size {
		t.Errorf("volumes %+v", u.Volumes)
	}
	if u.Images.Active != 1 || u.Images.Reclaimable >= before.Images.Reclaimable {
		t.Errorf("images %+v, before %+v", u.Images, before.Images)
	}
}
