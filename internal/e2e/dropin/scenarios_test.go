package dropin

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// scenario is something that users of docker and of podman do, whose command lines
// are alike.
type scenario struct {
	name string
	run  func(e *engine)
}

// scenarios run for both engines.
func scenarios() []scenario {
	return []scenario{
		{"Exit", exit}, {"Streams", streams}, {"Stop", stop}, {"Signal", signal}, {"Remove", remove},
		{"Terminal", terminals}, {"Exec", execs}, {"Observe", observe}, {"Pause", pause}, {"Update", update}, {"Copy", copies},
		{"Privileged", privileged}, {"Mounts", mounts}, {"Rights", rights}, {"User", user},
		{"HostNamespaces", hostNamespaces}, {"SharedNamespaces", sharedNamespaces}, {"Cgroups", cgroups},
		{"Limits", limits}, {"OutOfMemory", outOfMemory},
	}
}

// play runs the scenarios on the engine.
func (e *engine) play(list []scenario) {
	for _, s := range list {
		e.t.Run(s.name, func(t *testing.T) { s.run(e.in(t)) })
	}
}

// exit: statuses of the workload and those of a command that cannot be run, which
// the engines tell by the words of the runtime's error.
func exit(e *engine) {
	e.shell(0, "^hello\n$", "echo hello")
	e.shell(7, "", "exit 7")
	e.want(127, "executable file not found", "run", "--rm", e.image, "nonesuch")
	e.want(127, "no such file", "run", "--rm", e.image, "/bin/nonesuch")
	e.want(126, "(?i)permission denied", "run", "--rm", e.image, "/etc")
}

// streams: input, output and the log.
func streams(e *engine) {
	args := []string{"run", "--rm", "--interactive", e.image, "cat"}
	e.check(e.feed("some input", args...), 0, "^some input$", args)
	name := e.background("echo to stdout; echo to stderr >&2; exit 4")
	e.want(0, "^4\n$", "wait", name)
	e.want(0, "(?s)to stdout.*to stderr|to stderr.*to stdout", "logs", name)
	e.want(0, "", "rm", name)
}

// stop: a workload that ends when told so, and one that does not; both can start
// again.
func stop(e *engine) {
	polite := e.background("trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done")
	e.eventually("ready", "logs", polite)
	e.want(0, "", "restart", "--time", "20", polite)
	e.eventually("(?s)ready.*ready", "logs", polite)
	e.want(0, "", "stop", "--time", "20", polite)
	e.want(0, "^3 exited\n$", "inspect", "--format", "{{.State.ExitCode}} {{.State.Status}}", polite)
	e.want(0, "", "rm", polite)

	deaf := e.background("trap '' TERM; echo ready; while :; do sleep 0.05; done")
	e.eventually("ready", "logs", deaf)
	e.want(0, "", "stop", "--time", "1", deaf)
	e.want(0, "^137\n$", "inspect", "--format", "{{.State.ExitCode}}", deaf)
	e.want(0, "", "rm", deaf)
}

func signal(e *engine) {
	name := e.background("trap 'exit 5' USR1; echo ready; while :; do sleep 0.05; done")
	e.eventually("ready", "logs", name)
	e.want(0, "", "kill", "--signal", "USR1", name)
	e.want(0, "^5\n$", "wait", name)
	e.want(0, "", "start", name)
	e.want(0, "", "kill", name)
	e.want(0, "^137\n$", "wait", name)
	e.want(0, "", "rm", name)
}

func remove(e *engine) {
	name := e.background("sleep 1000")
	if r := e.do("rm", name); r.code == 0 {
		e.t.Errorf("a running container was removed without force: %s", r.out)
	}
	e.destroy(name)
	e.want(0, "^$", "ps", "--all", "--quiet", "--filter", "name="+name)
}

