package bundle

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const minimal = `{"ociVersion":"1.0.2","process":{"args":["sh"],"cwd":"/"},"root":{"path":"rootfs"}}`

func TestParseMinimal(t *testing.T) {
	s, err := Parse([]byte(minimal))
	if err != nil || s.Linux == nil {
		t.Fatalf("%+v, %v", s, err)
	}
}

// TestParseRefuses names the field of each contradiction.
func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ json, says string }{
		{``, "unexpected end of JSON"},
		{`{"ociVersion":`, "byte 14"},
		{`{"ociVersion":1}`, "ociVersion: a JSON number does not fit"},
		{`{}`, "ociVersion: missing"},
		{`{"ociVersion":"1"}`, "ociVersion"},
		{`{"ociVersion":"1.0.2"}`, "root.path: missing"},
		{`{"ociVersion":"1.0.2","root":{"path":"r"},"process":{}}`, "process.args: missing"},
		{`{"ociVersion":"1.0.2","windows":{"layerFolders":[]}}`, "windows"},
		{replace(`"cwd":"/"`, `"cwd":"/","env":["x"]`), "process.env[0]"},
		{replace(`"cwd":"/"`, `"cwd":"/\u0000"`), "process.cwd"},
		{replace(`"cwd":"/"`, `"cwd":"/","oomScoreAdj":2000`), "process.oomScoreAdj"},
		{replace(`"cwd":"/"`, `"cwd":"/","rlimits":[{"type":"RLIMIT_CORE","soft":2,"hard":1}]`), "process.rlimits[0]"},
		{with(`"mounts":[{"destination":"/"}]`), "mounts[0].destination"},
		{with(`"mounts":[{"destination":"/x/../proc/self"}]`), "mounts[0].destination"},
		{with(`"hostname":"x"`), "hostname"},
		{with(`"linux":{"namespaces":[{"type":"galaxy"}]}`), "linux.namespaces[0].type"},
		{with(`"linux":{"namespaces":[{"type":"user"}]}`), "linux.uidMappings"},
		{with(`"linux":{"namespaces":[{"type":"user"}],"uidMappings":[{"size":4294967295,"hostID":9}]}`), "linux.uidMappings[0]"},
		{with(`"linux":{"devices":[{"path":"/dev/x","type":"q"}]}`), "linux.devices[0].type"},
		{with(`"linux":{"devices":[{"path":"/dev/x","type":"c","major":4096,"minor":1}]}`), "linux.devices[0]: device number 4096:1 is out of range"},
		{with(`"linux":{"devices":[{"path":"/dev/x","type":"c","major":1,"minor":1048576}]}`), "linux.devices[0]: device number 1:1048576 is out of range"},
		{with(`"linux":{"timeOffsets":{"boottime":{"secs":1}}}`), "linux.timeOffsets"},
		{with(`"linux":{"resources":{"unified":{"../x":"1"}}}`), "linux.resources.unified"},
		{with(`"linux":{"resources":{"hugepageLimits":[{"pageSize":"../2MB"}]}}`), "linux.resources.hugepageLimits[0].pageSize"},
		{with(`"linux":{"resources":{"hugepageLimits":[{"pageSize":"2KMB"}]}}`), "linux.resources.hugepageLimits[0].pageSize"},
		{with(`"linux":{"resources":{"rdma":{"mlx":{}}}}`), `linux.resources.rdma["mlx"]`},
		{with(`"linux":{"resources":{"cpu":{"quota":5,"burst":6}}}`), "linux.resources.cpu.burst"},
		{with(`"linux":{"resources":{"blockIO":{"weightDevice":[{"major":8}]}}}`), "linux.resources.blockIO.weightDevice[0]"},
		{with(`"linux":{"netDevices":{"eth0":{}}}`), "linux.netDevices"},
		{with(`"linux":{"namespaces":[{"type":"network"}],"netDevices":{"eth0":{"name":"a/b"}}}`), `linux.netDevices["eth0"].name`},
		{with(`"linux":{"namespaces":[{"type":"network"}],"netDevices":{"eth0":{"name":"a%d%d"}}}`), `linux.netDevices["eth0"].name`},
		{with(`"linux":{"intelRdt":{"closID":"../x"}}`), "linux.intelRdt.closID"},
		{with(`"linux":{"intelRdt":{"memBwSchema":"L3:0=f"}}`), "linux.intelRdt.memBwSchema"},
		{with(`"linux":{"intelRdt":{"schemata":["L3:0=f\nMB:0=1"]}}`), "linux.intelRdt"},
		{with(`"hooks":{"poststop":[{"path":"x"}]}`), "hooks.poststop[0].path"},
	} {
		if _, err := Parse([]byte(c.json)); err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v; want an error about %s", c.json, err, c.says)
		}
	}
}

