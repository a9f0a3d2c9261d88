package dropin

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestDocker has dockerd run its containers with berth-oci.
func TestDocker(t *testing.T) {
	e := newDocker(t, "true")
	e.play(append(scenarios(),
		scenario{"Build", func(e *engine) { build(e, "--force-rm") }},
		scenario{"Network", bridge},
		scenario{"Init", func(e *engine) { e.shell(143, "", "kill -15 $$", "--init") }},
	))
	e.nothing()
}

// bridge: the default network, whose interface dockerd's prestart hook brings.
func bridge(e *engine) {
	name := e.name()
	e.want(0, "", "container", "run", "--detach", "--name", name, e.image, "sleep", "1000")
	for _, network := range []string{"bridge", "container:" + name} {
		e.want(0, "eth0", "container", "run", "--rm", "--network", network, e.image, "ip", "addr", "show", "eth0")
	}
	e.destroy(name)
}

// TestDockerUserns has dockerd map its containers' users (userns-remap). The range
// of ids stands in files that only the daemon sees.
func TestDockerUserns(t *testing.T) {
	if _, err := os.Stat("/etc/subuid"); err != nil {
		t.Skip("needs a file /etc/subuid to put another one over")
	}
	e := newDocker(t, `echo daemon:200000:65536 > $1/ids && mount --bind $1/ids /etc/subuid && mount --bind $1/ids /etc/subgid`, "--userns-remap", "daemon")
	e.play([]scenario{
		{"Map", func(e *engine) {
			e.shell(0, `^0 200000 65536 0 0\n$`, "touch /file; echo $(cat /proc/self/uid_map) $(stat -c '%u %g' /file)")
			e.shell(0, `^0 0 4294967295\n$`, "echo $(cat /proc/self/uid_map)", "--userns", "host")
		}},
		{"Exit", exit}, {"Terminal", terminals}, {"Exec", execs}, {"Copy", copies}, {"Mounts", mounts}, {"Limits", limits}, {"Build", func(e *engine) { build(e, "--force-rm") }},
	})
	e.nothing()
}

// newDocker starts a dockerd in an engine's namespaces, with the image.
func newDocker(t *testing.T, setup string, flags ...string) *engine {
	t.Helper()
	const program, client = "/usr/sbin/dockerd", "/usr/bin/docker" // Debian's: a newer client may come first in PATH
	e := newEngine(t, setup, program, client, "containerd", "containerd-shim-runc-v2")
	e.outside = slices.Contains(flags, "--bridge=none")
	socket := "unix://" + filepath.Join(e.dir, "sock")
	config := filepath.Join(e.dir, "daemon.json")
	must(t, os.WriteFile(config, []byte(`{"runtimes": {"berth": {"path": "`+e.runtime+`"}}, "default-runtime": "berth"}`), 0o644))
	e.cli = []string{client, "-H", socket}
	e.flags = []string{"--network", "none"} // it takes dockerd longer than all the rest
	e.group = "^[0-9a-f]{64}$"
	e.state = filepath.Join(e.dir, "exec", "runtime-*", "*", "*")
	e.daemon("version", append([]string{program, "--config-file", config, "--data-root", filepath.Join(e.dir, "data"), "--exec-root", filepath.Join(e.dir, "exec"),
		"--host", socket, "--pidfile", filepath.Join(e.dir, "pid"), "--cgroup-parent", "/" + e.parent}, flags...)...)
	t.Cleanup(func() {
		if ids := e.do("ps", "--all", "--quiet"); ids.out != "" {
			t.Errorf("containers left: %s", e.do("ps", "--all").out)
			e.do(append([]string{"rm", "--force"}, strings.Fields(ids.out)...)...)
		}
	})
	e.want(0, "", "load", "--input", archive(t, e.dir))
	return e
}
