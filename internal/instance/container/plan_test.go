package container

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/instance/caps"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// sample is a run with everything plain.
func sample() *instance.Prepared {
	return &instance.Prepared{
		ID: "0123456789ab", Spec: api.Spec{Name: "web"}, Hostname: "web",
		Process: instance.Process{Args: []string{"/bin/server", "-x"}, Env: []string{"PATH=/bin"}, WorkingDir: "/srv", StopSignal: 15},
		Rootfs:  instance.Rootfs{Layers: []string{"/run/berth/layers/base", "/run/berth/layers/app:1"}, Upper: "/var/lib/berth/instances/x/upper", Work: "/var/lib/berth/instances/x/work"},
		Users:   instance.IDRange{First: 1 << 20, Size: 1 << 16},
		RunDir:  "/run/berth/instances/x", Cgroup: "/berth/x",
	}
}

func TestPlanGolden(t *testing.T) {
	host := instance.Host{UserNamespaces: true}
	v2 := instance.Host{UserNamespaces: true, CgroupV2: true}
	for _, c := range []struct {
		name string
		host instance.Host
		edit func(*instance.Prepared)
	}{
		{"default", host, func(*instance.Prepared) {}},
		{"limits-v1", host, limits},
		{"limits-v2", v2, limits},
		{"terminal", host, func(p *instance.Prepared) {
			p.Process.TTY, p.Process.InitialSize, p.Process.User = true, api.Size{Rows: 24, Cols: 80}, "bob:staff"
		}},
		{"mounts", host, func(p *instance.Prepared) {
			p.Mounts = []instance.Mount{
				{Type: api.MountTmpfs, Target: "/data/cache", Size: 1 << 20, Mode: 0o700},
				{Type: api.MountVolume, Source: "/var/lib/berth/volumes/db", Target: "/data"},
				{Type: api.MountBind, Source: "/etc/ssl", Target: "/etc/ssl", ReadOnly: true},
			}
		}},
		{"open", host, func(p *instance.Prepared) {
			p.Users, p.HostNet = instance.IDRange{}, true
			p.Spec.Security = api.Security{HostUsers: true, NewPrivs: true, Unconfined: true, ReadOnly: true, CapAdd: []string{"net_admin"}, CapDrop: []string{"CAP_MKNOD"}}
			p.Spec.Init = api.InitReap
		}},
		{"landlock", instance.Host{UserNamespaces: true, Landlock: 6}, func(p *instance.Prepared) {
			p.Spec.Security.Landlock = `{"scoped": ["signal"]}`
			system(p)
		}},
		{"system-v1", host, system},
		{"system-v2", v2, system},
		{"removed", host, func(p *instance.Prepared) { p.Spec.AutoRemove = true }},
		{"host-network", host, func(p *instance.Prepared) { p.HostNet = true }},
		{"user", ordinary(false), func(*instance.Prepared) {}},
		{"user-pids-v1", ordinary(false, "freezer", "pids"), func(p *instance.Prepared) { p.Spec.Limits.PIDs = 100 }},
		{"user-system-v2", ordinary(true, "cpu", "freezer", "memory", "pids"), func(p *instance.Prepared) {
			system(p)
			p.Spec.Limits = api.Limits{CPUs: 1.5, Memory: 256 << 20}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := sample()
			c.edit(p)
			got, err := New(Config{}).Plan(p, c.host)
			if err != nil {
				t.Fatal(err)
			}
			got = withoutSyscalls(t, got)
			path := filepath.Join("testdata", c.name+".golden")
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%v; the plan is not that of %s (go test -update writes it):\n%s", err, path, got)
			}
		})
	}
}

func system(p *instance.Prepared) {
	p.Spec.Init = api.InitSystem
	p.Process = instance.Process{Args: []string{"/sbin/init"}, Env: []string{"container=berth"}, User: "0", WorkingDir: "/", TTY: true, StopSignal: 37}
	p.Mounts = []instance.Mount{{Type: api.MountTmpfs, Target: "/run/lock", Size: 5 << 20, Mode: 0o1777}, {Type: api.MountTmpfs, Target: "/run", Size: 1 << 26, Mode: 0o755}}
}