func replace(old, new string) string { return strings.Replace(minimal, old, new, 1) }
func with(field string) string       { return strings.TrimSuffix(minimal, "}") + "," + field + "}" }

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("an empty bundle: %v", err)
	}
	path := filepath.Join(dir, ConfigName)
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(minimal), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := Load(dir); err != nil || b.Dir != dir || string(b.Raw) != minimal {
		t.Errorf("%+v, %v", b, err)
	}
}

func TestSysctl(t *testing.T) {
	all := &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}}}
	for name, ok := range map[string]bool{
		"net.ipv4.ip_forward": true, "net/ipv4/conf/eth0.1/forwarding": true, "net.ipv4.conf.eth0/1.forwarding": true,
		"kernel.msgmax": true, "fs.mqueue.msg_max": true, "kernel.domainname": true,
		"kernel.core_pattern": false, "vm.swappiness": false, "net.../x": false, "../x": false, "net": false, "": false, "user.max_user_namespaces": false,
	} {
		s := &specs.Spec{Linux: &specs.Linux{Namespaces: all.Namespaces, Sysctl: map[string]string{name: "1"}}}
		if err := checkSysctl(s); (err == nil) != ok {
			t.Errorf("%q: %v; want accepted %v", name, err, ok)
		}
	}
	if got := SysctlPath("net.ipv4.conf.eth0/1.x"); got != "net/ipv4/conf/eth0.1/x" {
		t.Errorf("path %q", got)
	}
}

// FuzzParse must neither panic nor accept what contradicts itself in the ways that
// later steps rely on.
func FuzzParse(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte(with(`"mounts":[{"destination":"/a","type":"bind","options":["rbind"]}],"linux":{"namespaces":[{"type":"mount"}],"sysctl":{"net.x":"1"},"maskedPaths":["/x"]}`)))
	f.Add([]byte(with(`"linux":{"namespaces":[{"type":"user"}],"uidMappings":[{"size":1}],"gidMappings":[{"size":1}]}`)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := Parse(raw)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("more than one line: %q", err)
			}
			return
		}
		if s.Linux == nil || s.Process == nil {
			t.Errorf("accepted without what is needed: %s", raw)
		}
		if s.Root != nil && s.Root.Path != "" && !filepath.IsAbs(s.Root.Path) && !filepath.IsLocal(s.Root.Path) {
			t.Errorf("accepted a root that leaves the bundle: %q", s.Root.Path)
		}
		if _, err := json.Marshal(s); err != nil {
			t.Errorf("cannot be written again: %v", err)
		}
	})
}

// FuzzParseResources must not accept what becomes a path or a line of a file of the
// kernel and is none.
func FuzzParseResources(f *testing.F) {
	f.Add([]byte(`{"memory":{"limit":-1},"unified":{"io.max":"8:0 rbps=1"},"hugepageLimits":[{"pageSize":"2MB","limit":1}],"rdma":{"mlx5_1":{"hcaHandles":3}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := ParseResources(raw)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("more than one line: %q", err)
			}
			return
		}
		for name := range r.Unified {
			if strings.Contains(name, "/") {
				t.Errorf("accepted %q", name)
			}
		}
		for _, l := range r.HugepageLimits {
			if strings.ContainsAny(l.Pagesize, "/. ") {
				t.Errorf("accepted %q", l.Pagesize)
			}
		}
	})
}

// FuzzParseList must give what was written, in order of the list.
func FuzzParseList(f *testing.F) {
	f.Add("0-3,7")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := ParseList(text)
		if err == nil && (len(list) == 0 || len(list) > maxListed+1 || slices.Min(list) < 0 || slices.Max(list) > maxListed) {
			t.Errorf("%q: %v", text, list)
		}
	})
}

func FuzzParseProcess(f *testing.F) {
	f.Add([]byte(`{"args":["x"],"cwd":"/"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if p, err := ParseProcess(raw); err == nil && (len(p.Args) == 0 || !filepath.IsAbs(p.Cwd)) {
			t.Errorf("accepted %s", raw)
		}
	})
}
