package oci_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci"
)

// TestConfigTakesEffect asks for many things at once and looks at them from inside.
func TestConfigTakesEffect(t *testing.T) {
	adj, umask := 500, uint32(0o027)
	b := newBox(t, strings.Join([]string{
		"hostname", "cat /proc/sys/kernel/domainname", "umask", "pwd", "id -G", "ulimit -n", "cat /proc/self/oom_score_adj",
		"cat /proc/sys/net/ipv4/ip_default_ttl", "uname -m 2>/dev/null || busybox uname -m", "stat -c '%F %t:%T %a' /dev/null /dev/extra",
		"cat /ro/file; echo x > /ro/file", "echo x > /root-is-ro", "cat /proc/1/cmdline | head -c 2; echo", "readlink /dev/ptmx", "readlink /dev/fd",
		"ls /proc/sys/fs/binfmt_misc 2>/dev/null | wc -l", "cat /data/in/file", "stat -c %a /scratch", "ls /scratch",
	}, "; "))
	host := t.TempDir()
	must(t, os.WriteFile(filepath.Join(host, "file"), []byte("shared\n"), 0o644))
	must(t, os.Mkdir(filepath.Join(b.rootfs(), "scratch"), 0o750))
	must(t, os.WriteFile(filepath.Join(b.rootfs(), "scratch/copied"), nil, 0o644))
	s := b.spec
	s.Domainname = "example.org"
	s.Process.Cwd = "/made/for/it"
	s.Process.User = specs.User{Umask: &umask, AdditionalGids: []uint32{5, 10}}
	s.Process.OOMScoreAdj = &adj
	s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 77, Hard: 88}}
	s.Linux.Sysctl = map[string]string{"net.ipv4.ip_default_ttl": "42"}
	s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
	mode := os.FileMode(0o640)
	s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/extra", Type: "c", Major: 1, Minor: 5, FileMode: &mode}}
	s.Linux.RootfsPropagation = "private"
	s.Mounts = append(s.Mounts,
		specs.Mount{Destination: "/ro", Type: "bind", Source: host, Options: []string{"rbind", "ro"}},
		specs.Mount{Destination: "/data", Type: "tmpfs", Source: "tmpfs", Options: []string{"ro", "size=64k"}},
		specs.Mount{Destination: "/data/in", Type: "bind", Source: host, Options: []string{"bind"}},
		specs.Mount{Destination: "/scratch", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}},
	)
	b.spec.Root.Readonly = true
	out := b.run()
	want := strings.Join([]string{
		"berth", "example.org", "0027", "/made/for/it", "0 5 10", "77", "500", "42", "i686",
		"character special file 1:3 666", "character special file 1:5 640", "shared", "sh", "pts/ptmx", "/proc/self/fd",
		"0", "shared", "750", "copied", "",
	}, "\n")
	if out.stdout != want {
		t.Errorf("got\n%s\nwant\n%s\nstderr %s", out.stdout, want, out.stderr)
	}
	if n := strings.Count(out.stderr, "Read-only file system"); n != 2 {
		t.Errorf("writes to read-only places: %s", out.stderr)
	}
	b.nothing()
}