// ordinary is the host of an ordinary user's daemon that may use some controllers.
func ordinary(v2 bool, controllers ...string) instance.Host {
	ids := []instance.IDRange{{First: 0, Size: 1}, {First: 1, Size: 1 << 16}}
	return instance.Host{UserNamespaces: true, CgroupV2: v2, CgroupsHold: v2, UIDs: ids, GIDs: ids, Controllers: controllers}
}

func limits(p *instance.Prepared) {
	p.Spec.Limits = api.Limits{CPUs: 1.5, CPUWeight: 50, CPUSet: "0-1", Memory: 256 << 20, PIDs: 100}
	p.Spec.Ulimits = []api.Ulimit{{Name: "nofile", Soft: 1024, Hard: 4096}, {Name: "core", Soft: 0, Hard: -1}}
}

// withoutSyscalls replaces the 400 lines of the seccomp profile by their number;
// TestPlanNoWider compares them.
func withoutSyscalls(t *testing.T, plan []byte) []byte {
	t.Helper()
	var s specs.Spec
	if err := json.Unmarshal(plan, &s); err != nil {
		t.Fatal(err)
	}
	if s.Linux.Seccomp != nil {
		s.Linux.Seccomp.Syscalls, s.Linux.Seccomp.Architectures = nil, nil
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(b, '\n')
}

// TestPlanNoWider holds the default to docker's: no capability and no system call
// more.
func TestPlanNoWider(t *testing.T) {
	const throttle = "/sys/devices/system/cpu/cpu0/thermal_throttle"
	s, err := plan(sample(), instance.Host{UserNamespaces: true, ThermalThrottle: []string{throttle}})
	if err != nil {
		t.Fatal(err)
	}
	docker := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps.Defaults()}}}
	want, err := moby.GetDefaultProfile(docker)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(s.Linux.Seccomp)
	b, _ := json.Marshal(want)
	if !bytes.Equal(a, b) {
		t.Error("the seccomp profile is not moby's")
	}
	got := s.Process.Capabilities
	if len(got.Bounding) != 14 || len(got.Inheritable)+len(got.Ambient) != 0 || !slices.Equal(got.Bounding, got.Permitted) {
		t.Errorf("capabilities %+v", got)
	}
	if !s.Process.NoNewPrivileges || !slices.Contains(s.Linux.MaskedPaths, throttle) || len(s.Linux.ReadonlyPaths) == 0 {
		t.Error("not confined")
	}
}

// TestPlanSystemNoWider opens to an init of moby's system calls for its capabilities
// only those that its namespaces confine.
func TestPlanSystemNoWider(t *testing.T) {
	p := sample()
	system(p)
	s, err := plan(p, instance.Host{UserNamespaces: true})
	if err != nil {
		t.Fatal(err)
	}
	allowed := func(name string) bool {
		return slices.ContainsFunc(s.Linux.Seccomp.Syscalls, func(c specs.LinuxSyscall) bool {
			return c.Action == specs.ActAllow && slices.Contains(c.Names, name)
		})
	}
	for _, name := range []string{"mount", "umount2", "unshare", "setns", "reboot", "sethostname"} {
		if !allowed(name) {
			t.Errorf("%s is not allowed", name)
		}
	}
	for _, name := range []string{"bpf", "perf_event_open", "syslog", "quotactl", "fanotify_init", "lookup_dcookie", "init_module", "kexec_load", "settimeofday", "open_by_handle_at"} {
		if allowed(name) {
			t.Errorf("%s is allowed", name)
		}
	}
	if len(s.Process.Capabilities.Bounding) != 18 || len(s.Linux.MaskedPaths) == 0 || len(s.Linux.ReadonlyPaths) == 0 {
		t.Errorf("capabilities %v, %d masked paths", s.Process.Capabilities.Bounding, len(s.Linux.MaskedPaths))
	}
}

