package dropin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/berthcloud/berth/internal/testenv"
)

// TestContainerd has containerd's shim run containers with berth-oci. Its own client
// is further from docker's than podman's is: it has scenarios of its own.
func TestContainerd(t *testing.T) {
	e := newContainerd(t)
	events := e.watch()
	e.play([]scenario{
		{"Exit", func(e *engine) {
			e.ctr(0, "^hello\n$", nil, "echo hello")
			e.ctr(7, "", nil, "exit 7")
			e.want(1, "executable file not found", "run", "--rm", e.image, e.name(), "nonesuch")
		}},
		{"Terminal", func(e *engine) {
			args := []string{"run", "--rm", "--tty", e.image, e.name(), "sh"}
			e.terminal(6, args, func(y *typist) {
				y.sees(`[#$] `)
				y.types("stty size", "30 100")
				y.types("tty; exit 6", "/dev/pts/0")
			})
		}},
		{"Task", task}, {"OutOfMemory", func(e *engine) {
			name := e.name()
			// Not before containerd has begun to listen for it, which it does after the start.
			e.want(0, "", "run", "--detach", "--memory-limit", "16777216", e.image, name,
				"sh", "-c", "until test -e /go; do sleep 0.05; done; exec tail -c 200m /dev/zero")
			e.want(0, "", "tasks", "exec", "--exec-id", "a", name, "touch", "/go")
			e.eventually(name+` +\d+ +STOPPED`, "tasks", "ls")
			e.want(0, "exit code 137", "tasks", "rm", name)
			e.want(0, "", "containers", "rm", name)
			e.t.Run("Event", func(t *testing.T) { events.sees(t, "/tasks/oom") })
		}},
		{"Options", options}, {"Namespaces", namespaces},
		{"Events", func(e *engine) {
			for _, topic := range []string{"create", "start", "exec-added", "exec-started", "exit", "paused", "resumed", "delete"} {
				events.sees(e.t, "/tasks/"+topic)
			}
		}},
	})
	e.nothing()
}

// ctr runs a line of shell in a fresh container.
func (e *engine) ctr(code int, pattern string, flags []string, line string) {
	e.t.Helper()
	e.once(code, pattern, flags, "sh", "-c", line)
}

// once runs a command in a fresh container. ctr loses the output of a container that
// has ended before ctr's own reader got to run: of 800 that said one word, eight at a
// time, runc's lost one. Such a run says nothing of the runtime and is made again.
func (e *engine) once(code int, pattern string, flags []string, argv ...string) {
	e.t.Helper()
	var r result
	var args []string
	for range 3 {
		args = slices.Concat([]string{"run", "--rm"}, flags, []string{e.image, e.name()}, argv)
		if r = e.do(args...); r.code != code || r.out != "" || pattern == "" {
			break
		}
	}
	e.check(r, code, pattern, args)
}

// task: what can be done to a container that runs.
func task(e *engine) {
	name := e.name()
	e.want(0, "", "run", "--detach", e.image, name, "sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.05; done")
	e.want(0, name+` +\d+ +RUNNING`, "tasks", "ls")
	e.want(0, `(?m)^\d+`, "tasks", "ps", name)
	var metrics struct {
		Pids   struct{ Current int }
		Memory struct{ Usage struct{ Usage, Limit uint64 } }
	}
	out := e.want(0, "", "tasks", "metrics", "--format", "json", name)
	if err := json.Unmarshal([]byte(out), &metrics); err != nil || metrics.Pids.Current == 0 || metrics.Memory.Usage.Usage == 0 {
		e.t.Errorf("metrics: %v: %s", err, out)
	}
	e.want(4, "^0\n$", "tasks", "exec", "--exec-id", "a", name, "sh", "-c", "id -u; exit 4")
	e.want(0, "uid=1000.bob.", "tasks", "exec", "--exec-id", "b", "--user", "bob", name, "id")
	e.want(1, "executable file not found", "tasks", "exec", "--exec-id", "c", name, "nonesuch")
	e.want(0, "", "tasks", "pause", name)
	e.want(0, name+` +\d+ +PAUSED`, "tasks", "ls")
	e.want(0, "", "tasks", "resume", name)
	e.want(0, "", "tasks", "kill", "--signal", "SIGTERM", name)
	e.eventually(name+` +\d+ +STOPPED`, "tasks", "ls")
	e.want(0, "exit code 3", "tasks", "rm", name)
	e.want(0, "", "containers", "rm", name)
}