// TestOverlayRoot starts from layers, with and without a user namespace, and finds
// on disk the ids of the container.
func TestOverlayRoot(t *testing.T) {
	for _, user := range []bool{false, true} {
		b := newBox(t, "id -u; echo x > /new; ls -ln /new /etc/low | while read a b c d e; do echo $a $c $d; done; rm /etc/low; mkdir /dir")
		layers := t.TempDir()
		for _, d := range []string{"low/etc", "inst/upper", "inst/work"} {
			must(t, os.MkdirAll(filepath.Join(layers, d), 0o755))
		}
		must(t, os.WriteFile(filepath.Join(layers, "low/etc/low"), nil, 0o644))
		base := filepath.Join(b.bundle, "layer:with,odd\\name")
		must(t, os.Rename(b.rootfs(), base))
		escape := strings.NewReplacer(`\`, `\\`, `:`, `\:`)
		options := []string{
			"lowerdir=" + escape.Replace(base) + ":" + filepath.Join(layers, "low"),
			"upperdir=" + filepath.Join(layers, "inst/upper"), "workdir=" + filepath.Join(layers, "inst/work"),
		}
		if user {
			b.userNamespaceOf()
			options = append(options, "idmap")
		}
		b.spec.Root = nil
		b.spec.Mounts = append([]specs.Mount{{Destination: "/", Type: "overlay", Source: "overlay", Options: options}}, b.spec.Mounts...)
		out := b.run()
		if want := "0\n-rw-r--r-- 0 0\n-rw-r--r-- 0 0\n"; out.stdout != want {
			t.Errorf("user namespace %v: %+v; want %q", user, out, want)
		}
		for _, name := range []string{"new", "dir", "etc/low"} {
			var st unix.Stat_t
			if err := unix.Lstat(filepath.Join(layers, "inst/upper", name), &st); err != nil || st.Uid != 0 {
				t.Errorf("user namespace %v: upper/%s: %v, uid %d", user, name, err, st.Uid)
			}
			if name == "etc/low" && (st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0) {
				t.Errorf("the removed file has no whiteout")
			}
		}
		b.nothing()
	}
}

// TestOverlayOfManyLayers has more layers than one option of older kernels takes.
func TestOverlayOfManyLayers(t *testing.T) {
	for _, user := range []bool{false, true} {
		b := newBox(t, "echo /layer* | wc -w; echo x > /new")
		layers := t.TempDir()
		must(t, os.MkdirAll(filepath.Join(layers, "inst/upper"), 0o755))
		must(t, os.MkdirAll(filepath.Join(layers, "inst/work"), 0o755))
		lower := []string{filepath.Join(b.bundle, "base")}
		must(t, os.Rename(b.rootfs(), lower[0]))
		for i := range 60 {
			dir := filepath.Join(layers, strconv.Itoa(i))
			must(t, os.MkdirAll(dir, 0o755))
			must(t, os.WriteFile(filepath.Join(dir, "layer"+strconv.Itoa(i)), nil, 0o644))
			lower = append(lower, dir)
		}
		options := []string{
			"lowerdir=" + strings.Join(lower, ":"),
			"upperdir=" + filepath.Join(layers, "inst/upper"), "workdir=" + filepath.Join(layers, "inst/work"),
		}
		if user {
			b.userNamespaceOf()
			options = append(options, "idmap")
		}
		b.spec.Root = nil
		b.spec.Mounts = append([]specs.Mount{{Destination: "/", Type: "overlay", Source: "overlay", Options: options}}, b.spec.Mounts...)
		if out := b.run(); out.stdout != "60\n" {
			t.Errorf("user namespace %v: %+v", user, out)
		}
		b.nothing()
	}
}

// TestJoinNamespaces puts a container into namespaces of another one.
func TestJoinNamespaces(t *testing.T) {
	for _, user := range []bool{false, true} {
		first := newBox(t, "echo 99 > /proc/sys/net/ipv4/ip_default_ttl; sleep 100")
		first.spec.Linux.ReadonlyPaths = nil
		if user {
			first.userNamespace()
		}
		first.start()
		var pid string
		out := first.oci("ps", "--format", "json", first.id)
		pid = strings.Trim(strings.SplitN(strings.TrimSpace(out.stdout), "\n", 3)[1], " ,\n")

		second := newBox(t, "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; readlink /proc/self/ns/pid")
		second.id += "b"
		second.spec.Linux.CgroupsPath = "/" + second.id
		for i, ns := range second.spec.Linux.Namespaces {
			file := map[specs.LinuxNamespaceType]string{specs.NetworkNamespace: "net", specs.IPCNamespace: "ipc", specs.PIDNamespace: "pid"}[ns.Type]
			if file != "" {
				second.spec.Linux.Namespaces[i].Path = "/proc/" + pid + "/ns/" + file
			}
		}
		if user {
			second.userNamespace()
			ns := second.spec.Linux.Namespaces
			ns[len(ns)-1].Path = "/proc/" + pid + "/ns/user"
			second.spec.Linux.UIDMappings, second.spec.Linux.GIDMappings = nil, nil
		}
		want := ""
		for _, file := range []string{"net", "ipc", "pid"} {
			link, err := os.Readlink("/proc/" + pid + "/ns/" + file)
			must(t, err)
			want += link + "\n"
		}
		if out := second.run(); out.stdout != want {
			t.Errorf("user namespace %v: %+v; want %q", user, out, want)
		}
		second.oci("delete", "--force", second.id)
		first.oci("delete", "--force", first.id)
		first.nothing()
		second.nothing()
	}
}

func TestTimeNamespace(t *testing.T) {
	b := newBox(t, "head -n 1 /proc/uptime")
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	b.spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 100000000}, "monotonic": {Secs: 5}}
	if out := b.run(); out.code != 0 || len(strings.SplitN(out.stdout, ".", 2)[0]) != 9 {
		t.Errorf("%+v", out)
	}
}

// TestTerminal runs with a terminal of the container's own.
func TestTerminal(t *testing.T) {
	b := newBox(t, "tty; stat -c %t:%T /dev/console; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo terminal; exit 4")
	b.spec.Process.Terminal = true
	must(t, os.Symlink("busybox", filepath.Join(b.rootfs(), "bin/tty")))
	if out := b.run(); out.code != 4 || out.stdout != "/dev/pts/0\r\n88:0\r\nterminal\r\n" {
		t.Errorf("%+v", out)
	}
	b.nothing()
	b.write()
	if out := b.oci("create", "--bundle", b.bundle, b.id); out.code != 1 || !strings.Contains(out.stderr, "--console-socket") {
		t.Errorf("create without a console socket: %+v", out)
	}
	b.nothing()
}

// TestBadInput gives each its line, and leaves nothing.
func TestBadInput(t *testing.T) {
	b := newBox(t, "true")
	base := *b.spec
	for _, c := range []struct {
		name string
		edit func(s *specs.Spec)
		says string
	}{
		{"version", func(s *specs.Spec) { s.Version = "2.0.0" }, `ociVersion: "2.0.0" is not supported`},
		{"no rootfs", func(s *specs.Spec) { s.Root = &specs.Root{Path: "nowhere"} }, "root.path"},
		{"rootfs leaves the bundle", func(s *specs.Spec) { s.Root = &specs.Root{Path: "../../etc"} }, "root.path: \"../../etc\" leaves the bundle"},
		{"rootfs a file", func(s *specs.Spec) { s.Root = &specs.Root{Path: "config.json"} }, "not a directory"},
		{"no args", func(s *specs.Spec) { s.Process.Args = nil }, "process.args: missing"},
		{"relative cwd", func(s *specs.Spec) { s.Process.Cwd = "x" }, "process.cwd"},
		{"host sysctl", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.core_pattern": "|/x"} }, "linux.sysctl: \"kernel.core_pattern\""},
		{"sysctl out of /proc/sys", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net/../kernel/x": "1"} }, "linux.sysctl"},
		{"twice a namespace", func(s *specs.Spec) { s.Linux.Namespaces = append(s.Linux.Namespaces, s.Linux.Namespaces[0]) }, "stands twice"},
		{"namespace of another type", func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/proc/self/ns/net" }, "linux.namespaces[0].path"},
		{"missing bind source", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/no/such"})
		}, "mounts[7] (/x): source /no/such: no such file"},
		{"unknown filesystem", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "nofs"})
		}, "mounts[7] (/x)"},
		{"unknown option", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "tmpfs", Options: []string{"color=red"}})
		}, "color"},
		{"unknown rlimit", func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X"}} }, "process.rlimits[0].type"},
		{"seccomp action", func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: "X"} }, "linux.seccomp: defaultAction"},
		{"mappings without a namespace", func(s *specs.Spec) { s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}} }, "linux.uidMappings"},
		{"unknown user", func(s *specs.Spec) { s.Process.User.Username = "nobody-knows" }, "no such user"},
		{"user id overflow", func(s *specs.Spec) { s.Process.User.Username = "4294967296" }, "process.user"},
		{"hostname too long", func(s *specs.Spec) { s.Hostname = strings.Repeat("x", 65) }, "hostname"},
		{"cgroup leaves", func(s *specs.Spec) { s.Linux.CgroupsPath = "/a/../../b" }, "linux.cgroupsPath"},
		{"systemd cgroup", func(s *specs.Spec) { s.Linux.CgroupsPath = "system.slice:berth:x" }, "linux.cgroupsPath"},
		{"swappiness", func(s *specs.Spec) {
			n := uint64(101)
			s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Swappiness: &n}}
		}, "swappiness"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, process, linux := base, *base.Process, *base.Linux
			linux.Namespaces = append([]specs.LinuxNamespace(nil), linux.Namespaces...)
			s.Process, s.Linux = &process, &linux
			s.Mounts = append([]specs.Mount(nil), s.Mounts...)
			c.edit(&s)
			b.spec = &s
			out := b.run()
			if out.code != 1 || !strings.Contains(out.stderr, c.says) || strings.Count(out.stderr, "\n") != 1 {
				t.Errorf("%d, %q; want 1 and one line with %q", out.code, out.stderr, c.says)
			}
			b.nothing()
		})
	}
	b.spec = &base
	b.write()
	for _, c := range []struct {
		name string
		args []string
		says string
	}{
		{"slash", []string{"run", "--bundle", b.bundle, "a/b"}, `invalid container id "a/b": only letters, digits, _ + - . are allowed (runtime.md: "If the ID provided is not unique`},
		{"empty id", []string{"run", "--bundle", b.bundle, ""}, "the container id is empty"},
		{"long id", []string{"run", "--bundle", b.bundle, strings.Repeat("x", 300)}, "the container id has 300 bytes"},
		{"dots", []string{"run", "--bundle", b.bundle, ".."}, "invalid container id"},
		{"no bundle", []string{"run", "--bundle", "/no/such", "x"}, "no such file"},
		{"no container", []string{"state", "nothing"}, "does not exist"},
		{"no command", []string{"frobnicate"}, "unknown command"},
		{"no id", []string{"start"}, "0 arguments"},
		{"option", []string{"run", "--frob", "x"}, "frob"},
		{"systemd", []string{"--systemd-cgroup", "run", "--bundle", b.bundle, "x"}, "--systemd-cgroup"},
		{"cgroup manager", []string{"--cgroup-manager", "frob", "run", "x"}, "cgroup-manager"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if out := b.oci(c.args...); out.code != 1 || !strings.Contains(out.stderr, c.says) || strings.Count(out.stderr, "\n") != 1 {
				t.Errorf("%+v; want one line with %q", out, c.says)
			}
		})
	}
	b.nothing()
}

// TestBadConfig finds something else than a config.json in its place.
func TestBadConfig(t *testing.T) {
	b := newBox(t, "true")
	path := filepath.Join(b.bundle, "config.json")
	write := func(text string) func() error {
		return func() error { return os.WriteFile(path, []byte(text), 0o600) }
	}
	for _, c := range []struct {
		name string
		make func() error
		says string
	}{
		{"missing", func() error { return nil }, `config.json: no such file; is the bundle directory right? (--bundle) (bundle.md: "This REQUIRED file MUST`},
		{"empty", write(""), "unexpected end of JSON"},
		{"cut off", write(`{"ociVersion": "1.2.0", "process": {`), "config.json: byte 36"},
		{"not an object", write(`[1]`), "config.json: "},
		{"wrong type", write(`{"ociVersion": "1.2.0", "process": {"args": "sh"}}`), "config.json: process.args: a JSON string does not fit"},
		{"number too large", write(`{"ociVersion": "1.2.0", "process": {"user": {"uid": 4294967296}}}`), "config.json: process.user.uid: a JSON number"},
		{"oversized", write(strings.Repeat(" ", 5<<20)), "5242880 bytes, more than 4194304 are refused"},
		{"deep", write(strings.Repeat("[", 100000)), "config.json: "},
		{"a directory", func() error { return os.Mkdir(path, 0o700) }, "not a regular file"},
		{"a named pipe", func() error { return unix.Mkfifo(path, 0o600) }, "not a regular file"},
		{"a device", func() error { return os.Symlink("/dev/zero", path) }, "not a regular file"},
		{"a link to nowhere", func() error { return os.Symlink("nowhere", path) }, "no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			must(t, c.make())
			for _, verb := range []string{"create", "run"} {
				out := b.oci(verb, "--bundle", b.bundle, b.id)
				if out.code != 1 || !strings.Contains(out.stderr, c.says) || strings.Count(out.stderr, "\n") != 1 {
					t.Errorf("%s: %+v; want one line with %q", verb, out, c.says)
				}
			}
			b.nothing()
			must(t, os.RemoveAll(path))
		})
	}
}