// terminals: of a container and of a command in one, with their sizes.
func terminals(e *engine) {
	session := func(y *typist) {
		y.sees(`[#$] `)
		y.types("stty size", "30 100")
		y.resize(40, 120)
		y.types("while [ \"$(stty size)\" != '40 120' ]; do sleep 0.02; done; echo re''sized", "resized")
		y.types("tty; exit 6", "/dev/pts/0")
	}
	e.terminal(6, []string{"run", "--rm", "--interactive", "--tty", e.image, "sh"}, session)
	name := e.background("sleep 1000")
	e.terminal(6, []string{"exec", "--interactive", "--tty", name, "sh"}, session)
	e.destroy(name)
}

func execs(e *engine) {
	name := e.background("sleep 1000", "--env", "FROM=run")
	e.want(9, "^0 run\n$", "exec", name, "sh", "-c", "echo $(id -u) $FROM; exit 9")
	e.want(0, "^uid=1000.bob. gid=1001", "exec", "--user", "bob", name, "id")
	e.want(0, "^5 6 /tmp exec\n$", "exec", "--user", "5:6", "--workdir", "/tmp", "--env", "FROM=exec", name,
		"sh", "-c", "echo $(id -u) $(id -g) $(pwd) $FROM")
	e.want(0, "CapEff:\t0000003ffeffffff|CapEff:\t000001ff", "exec", "--privileged", name, "grep", "CapEff", "/proc/self/status")
	e.want(0, "", "exec", "--detach", name, "touch", "/detached")
	e.eventually("/detached", "exec", name, "ls", "-d", "/detached")
	args := []string{"exec", "--interactive", name, "cat"}
	e.check(e.feed("some input", args...), 0, "^some input$", args)
	if r := e.do("exec", name, "nonesuch"); r.code != 126 && r.code != 127 || !strings.Contains(r.out, "executable file not found") {
		e.t.Errorf("exec of a program that is not there: %+v", r)
	}
	e.destroy(name)
}

// observe: top asks for the processes, stats for the cgroups, the health check
// executes commands.
func observe(e *engine) {
	name := e.background("sleep 1000 & sleep 1000", "--health-cmd", "test -e /healthy", "--health-interval", e.interval(), "--health-retries", "1")
	e.want(0, "(?s)sleep 1000.*sleep 1000", "top", name)
	e.want(0, `^[1-9]\d*\n$`, "stats", "--no-stream", "--format", "{{.PIDs}}", name)
	e.healthy(name, false)
	e.want(0, "", "exec", name, "touch", "/healthy")
	e.healthy(name, true)
	e.destroy(name)
}

// interval of the health checks: podman has systemd run them, or the user.
func (e *engine) interval() string {
	if e.podman() {
		return "disable"
	}
	return "100ms"
}

func (e *engine) podman() bool { return e.cli[0] == "podman" }

// healthy waits until the engine calls the container so, or not so.
func (e *engine) healthy(name string, healthy bool) {
	e.t.Helper()
	switch {
	case !e.podman() && healthy:
		e.eventually("^healthy", "inspect", "--format", "{{.State.Health.Status}}", name)
	case !e.podman():
		e.eventually("^unhealthy", "inspect", "--format", "{{.State.Health.Status}}", name)
	case healthy:
		e.want(0, "", "healthcheck", "run", name)
	default:
		e.want(1, "", "healthcheck", "run", name)
	}
}

func pause(e *engine) {
	name := e.background("while :; do date +%s.%N > /tick; done")
	e.want(0, "", "pause", name)
	e.want(0, "^paused\n$", "inspect", "--format", "{{.State.Status}}", name)
	if r := e.do("exec", name, "true"); r.code == 0 {
		e.t.Error("a command ran in a paused container")
	}
	e.want(0, "", "unpause", name)
	e.want(0, "", "exec", name, "true")
	e.want(0, "", "pause", name)
	e.destroy(name)
}