func options(e *engine) {
	e.ctr(0, "^mounted\n$", []string{"--privileged"}, "mount -t tmpfs none /tmp && echo mounted")
	e.ctr(1, "Read-only file system", []string{"--read-only"}, "touch /file")
	e.ctr(0, "Seccomp:\t2", []string{"--seccomp"}, "grep Seccomp: /proc/self/status")
	e.ctr(0, "^ok\n$", []string{"--no-pivot"}, "echo ok")
	e.ctr(0, "^base.tar\n$", []string{"--mount", "type=bind,src=" + e.dir + ",dst=/v,options=rbind:ro"}, "cd /v && ls base.tar; ! touch /v/file 2> /dev/null")
	// Without cgroups, and with a root of the runtime's own.
	e.once(0, "^ok\n$", []string{"--cgroup", ""}, "echo", "ok")
}

// namespaces: of another container, as Kubernetes' pods share them.
func namespaces(e *engine) {
	name := e.name()
	e.want(0, "", "run", "--detach", e.image, name, "sleep", "1000")
	var pid string
	for line := range strings.SplitSeq(e.do("tasks", "ls").out, "\n") {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			pid = f[1]
		}
	}
	shared := []string{}
	for kind, file := range map[string]string{"pid": "pid", "ipc": "ipc", "network": "net"} {
		shared = append(shared, "--with-ns", kind+":/proc/"+pid+"/ns/"+file)
	}
	e.once(0, "sleep 1000", shared, "ps")
	e.want(0, "", "tasks", "rm", "--force", name)
	e.want(0, "", "containers", "rm", name)
}

// journal collects what containerd publishes.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

// sees waits for an event of a topic.
func (j *journal) sees(t *testing.T, topic string) {
	t.Helper()
	testenv.Eventually(t, patience, func() error {
		j.mu.Lock()
		defer j.mu.Unlock()
		if !strings.Contains(j.text.String(), " "+topic+" ") {
			return fmt.Errorf("no event %s: %s", topic, j.text.String())
		}
		return nil
	})
}

// watch starts to collect the events.
func (e *engine) watch() *journal {
	e.t.Helper()
	j := &journal{}
	cmd := e.command(context.WithoutCancel(e.t.Context()), e.argv([]string{"events"})...)
	cmd.Stdout, cmd.Stderr = j, j
	must(e.t, cmd.Start())
	e.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return j
}

// newContainerd starts a containerd in an engine's namespaces, with the image.
func newContainerd(t *testing.T) *engine {
	t.Helper()
	e := newEngine(t, "true", "containerd", "containerd-shim-runc-v2", "ctr")
	socket := filepath.Join(e.dir, "sock")
	config := filepath.Join(e.dir, "config.toml")
	must(t, os.WriteFile(config, []byte(`version = 2
root = "`+e.dir+`/root"
state = "`+e.dir+`/run"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "`+socket+`"
`), 0o644))
	e.cli = []string{"ctr", "--address", socket, "--namespace", e.parent} // which also names the cgroup
	e.image = "docker.io/library/base:latest"
	e.flags = []string{"--runc-binary", e.runtime, "--runc-root", filepath.Join(e.dir, "state"), "--fifo-dir", filepath.Join(e.dir, "fifo")}
	e.group = "^" + testenv.Token(t) + ".*-"
	e.state = filepath.Join(e.dir, "state", "*", "*")
	e.daemon("version", "containerd", "--config", config)
	e.want(0, "", "images", "import", archive(t, e.dir))
	return e
}