// TestWrongState asks for what the container's state forbids, each with its exit status
// and line, and changes nothing by it.
func TestWrongState(t *testing.T) {
	b := newBox(t, "sleep 100")
	refused := func(state, says string, args ...string) {
		t.Helper()
		code := 1
		if args[0] == "exec" {
			code = 255
		}
		if out := b.oci(args...); out.code != code || !strings.Contains(out.stderr, says) || strings.Count(out.stderr, "\n") != 1 {
			t.Errorf("%v of a %s container: %+v; want one line with %q", args, state, out, says)
		}
	}
	for _, verb := range []string{"start", "state", "kill", "delete", "pause", "resume", "ps", "events", "update"} {
		refused("missing", "container does not exist", verb, b.id)
	}
	refused("missing", "container does not exist", "exec", b.id, "true")
	b.write()
	if out := b.oci("create", "--bundle", b.bundle, b.id); out.code != 0 {
		t.Fatalf("%+v", out)
	}
	refused("created", `container already exists (runtime.md: "If the ID provided is not unique`, "create", "--bundle", b.bundle, b.id)
	refused("created", "container already exists", "run", "--bundle", b.bundle, b.id)
	if out := b.oci("start", b.id); out.code != 0 {
		t.Fatalf("%+v", out)
	}
	refused("running", `container is not in the created state but running (runtime.md: "Attempting to start`, "start", b.id)
	refused("running", `container is still running; stop it first, or delete with --force (runtime.md: "Attempting to delete`, "delete", b.id)
	refused("running", "container already exists", "create", "--bundle", b.bundle, b.id)
	if s := b.status(); s != "running" {
		t.Errorf("the container is %s", s)
	}
	if out := b.oci("kill", b.id, "KILL"); out.code != 0 {
		t.Fatalf("%+v", out)
	}
	eventually(t, "its end", func() bool { return b.status() == "stopped" })
	refused("stopped", `container not running (runtime.md: "Attempting to send a signal`, "kill", b.id, "TERM")
	refused("stopped", "container is not in the created state but stopped", "start", b.id)
	for _, verb := range []string{"pause", "resume"} {
		refused("stopped", "container not running", verb, b.id)
	}
	refused("stopped", "container not running", "exec", b.id, "true")
	refused("stopped", "container not running", "update", "--pids-limit", "5", b.id)
	refused("stopped", "container already exists", "create", "--bundle", b.bundle, b.id)
	if out := b.oci("delete", b.id); out.code != 0 {
		t.Errorf("%+v", out)
	}
	b.nothing()
}