func TestPlanRefuses(t *testing.T) {
	host := instance.Host{UserNamespaces: true}
	for _, c := range []struct {
		kind api.ErrorKind
		host instance.Host
		edit func(*instance.Prepared)
	}{
		{api.Invalid, host, func(p *instance.Prepared) { p.Process.Args = nil }},
		{api.Invalid, host, func(p *instance.Prepared) { p.Rootfs.Layers = nil }},
		{api.Invalid, host, func(p *instance.Prepared) { p.Spec.Security.CapAdd = []string{"FLY"} }},
		{api.Invalid, host, func(p *instance.Prepared) { p.Spec.Ulimits = []api.Ulimit{{Name: "wings"}} }},
		{api.Invalid, host, func(p *instance.Prepared) { p.Spec.Ulimits = []api.Ulimit{{Name: "core", Soft: 2, Hard: 1}} }},
		{api.Unsupported, instance.Host{}, func(*instance.Prepared) {}},
	} {
		p := sample()
		c.edit(p)
		if _, err := New(Config{}).Plan(p, c.host); !api.IsKind(err, c.kind) {
			t.Errorf("%v; want kind %s", err, c.kind)
		}
	}
}

// TestThrottle limits a container's disk, in the words of both versions of cgroups.
func TestThrottle(t *testing.T) {
	l := api.Limits{DiskIOPS: api.Rate{Limit: 500}, DiskBandwidth: api.Rate{Limit: -1}}
	host := instance.Host{UserNamespaces: true, Disk: instance.BlockDevice{Major: 254, Minor: 16}}
	b := resources(l, host).BlockIO
	if got := fmt.Sprint(b.ThrottleReadBpsDevice, b.ThrottleWriteBpsDevice, b.ThrottleReadIOPSDevice, b.ThrottleWriteIOPSDevice); got != "[{{254 16} 0}] [{{254 16} 0}] [{{254 16} 500}] [{{254 16} 500}]" {
		t.Errorf("v1: %s", got)
	}
	host.CgroupV2 = true
	if got := initial(l, host).Unified["io.max"]; got != "254:16 rbps=max wbps=max riops=500 wiops=500" {
		t.Errorf("v2: %s", got)
	}
	if r := resources(api.Limits{}, host); r.BlockIO != nil || r.Unified["io.max"] != "" {
		t.Errorf("without a limit: %+v", r)
	}
	for what, refused := range map[string]struct {
		limits api.Limits
		host   instance.Host
	}{
		"bursts":                {api.Limits{DiskIOPS: api.Rate{Limit: 5, Burst: 6}}, host},
		"without a disk of its": {api.Limits{DiskBandwidth: api.Rate{Limit: 5}}, instance.Host{UserNamespaces: true}},
	} {
		p := sample()
		p.Spec.Limits = refused.limits
		if _, err := New(Config{}).Plan(p, refused.host); !api.IsKind(err, api.Unsupported) || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestPlanRefusesUndelegated has an ordinary user's daemon name the limit, the
// controller and the way out, and no other limit be in the way of those that work.
func TestPlanRefusesUndelegated(t *testing.T) {
	all := map[string]api.Limits{
		"memory": {Memory: 64 << 20}, "cpu": {CPUs: 1}, "cpuset": {CPUSet: "0"}, "pids": {PIDs: 10},
		"io": {DiskIOPS: api.Rate{Limit: 100}},
	}
	for _, host := range []instance.Host{
		ordinary(true), ordinary(false), ordinary(true, "cpu", "freezer", "pids"), ordinary(false, "memory"), ordinary(true, "cpu", "cpuset", "freezer", "memory", "pids"),
	} {
		host.Disk = instance.BlockDevice{Major: 8}
		for controller, l := range all {
			if controller == "io" {
				controller = ioController(host)
			}
			p := sample()
			p.Spec.Limits = l
			_, err := New(Config{}).Plan(p, host)
			if host.Controls(controller) != (err == nil) {
				t.Errorf("%s of %v: %v", controller, host.Controllers, err)
			}
			if err != nil && (!api.IsKind(err, api.Unsupported) || !strings.Contains(err.Error(), "controller "+controller+",") || strings.Contains(err.Error(), "\n")) {
				t.Errorf("%s of %v: %v", controller, host.Controllers, err)
			}
		}
	}
	// What its init could lift is no limit.
	p := sample()
	system(p)
	p.Spec.Limits = all["memory"]
	if _, err := New(Config{}).Plan(p, ordinary(false, "memory")); !api.IsKind(err, api.Unsupported) {
		t.Errorf("a machine with limits on cgroup v1: %v", err)
	}
}