func update(e *engine) {
	name := e.background("sleep 1000", "--memory", "32m")
	e.want(0, "", "update", "--memory", "64m", "--memory-swap", "64m", "--cpus", "0.5", name)
	e.want(0, "^67108864\n50000\n$", "exec", name, "cat", e.limit("memory", "limit_in_bytes"), e.limit("cpu", "cfs_quota_us"))
	e.destroy(name)
}

// limit returns the file of a v1 limit as a container sees it.
func (e *engine) limit(controller, file string) string {
	e.t.Helper()
	if _, err := os.Stat("/sys/fs/cgroup/" + controller); err != nil {
		e.t.Skip("reads the files of cgroup v1")
	}
	return "/sys/fs/cgroup/" + controller + "/" + controller + "." + file
}

func copies(e *engine) {
	name := e.background("sleep 1000")
	file := filepath.Join(e.dir, "copy")
	e.want(0, "", "cp", name+":/etc/passwd", file)
	e.want(0, "", "cp", file, name+":/tmp/passwd")
	e.want(0, "(?m)^bob:x:1000", "exec", name, "cat", "/tmp/passwd")
	e.destroy(name)
}

func privileged(e *engine) {
	e.shell(0, "(?m)^Seccomp:\t0$", "grep Seccomp: /proc/self/status; mount -t tmpfs none /tmp && test -e /dev/loop-control && echo 1 > /proc/sys/net/ipv4/ip_forward", "--privileged")
}

func mounts(e *engine) {
	dir := filepath.Join(e.dir, "volume")
	must(e.t, os.MkdirAll(dir, 0o755))
	must(e.t, os.Chmod(dir, 0o777)) // the container's users may be mapped
	must(e.t, os.WriteFile(filepath.Join(dir, "file"), []byte("of the host\n"), 0o644))
	e.shell(0, "^of the host\n$", "cat /v/file; ! touch /v/new 2>/dev/null", "--volume", dir+":/v:ro")
	e.shell(0, "", "touch /a/b/new", "--mount", "type=bind,source="+dir+",destination=/a/b")
	if _, err := os.Stat(filepath.Join(dir, "new")); err != nil {
		e.t.Error(err)
	}
	e.shell(0, "", "touch /named/file", "--volume", "vol:/named")
	e.shell(0, "^/named/file\n$", "ls /named/file", "--volume", "vol:/named")
	e.want(0, "", "volume", "rm", "vol")
	e.shell(0, "^ok\n$", "touch /new 2>/dev/null || touch /dev/shm/new && echo ok", "--read-only")
	// A tmpfs has the mode asked for, else that of the directory it covers.
	e.shell(0, `^700 755\n(.*\n)*tmpfs 1024 `, "echo $(stat -c %a /s /etc); df -k /s | tail -n 1 | tr -s ' '", "--tmpfs", "/s:size=1m,mode=700", "--tmpfs", "/etc")
}

// rights: capabilities, seccomp, no_new_privs.
func rights(e *engine) {
	e.shell(0, "^mounted\n$", "mount -t tmpfs none /tmp && ! chown bob /tmp 2>/dev/null && echo mounted",
		"--cap-add", "SYS_ADMIN", "--cap-drop", "CHOWN", "--security-opt", "seccomp=unconfined")
	e.shell(0, "(?s)CapPrm:\t0000000000000000.*CapBnd:\t0000000000000000", "grep Cap /proc/self/status", "--cap-drop", "ALL", "--user", "5")
	e.shell(0, "(?s)NoNewPrivs:\t1.*Seccomp:\t2", "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status", "--security-opt", "no-new-privileges")
	profile := filepath.Join(e.dir, "seccomp.json")
	must(e.t, os.WriteFile(profile, []byte(`{"defaultAction":"SCMP_ACT_ALLOW",
		"syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":95}]}`), 0o644))
	e.shell(1, "Operation not supported", "mkdir /new", "--security-opt", "seccomp="+profile)
}