// TestBadProcess hands exec and update what is no process and no limits.
func TestBadProcess(t *testing.T) {
	b := newBox(t, "sleep 100")
	b.start()
	file := filepath.Join(t.TempDir(), "file.json")
	for text, says := range map[string]string{
		`{`:                          "byte 1",
		`{"args":[],"cwd":"/"}`:      `process.args: missing (config.md: "at least one entry is REQUIRED")`,
		`{"args":["true"]}`:          "process.cwd: missing",
		`{"args":["t"],"cwd":"x"}`:   `process.cwd: "x" must be an absolute path (config.md: "This value MUST be an absolute path")`,
		strings.Repeat(" ", 4<<20+1): "more than 4194304 bytes are refused",
	} {
		must(t, os.WriteFile(file, []byte(text), 0o600))
		if out := b.oci("exec", "--process", file, b.id); out.code != 255 || !strings.Contains(out.stderr, says) || strings.Count(out.stderr, "\n") != 1 {
			t.Errorf("process %.40q: %+v; want one line with %q", text, out, says)
		}
	}
	for text, says := range map[string]string{
		`[`:                                  "byte 1",
		`{"memory":{"limit":"x"}}`:           "memory.limit: a JSON string does not fit",
		`{"memory":{"swappiness":101}}`:      "linux.resources.memory.swappiness",
		`{"unified":{"../cgroup.procs":""}}`: "linux.resources.unified",
		strings.Repeat(" ", 4<<20+1):         "more than 4194304 bytes are refused",
	} {
		must(t, os.WriteFile(file, []byte(text), 0o600))
		if out := b.oci("update", "--resources", file, b.id); out.code != 1 || !strings.Contains(out.stderr, says) || strings.Count(out.stderr, "\n") != 1 {
			t.Errorf("resources %.40q: %+v; want one line with %q", text, out, says)
		}
	}
	if out := b.oci("exec", "--process", "/dev/zero", b.id); out.code != 255 || !strings.Contains(out.stderr, "more than 4194304 bytes") {
		t.Errorf("endless: %+v", out)
	}
	if s := b.status(); s != "running" {
		t.Errorf("the container is %s", s)
	}
}

