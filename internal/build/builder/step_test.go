package builder

import (
	"bytes"
	"encoding/json"
	"flag"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/solver/pb"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/build"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/instance/container"
	"github.com/berthcloud/berth/internal/instance/vm"
	"github.com/berthcloud/berth/internal/network"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestStepPlan holds what a step is asked for to what the driver of containers is
// asked for.
func TestStepPlan(t *testing.T) {
	endpoint := &network.Endpoint{
		Network: "default", Bridge: "berth0", HostName: "v0123", MAC: "02:00:00:00:00:01", MTU: 1500,
		Address: []netip.Prefix{netip.MustParsePrefix("10.1.2.3/24")}, Gateway: netip.MustParseAddr("10.1.2.1"), DNS: []netip.Addr{netip.MustParseAddr("10.1.2.1")},
	}
	users := instance.IDRange{First: 0x70000000, Size: 65536}
	for name, c := range map[string]struct {
		meta executor.Meta
		got  build.Step
	}{
		"plain": {executor.Meta{Args: []string{"sh", "-c", "true"}, Env: []string{"PATH=/bin"}, Cwd: "/srv", User: "one"}, build.Step{Users: users, Endpoint: endpoint}},
		"none":  {executor.Meta{Args: []string{"true"}, NetMode: pb.NetMode_NONE, ReadonlyRootFS: true}, build.Step{Users: users}},
		"host": {executor.Meta{
			Args: []string{"true"}, NetMode: pb.NetMode_HOST, Hostname: "box", Tty: true,
			ExtraHosts: []executor.HostIP{{Host: "extra", IP: net.IPv4(10, 9, 8, 7)}}, Ulimit: []*pb.Ulimit{{Name: "nofile", Soft: 10, Hard: 20}},
		}, build.Step{Users: users}},
	} {
		t.Run(name, func(t *testing.T) {
			const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
			p := plan(id, "/run/build/steps/"+id[:12], "/berth", &c.meta, c.got)
			golden(t, name, p)
			p.Rootfs.Layers = []string{"/layer"}
			if _, err := new(container.Driver).Plan(p, instance.Host{UserNamespaces: true}); err != nil {
				t.Errorf("the driver of containers refuses it: %v", err)
			}
		})
	}
}

// golden compares a plan with a file.
func golden(t *testing.T, name string, p *instance.Prepared) {
	t.Helper()
	got, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v; the plan is not that of %s (go test -update writes it):\n%s", err, path, got)
	}
}

func TestImpossible(t *testing.T) {
	for _, m := range []executor.Meta{{SecurityMode: pb.SecurityMode_INSECURE}, {CDIDevices: []*pb.CDIDevice{{Name: "gpu"}}}} {
		if possible(&m) == nil {
			t.Errorf("%+v is not refused", m)
		}
	}
	if err := possible(&executor.Meta{}); err != nil {
		t.Error(err)
	}
}

func TestParseStack(t *testing.T) {
	st := parseStack([]string{"index=off", "lowerdir=/c:/b:/a", "upperdir=/u/fs", "workdir=/u/work"})
	if len(st.lower) != 3 || st.lower[0] != "/c" || st.upper != "/u/fs" || st.work != "/u/work" {
		t.Errorf("%+v", st)
	}
}

// TestMachinePlan holds what the VM of a step is asked for to what the driver of VMs is
// asked for: nothing of the step's command and environment, which may hold secrets.
func TestMachinePlan(t *testing.T) {
	const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	meta := executor.Meta{Args: []string{"sh", "-c", "true"}, Env: []string{"TOKEN=secret"}, Cwd: "/srv", User: "one"}
	got := build.Step{Users: instance.IDRange{First: 0x70000000, Size: 65536}, Kernel: instance.Kernel{Name: "kernel/debian-cloud", Arch: "amd64", Release: "6.1", Vmlinux: "/vmlinux"}}
	host := instance.Host{Arch: "amd64", CPUs: 2, Memory: 3 << 30, QEMU: map[string]string{"amd64": "/usr/bin/qemu-system-x86_64"}}
	p := planMachine(id, "/run/build-vm/steps/"+id[:12], "/build-vm/tmp/"+id[:12], "/berth", &meta, got, host)
	p.Rootfs.Layers = []string{"/layer.erofs"}
	p.Mounts = []instance.Mount{{Type: api.MountBind, Image: "/mount-0.erofs", Target: "/cache"}, {Type: api.MountBind, Image: "/mount-1.erofs", Entry: entryName, Target: "/file", ReadOnly: true}}
	golden(t, "vm", p)
	planned, err := new(vm.Driver).Plan(p, host)
	if err != nil {
		t.Fatalf("the driver of VMs refuses it: %v", err)
	}
	for _, word := range []string{"secret", "virtiofs"} {
		if bytes.Contains(planned, []byte(word)) {
			t.Errorf("the plan has %q: %s", word, planned)
		}
	}
	if bytes.Contains(planned, []byte(`"no_template"`)) {
		t.Errorf("it does not begin from a template: %s", planned)
	}
}
