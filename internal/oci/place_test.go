package oci_test

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"

	"github.com/berthcloud/berth/internal/testenv"
)

// veth makes a pair of interfaces, the first with addresses, and returns their names.
func veth(t *testing.T) (name, peer string) {
	t.Helper()
	name, peer = testenv.Name(t)+"a", testenv.Name(t)+"b"
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peer}))
	t.Cleanup(func() {
		if l, err := netlink.LinkByName(peer); err == nil {
			_ = netlink.LinkDel(l)
		}
	})
	l, err := netlink.LinkByName(name)
	must(t, err)
	for _, a := range []string{"192.0.2.7/24", "2001:db8::7/64"} {
		addr, err := netlink.ParseAddr(a)
		must(t, err)
		must(t, netlink.AddrAdd(l, addr))
	}
	must(t, netlink.LinkSetUp(l))
	return name, peer
}

// addresses returns the addresses that an interface of the host has, or nil.
func addresses(name string) []string {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return nil
	}
	list, _ := i.Addrs()
	var text []string
	for _, a := range list {
		text = append(text, a.String())
	}
	return text
}

// TestNetworkDevice moves an interface into the container, renamed, with its addresses,
// and up (config-linux.md, Network Devices); in a user namespace too.
func TestNetworkDevice(t *testing.T) {
	for _, c := range []struct {
		name string
		as   string
		user bool
	}{{"own name", "", false}, {"renamed", "data0", false}, {"template", "data%d", false}, {"user namespace", "data0", true}} {
		t.Run(c.name, func(t *testing.T) {
			b := newBox(t, "busybox ip -o addr show; busybox ip -o link show")
			name, _ := veth(t)
			b.spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{name: {Name: c.as}}
			if c.user {
				b.userNamespace()
			}
			out := b.run()
			want := strings.Replace(c.as, "%d", "0", 1)
			if want == "" {
				want = name
			}
			for _, text := range []string{want + "    inet 192.0.2.7/24", want + "    inet6 2001:db8::7/64", ": " + want + "@"} {
				if !strings.Contains(out.stdout, text) {
					t.Errorf("%+v; want %q", out, text)
				}
			}
			if !strings.Contains(out.stdout, "UP") {
				t.Errorf("not up: %s", out.stdout)
			}
			b.nothing()
		})
	}
}

// TestNetworkDeviceComesBack fails after the move, and finds the host as it was.
func TestNetworkDeviceComesBack(t *testing.T) {
	b := newBox(t, "true")
	name, _ := veth(t)
	before := addresses(name)
	for says, edit := range map[string]func(){
		"process.args[0]":          func() { b.spec.Process.Args = []string{"/no/such"} },
		"has a device lo already":  func() { b.spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{name: {Name: "lo"}} },
		"no such network":          func() { b.spec.Linux.NetDevices["berth-none"] = specs.LinuxNetDevice{} },
		"needs a network":          func() { b.spec.Linux.Namespaces = slices.DeleteFunc(b.spec.Linux.Namespaces, isNetwork) },
		"the runtime's own":        func() { b.spec.Linux.Namespaces[1].Path = "/proc/self/ns/net" },
		"linux.netDevices[\"lo\"]": func() { b.spec.Linux.NetDevices["lo"] = specs.LinuxNetDevice{Name: "x"} },
	} {
		whole := *b.spec
		process, linux := *b.spec.Process, *b.spec.Linux
		linux.Namespaces = slices.Clone(linux.Namespaces)
		linux.NetDevices = map[string]specs.LinuxNetDevice{name: {Name: "inside0"}}
		b.spec.Process, b.spec.Linux = &process, &linux
		edit()
		out := b.run()
		if out.code == 0 || !strings.Contains(out.stderr, says) || strings.Count(out.stderr, "\n") != 1 {
			t.Errorf("%+v; want one line with %q", out, says)
		}
		if after := addresses(name); !slices.Contains(after, "192.0.2.7/24") || !slices.Contains(after, "2001:db8::7/64") {
			t.Errorf("%s: the host's interface has %v afterwards, before %v", says, after, before)
		}
		b.nothing()
		*b.spec = whole
	}
}