// TestFullCgroup starts where a cgroup above the container's has nothing left to give.
func TestFullCgroup(t *testing.T) {
	for _, c := range []struct{ controller, file, limit string }{
		{"memory", "memory.limit_in_bytes", "102400"}, {"pids", "pids.max", "0"},
	} {
		b := newBox(t, "true")
		dir := filepath.Join("/sys/fs/cgroup", c.controller, b.id)
		unified := false
		if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
			unified = true
			must(t, os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+"+c.controller), 0))
			dir, c.file = filepath.Join("/sys/fs/cgroup", b.id), strings.Replace(c.file, "limit_in_bytes", "max", 1)
		}
		must(t, os.Mkdir(dir, 0o755))
		must(t, os.WriteFile(filepath.Join(dir, c.file), []byte(c.limit), 0))
		b.spec.Linux.CgroupsPath = "/" + b.id + "/inner"
		out := b.run()
		switch {
		case c.controller == "memory" && out.code == 128+int(unix.SIGKILL): // the workload was begun
		case c.controller == "pids" && !unified && out.code == 0: // moved into it, which v1 allows beyond the limit
		case out.code != 1 || !strings.Contains(out.stderr, "linux.resources."+c.controller+".limit: ") || strings.Count(out.stderr, "\n") != 1:
			t.Errorf("%+v; want one line about linux.resources.%s.limit", out, c.controller)
		}
		if left, _ := filepath.Glob(dir + "/inner"); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		if !unified { // the other hierarchies got a directory for the way to the container's
			dirs, _ := filepath.Glob("/sys/fs/cgroup/*/" + b.id)
			for _, d := range dirs {
				must(t, os.Remove(d))
			}
		} else {
			must(t, os.Remove(dir))
		}
		b.nothing()
	}
}

