package dropin

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestPodman has podman and its conmon run containers with berth-oci.
func TestPodman(t *testing.T) {
	e := newPodman(t)
	e.play(append(scenarios(),
		scenario{"Build", func(e *engine) { build(e, "--isolation", "oci", "--network", "none") }},
		scenario{"Map", func(e *engine) {
			e.shell(0, `^0 200000 5000 0 0\n$`, "touch /file; echo $(cat /proc/self/uid_map) $(stat -c '%u %g' /file)",
				"--uidmap", "0:200000:5000", "--gidmap", "0:200000:5000")
		}},
		scenario{"Overlay", func(e *engine) {
			dir := filepath.Join(e.dir, "below")
			must(e.t, os.MkdirAll(dir, 0o755))
			e.shell(0, "^/v/new\n$", "touch /v/new && ls /v/new", "--volume", dir+":/v:O")
		}},
		scenario{"Timeout", func(e *engine) { e.want(255, "", "run", "--rm", "--timeout", "1", e.image, "sleep", "1000") }},
		scenario{"Pod", pod},
	))
	e.nothing()
}

// pod: containers that share the namespaces of another one.
func pod(e *engine) {
	e.want(0, "", "pod", "create", "--name", "pod", "--infra-image", e.image, "--infra-command", "/bin/sleep 1001",
		"--share", "pid,ipc,uts,net", "--network", "none", "--hostname", "sharedname", "--cgroup-parent", "/"+e.parent)
	// Flags of the engine's other runs belong to the pod.
	args := []string{"--rm", "--pod", "pod", e.image, "sh", "-c", "ps; hostname"}
	e.want(0, "(?s)sleep 1001.*sharedname", append([]string{"container", "run"}, args...)...)
	e.want(0, "", "container", "run", "--detach", "--pod", "pod", "--name", "member", e.image, "sleep", "1002")
	e.want(0, "Running", "pod", "ps")
	e.want(0, "", "pod", "stop", "--time", "0", "pod")
	e.want(0, "", "pod", "rm", "--force", "pod")
}

// newPodman prepares podman in an engine's namespaces, with the image.
func newPodman(t *testing.T) *engine {
	t.Helper()
	e := newEngine(t, "true", "podman", "conmon")
	// Podman raises its own limits and hands them on, which takes a privilege that
	// root does not have everywhere.
	config := filepath.Join(e.dir, "containers.conf")
	must(t, os.WriteFile(config, []byte("[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n"), 0o644))
	e.env = []string{"CONTAINERS_CONF=" + config}
	e.cli = []string{"podman", "--runtime", e.runtime, "--root", filepath.Join(e.dir, "root"), "--runroot", filepath.Join(e.dir, "run"),
		"--tmpdir", filepath.Join(e.dir, "tmp"), "--cgroup-manager", "cgroupfs", "--events-backend", "file"}
	e.flags = []string{"--network", "none", "--cgroup-parent", "/" + e.parent}
	e.group = "^libpod-[0-9a-f]{64}$"
	e.state = fmt.Sprintf("/proc/%d/root/run/berth-oci/*", e.cell)
	t.Cleanup(func() {
		if ids := e.do("ps", "--all", "--quiet"); ids.out != "" {
			t.Errorf("containers left: %s", e.do("ps", "--all").out)
			e.do("rm", "--force", "--all", "--time", "0")
		}
	})
	e.want(0, "", "load", "--input", archive(t, e.dir))
	return e
}
