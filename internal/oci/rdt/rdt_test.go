package rdt

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// fake makes a directory that looks like resctrl. What the kernel would put into a new
// group's directory the test has to: no machine of ours has resctrl.
func fake(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	fill(t, root, "    L3:0=7ff;1=7ff\n    MB:0=100;1=100\n")
	fill(t, filepath.Join(root, "gold"), "    L3:0=7f0;1=01f\n    MB:0= 20;1= 70\n")
	return root
}

func fill(t *testing.T, dir, schemata string) {
	t.Helper()
	for _, d := range []string{dir, filepath.Join(dir, "mon_groups")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"schemata": schemata, "tasks": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, elem ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestExistingClass joins a class that is there, which stays when the container goes.
func TestExistingClass(t *testing.T) {
	root := fake(t)
	for _, r := range []*specs.LinuxIntelRdt{
		{ClosID: "gold"},
		{ClosID: "gold", L3CacheSchema: "L3:0=7f0;1=1f", MemBwSchema: "MB:0=20;1=70"},
	} {
		g := Plan(root, "box", r)
		if err := g.Apply(); err != nil {
			t.Fatalf("%+v: %v", r, err)
		}
		if err := g.Join(42); err != nil || read(t, root, "gold/tasks") != "42" {
			t.Errorf("%v, tasks %q", err, read(t, root, "gold/tasks"))
		}
		if err := g.Delete(); err != nil {
			t.Error(err)
		}
		fill(t, filepath.Join(root, "gold"), "    L3:0=7f0;1=01f\n    MB:0= 20;1= 70\n")
	}
	g := Plan(root, "box", &specs.LinuxIntelRdt{ClosID: "/"})
	if err := g.Apply(); err != nil || g.Tasks[0] != filepath.Join(root, "tasks") {
		t.Errorf("the default class: %v, %+v", err, g)
	}
}

// TestRefused leaves nothing behind.
func TestRefused(t *testing.T) {
	root := fake(t)
	for says, r := range map[string]*specs.LinuxIntelRdt{
		"another schema":   {ClosID: "gold", L3CacheSchema: "L3:0=f"},
		"does not exist":   {ClosID: "silver"},
		"file exists":      {},                                         // a container of that name, below
		"no such file":     {ClosID: "silver", MemBwSchema: "MB:0=10"}, // the fake has no schemata file for it
		"monitoring group": {ClosID: "gold", EnableMonitoring: true},
	} {
		id := "gold"
		if says == "monitoring group" {
			says = "file exists"
			if err := os.Mkdir(filepath.Join(root, "gold/mon_groups/gold"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := Plan(root, id, r).Apply(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v; want %q", r, err, says)
		}
		if entries, err := os.ReadDir(root); err != nil || len(entries) != 4 {
			t.Errorf("%+v left %v, %v", r, entries, err)
		}
	}
}

// TestOwnClass plans a class named after the container, with monitoring, and what goes
// with it: the inner directory first.
func TestOwnClass(t *testing.T) {
	g := Plan("/r", "box", &specs.LinuxIntelRdt{EnableMonitoring: true, Schemata: []string{"L3:0=f"}})
	if strings.Join(g.Tasks, " ") != "/r/box/tasks /r/box/mon_groups/box/tasks" || strings.Join(g.Remove, " ") != "/r/box/mon_groups/box /r/box" {
		t.Errorf("%+v", g)
	}
	root := fake(t)
	g = Plan(root, "box", &specs.LinuxIntelRdt{ClosID: "gold", EnableMonitoring: true, Schemata: []string{"L3:0=f", "MB:0=10"}, MemBwSchema: "MB:0=20"})
	if err := g.Apply(); err != nil || read(t, root, "gold/schemata")[:14] != "L3:0=f\nMB:0=10" {
		t.Errorf("%v, schemata %q", err, read(t, root, "gold/schemata"))
	}
	if err := g.Delete(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(root, "gold/mon_groups/box")); err == nil {
		t.Error("the monitoring group is left")
	}
	if err := g.Delete(); err != nil {
		t.Errorf("again: %v", err)
	}
}

func TestMountPoint(t *testing.T) {
	const text = "30 1 0:26 / /sys rw - sysfs sysfs rw\n31 30 0:27 / /sys/fs/resctrl rw,relatime shared:3 - resctrl resctrl rw\n"
	if got := mountPoint([]byte(text)); got != "/sys/fs/resctrl" {
		t.Errorf("%q", got)
	}
	if got := mountPoint([]byte("30 1 0:26 / /resctrl rw - tmpfs resctrl rw\n")); got != "" {
		t.Errorf("%q", got)
	}
}