// TestJSONLog writes the error where engines look for it.
func TestJSONLog(t *testing.T) {
	b := newBox(t, "true")
	log := filepath.Join(t.TempDir(), "log")
	b.oci("--log", log, "--log-format", "json", "start", "nothing")
	raw, err := os.ReadFile(log)
	if err != nil || !strings.Contains(string(raw), `"level":"error","msg":"nothing: container does not exist"`) {
		t.Errorf("%s, %v", raw, err)
	}
}

// TestReapingInit asks for the tiny init: it reaps orphans, passes signals on and
// returns the workload's status.
func TestReapingInit(t *testing.T) {
	b := newBox(t, "[ $$ != 1 ] || exit 9; (sh -c 'sleep 0.05 & exec true'); sleep 0.3; ps | grep -c '\\[sleep\\]'; trap 'exit 5' TERM; kill -TERM 1; while :; do sleep 0.05; done")
	b.spec.Annotations = map[string]string{oci.InitAnnotation: oci.InitReap}
	b.spec.Process.User.Username = "bob"
	if out := b.run(); out.code != 5 || out.stdout != "0\n" {
		t.Errorf("%+v", out)
	}
	b.nothing()
}

// TestNoPivot changes the root without pivot_root, with and without a mount
// namespace.
func TestNoPivot(t *testing.T) {
	b := newBox(t, "ls -d /bin /etc; ls /run 2>/dev/null; pwd")
	b.write()
	if out := b.oci("run", "--no-pivot", "--bundle", b.bundle, b.id); out.code != 0 || out.stdout != "/bin\n/etc\n/\n" {
		t.Errorf("--no-pivot: %+v", out)
	}
	b.spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.PIDNamespace}}
	b.spec.Hostname, b.spec.Mounts, b.spec.Linux.MaskedPaths, b.spec.Linux.ReadonlyPaths = "", nil, nil, nil
	b.spec.Process.Capabilities.Bounding = nil
	if out := b.run(); out.code != 0 || out.stdout != "/bin\n/etc\n/\n" {
		t.Errorf("without a mount namespace: %+v", out)
	}
	b.nothing()
}