func isNetwork(ns specs.LinuxNamespace) bool { return ns.Type == specs.NetworkNamespace }

// TestMemoryPolicy sets the policy of the first process and of commands.
func TestMemoryPolicy(t *testing.T) {
	if _, err := os.Stat("/proc/self/numa_maps"); err != nil {
		t.Skip("the kernel knows no memory nodes")
	}
	b := newBox(t, "head -n 1 /proc/self/numa_maps; sleep 100")
	b.spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0", Flags: []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes}}
	b.start()
	read := func() string { raw, _ := os.ReadFile(b.log()); return string(raw) }
	eventually(t, "the policy", func() bool { return strings.Contains(read(), "\n") })
	for who, text := range map[string]string{"the first process": read(), "a command": b.oci("exec", b.id, "head", "-n", "1", "/proc/self/numa_maps").stdout} {
		if !strings.Contains(text, " bind=static:0 ") {
			t.Errorf("%s: %s", who, text)
		}
	}
	b.oci("delete", "--force", b.id)
	for says, p := range map[string]specs.LinuxMemoryPolicy{
		"linux.memoryPolicy.mode":     {Mode: "MPOL_X"},
		"linux.memoryPolicy.flags[0]": {Mode: specs.MpolDefault, Flags: []specs.MemoryPolicyFlagType{"X"}},
		"linux.memoryPolicy.nodes":    {Mode: specs.MpolBind, Nodes: "1-0"},
		"linux.memoryPolicy: ":        {Mode: specs.MpolBind}, // the kernel wants a node
	} {
		b.spec.Linux.MemoryPolicy = &p
		if out := b.run(); out.code != 1 || !strings.Contains(out.stderr, says) {
			t.Errorf("%+v; want %q", out, says)
		}
		b.nothing()
	}
}

// TestExecAffinity runs commands, but not the first process, on the processors named.
func TestExecAffinity(t *testing.T) {
	b := newBox(t, "grep Cpus_allowed_list /proc/self/status; sleep 100")
	b.spec.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0", Final: "0"}
	b.start()
	allowed := func(text string) string {
		_, rest, _ := strings.Cut(text, "Cpus_allowed_list:")
		first, _, _ := strings.Cut(rest, "\n")
		return strings.TrimSpace(first)
	}
	own, err := os.ReadFile("/proc/self/status")
	must(t, err)
	read := func() string { raw, _ := os.ReadFile(b.log()); return string(raw) }
	eventually(t, "the list", func() bool { return strings.Contains(read(), "\n") })
	if got := allowed(read()); got != allowed(string(own)) {
		t.Errorf("the first process runs on %s", got)
	}
	if got := allowed(b.oci("exec", b.id, "cat", "/proc/self/status").stdout); got != "0" {
		t.Errorf("a command runs on %s; want 0", got)
	}
	// A process.json has the last word.
	p := *b.spec.Process
	p.Args, p.ExecCPUAffinity = []string{"true"}, &specs.CPUAffinity{Final: "1023"}
	raw, err := json.Marshal(p)
	must(t, err)
	file := filepath.Join(t.TempDir(), "process.json")
	must(t, os.WriteFile(file, raw, 0o600))
	if out := b.oci("exec", "--process", file, b.id); out.code != 255 || !strings.Contains(out.stderr, "process.execCPUAffinity.final: processors [1023]") {
		t.Errorf("%+v", out)
	}
}

// TestIntelRdt says what is missing; package rdt is tested on a directory that looks
// like resctrl.
func TestIntelRdt(t *testing.T) {
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), " - resctrl ") {
		t.Skip("resctrl is mounted")
	}
	b := newBox(t, "true")
	b.spec.Linux.IntelRdt = &specs.LinuxIntelRdt{L3CacheSchema: "L3:0=f"}
	if out := b.run(); out.code != 1 || !strings.Contains(out.stderr, "linux.intelRdt: no resctrl filesystem is mounted") {
		t.Errorf("%+v", out)
	}
	b.nothing()
}