func user(e *engine) {
	e.shell(0, "^1000 1001 /tmp b\n$", "echo $(id -u) $(id -g) $(pwd) $A", "--user", "bob", "--workdir", "/tmp", "--env", "A=b")
	e.shell(0, "^5 6 6 77\n$", "echo $(id -u) $(id -g) $(id -G)", "--user", "5:6", "--group-add", "77")
}

func hostNamespaces(e *engine) {
	for flag, file := range map[string]string{"--pid": "pid", "--uts": "uts", "--ipc": "ipc"} {
		own, err := os.Readlink("/proc/self/ns/" + file)
		must(e.t, err)
		e.shell(0, "^"+strings.NewReplacer("[", `\[`, "]", `\]`).Replace(own)+"\n$", "readlink /proc/self/ns/"+file, flag, "host")
	}
}

func sharedNamespaces(e *engine) {
	name := e.background("sleep 1000", "--ipc", "shareable")
	e.shell(0, "(?s)sleep 1000.*shared", "ps; touch /dev/shm/file && echo shared", "--pid", "container:"+name, "--ipc", "container:"+name)
	e.want(0, "", "exec", name, "ls", "/dev/shm/file")
	e.destroy(name)
}

func cgroups(e *engine) {
	e.shell(0, "/"+e.parent+"/", "cat /proc/self/cgroup", "--cgroupns", "host")
	e.shell(0, "(?m)^[0-9]*:[^/]*:/$", "cat /proc/self/cgroup", "--cgroupns", "private")
}

func limits(e *engine) {
	e.shell(0, "^30000 100 0 8388608 10\n$",
		"echo $(cat "+e.limit("cpu", "cfs_quota_us")+" "+e.limit("cpu", "shares")+" "+e.limit("cpuset", "cpus")+" "+
			e.limit("memory", "soft_limit_in_bytes")+" "+e.limit("pids", "max")+")",
		"--cpus", "0.3", "--cpu-shares", "100", "--cpuset-cpus", "0", "--memory-reservation", "8m", "--pids-limit", "10")
	e.shell(0, "^100 200 0 9000 300 crw\n$", "echo $(ulimit -n) $(ulimit -Hn) $(ulimit -c) $(cat /proc/sys/kernel/msgmax /proc/self/oom_score_adj) $(stat -c %A /dev/other | head -c 3)",
		"--ulimit", "nofile=100:200", "--ulimit", "core=0", "--ulimit", "nproc=1024:1024", "--sysctl", "kernel.msgmax=9000", "--oom-score-adj", "300", "--device", "/dev/null:/dev/other:rw")
}

// outOfMemory: the kernel ends the workload, and the engine learns why. Debian's
// podman does not notice, with runc no more than with us.
func outOfMemory(e *engine) {
	name := e.background("exec tail -c 200m /dev/zero", "--memory", "16m", "--memory-swap", "16m")
	e.want(0, "^137\n$", "wait", name)
	if !e.podman() {
		e.want(0, "^true\n$", "inspect", "--format", "{{.State.OOMKilled}}", name)
	}
	e.want(0, "", "rm", name)
}

// build: RUN steps, as the image's users and with a file from the step before.
func build(e *engine, flags ...string) {
	dir := filepath.Join(e.dir, "context")
	must(e.t, os.MkdirAll(dir, 0o755))
	must(e.t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(
		"FROM base\nRUN echo built > /file && chown bob /file\nUSER bob\nRUN test $(id -u) = 1000 && echo twice >> /file\nCMD cat /file\n"), 0o644))
	e.want(0, "", append(append([]string{"build", "--tag", "built"}, flags...), dir)...)
	e.want(0, "^built\ntwice\n$", "run", "--rm", "built")
	must(e.t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM base\nRUN exit 3\n"), 0o644))
	if r := e.do(append(append([]string{"build"}, flags...), dir)...); r.code == 0 || !strings.Contains(r.out, "3") {
		e.t.Errorf("a build with a step that fails: %+v", r)
	}
}