// TestPreserveDescriptors passes one on, and no other.
func TestPreserveDescriptors(t *testing.T) {
	b := newBox(t, "cat <&3; ls /proc/self/fd | wc -l")
	b.write()
	file := filepath.Join(t.TempDir(), "in")
	must(t, os.WriteFile(file, []byte("passed on\n"), 0o600))
	in, err := os.Open(file)
	must(t, err)
	defer in.Close()
	cmd := exec.CommandContext(t.Context(), binary, "--root", b.root, "run", "--preserve-fds", "1", "--bundle", b.bundle, b.id)
	cmd.ExtraFiles = []*os.File{in, in}
	out, err := cmd.Output()
	if err != nil || string(out) != "passed on\n5\n" { // 0 to 3, and that of ls
		t.Errorf("%q, %v", out, err)
	}
	if out := b.oci("run", "--preserve-fds", "9", "--bundle", b.bundle, b.id); out.code != 1 || !strings.Contains(out.stderr, "is not open") {
		t.Errorf("descriptors that are not open: %+v", out)
	}
	b.nothing()
}

// TestTmpfsMode: a tmpfs has the mode asked for, else that of the directory it
// hides, else the kernel's default, as with runc.
func TestTmpfsMode(t *testing.T) {
	b := newBox(t, "stat -c %a /etc /copied /moded /fresh")
	must(t, os.Mkdir(filepath.Join(b.rootfs(), "copied"), 0o750))
	for dest, options := range map[string][]string{"/etc": nil, "/copied": {"tmpcopyup"}, "/moded": {"tmpcopyup", "mode=700"}, "/fresh": nil} {
		b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: dest, Type: "tmpfs", Source: "tmpfs", Options: options})
	}
	if out := b.run(); out.stdout != "755\n750\n700\n1777\n" {
		t.Errorf("%+v", out)
	}
}

// TestDeviceRenamed: in a user namespace, where nodes are those of the host, the
// container may know one by another name.
func TestDeviceRenamed(t *testing.T) {
	b := newBox(t, "echo text > /dev/other && stat -c %t:%T /dev/other")
	b.userNamespace()
	b.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/other", Type: "c", Major: 1, Minor: 3}}
	if out := b.run(); out.stdout != "1:3\n" {
		t.Errorf("%+v", out)
	}
}
