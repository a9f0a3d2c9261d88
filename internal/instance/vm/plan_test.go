package vm

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// host is a host that emulates.
func host() instance.Host {
	return instance.Host{
		Arch: "amd64", CPUs: 4, Memory: 8 << 30, TSCKHz: 2596096, QEMU: "/usr/bin/qemu-system-x86_64",
		Virtiofsd: "/usr/lib/qemu/virtiofsd", KVMReason: "the host has no /dev/kvm",
	}
}

// prepared is a VM with one of everything.
func prepared() *instance.Prepared {
	return &instance.Prepared{
		ID: "0123456789ab",
		Spec: api.Spec{
			Name: "web", Kind: api.VM, Limits: api.Limits{CPUs: 1.5, Memory: 1 << 30, PIDs: 100, CPUWeight: 200},
			Ulimits: []api.Ulimit{{Name: "nofile", Soft: 1024, Hard: -1}},
		},
		Process: instance.Process{Args: []string{"httpd", "-f"}, Env: []string{"PATH=/bin"}, User: "web", WorkingDir: "/srv", OpenStdin: true},
		Rootfs:  instance.Rootfs{Layers: []string{"/store/a", "/store/b"}, Disk: "/var/i/root.raw", DiskSize: 10 << 30},
		Interfaces: []instance.Interface{{Network: "default", Name: "eth0", HostName: "bt0123", Bridge: "berth0", MAC: "52:54:00:00:00:01",
			Address: []string{"10.88.0.5/24"}, Gateway: "10.88.0.1"}},
		Mounts: []instance.Mount{
			{Type: api.MountBind, Source: "/home/web", Target: "/srv/www", ReadOnly: true},
			{Type: api.MountTmpfs, Target: "/run/web", Size: 1 << 20, Mode: 0o1777},
		},
		Users:    instance.IDRange{First: 64100, Size: 1},
		Hostname: "web", DNS: []string{"10.88.0.1"}, Hosts: []instance.HostsEntry{{Address: "10.88.0.5", Names: []string{"web"}}},
		Kernel: instance.Kernel{Release: "6.1.0", Vmlinux: "/k/vmlinux", Modules: "/k/modules"},
		Dir:    "/var/i", RunDir: "/run/i", Cgroup: "/berth/0123",
	}
}

func TestPlanGolden(t *testing.T) {
	got, err := New(Config{Cache: "/var/cache"}).Plan(prepared(), host())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "plan.golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got)+"\n" != string(want) {
		t.Errorf("differs from %s:\n%s", path, got)
	}
}

// TestPlanRefuses gives bad input: each gets its kind and one line that names
// the instance and the way out.
func TestPlanRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*instance.Prepared, *instance.Host)
		kind   api.ErrorKind
		says   string
	}{
		"no command":     {func(p *instance.Prepared, _ *instance.Host) { p.Process.Args = nil }, api.Invalid, "no command"},
		"no QEMU":        {func(_ *instance.Prepared, h *instance.Host) { h.QEMU = "" }, api.Unsupported, "qemu-system-x86"},
		"other host":     {func(_ *instance.Prepared, h *instance.Host) { h.Arch = "arm64" }, api.Unsupported, "arm64"},
		"no kernel":      {func(p *instance.Prepared, _ *instance.Host) { p.Kernel = instance.Kernel{} }, api.NotFound, "berth kernel"},
		"little memory":  {func(p *instance.Prepared, _ *instance.Host) { p.Spec.Limits.Memory = 4 << 20 }, api.Invalid, "at least 96 MiB"},
		"much memory":    {func(p *instance.Prepared, _ *instance.Host) { p.Spec.Limits.Memory = 1 << 40 }, api.Exhausted, "8192 MiB"},
		"many CPUs":      {func(p *instance.Prepared, _ *instance.Host) { p.Spec.Limits.CPUs = 4.5 }, api.Exhausted, "5 CPUs"},
		"host network":   {func(p *instance.Prepared, _ *instance.Host) { p.HostNet = true }, api.Unsupported, "default network"},
		"full":           {func(p *instance.Prepared, _ *instance.Host) { p.Spec.VM.Virtualization = api.VirtFull }, api.Unsupported, "not built yet"},
		"hardware":       {func(p *instance.Prepared, _ *instance.Host) { p.Spec.VM.Virtualization = api.VirtHardware }, api.Unsupported, "no /dev/kvm"},
		"unknown":        {func(p *instance.Prepared, _ *instance.Host) { p.Spec.VM.Virtualization = "half" }, api.Invalid, "half"},
		"many layers":    {func(p *instance.Prepared, _ *instance.Host) { p.Rootfs.Layers = make([]string, 200) }, api.Unsupported, "200 layers"},
		"no virtiofsd":   {func(_ *instance.Prepared, h *instance.Host) { h.Virtiofsd = "" }, api.Unsupported, "qemu-system-common"},
		"unknown ulimit": {func(p *instance.Prepared, _ *instance.Host) { p.Spec.Ulimits[0].Name = "files" }, api.Invalid, "files"},
	} {
		p, h := prepared(), host()
		c.change(p, &h)
		_, err := New(Config{}).Plan(p, h)
		if !api.IsKind(err, c.kind) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "web") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v (kind %s); want kind %s and %q", name, err, api.KindOf(err), c.kind, c.says)
		}
	}
}

func TestAutoVirtualization(t *testing.T) {
	h := host()
	for _, c := range []struct {
		kvm    bool
		want   api.Virtualization
		notice string
	}{{true, api.VirtHardware, ""}, {false, api.VirtPara, "no hardware virtualization: the host has no /dev/kvm"}} {
		h.KVM = c.kvm
		data, err := New(Config{}).Plan(prepared(), h)
		if err != nil {
			t.Fatal(err)
		}
		var got plan
		if err := json.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		if got.Virtualization != c.want || got.Notice != c.notice {
			t.Errorf("KVM %v: %s, %q", c.kvm, got.Virtualization, got.Notice)
		}
	}
}

func TestLastWords(t *testing.T) {
	for said, want := range map[string]string{
		"":                                     "",
		"one\ntwo\n":                           "two",
		"[1] Kernel panic - x\r\nRebooting":    "Kernel panic - x",
		"bell \a\n" + strings.Repeat("x", 300): strings.Repeat("x", 200),
	} {
		if got := lastWords(said); got != want {
			t.Errorf("lastWords(%q) = %q, want %q", said, got, want)
		}
	}
}
