package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/testenv"
)

// TestRackUser plays on a host with cgroup v2 and systemd, with the daemon of an
// ordinary user, in every way in which he can have cgroups.
func TestRackUser(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a VM")
	}
	t.Parallel()
	testenv.CheckOwn(t)
	files := map[string]string{"berthd-user.service": filepath.Join(testenv.Repository(t), "packaging/berthd-user.service")}
	for _, file := range archives(t) {
		files["base.tar"] = file
	}
	machine := testenv.NewUserHost(t, testenv.NewSystemdRack(t, 1, files).Hosts[0])
	for name, test := range map[string]func(*testing.T, *testenv.UserHost){
		"scope of systemd's": scopeOfUsers, "service": serviceOfUsers, "cgroup by hand": cgroupByHand,
	} {
		t.Run(name, func(t *testing.T) { test(t, machine) })
	}
	if left := machine.Host.Shell(t, "cd /sys/fs/cgroup && find . -name berth -o -name 'berthd*'"); left != "" {
		t.Errorf("left behind: %s", left)
	}
}

// onHost starts a daemon with the base image.
func onHost(t *testing.T, m *testenv.UserHost, flags ...string) *world {
	t.Helper()
	w := &world{Daemon: testenv.NewDaemon(t, m, flags...), place: user}
	w.Berth(t, "image", "import", "/opt/berth/base.tar", "base")
	return w
}

// limitsOfUsers proves that limits hold, and what else takes cgroups.
func limitsOfUsers(t *testing.T, w *world) {
	for name, test := range map[string]func(*testing.T, *world, api.Kind){
		"pause": pause, "stats": stats, "memory": memoryLimit, "processes": processLimit, "update": updateLive,
	} {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() { w.checkEmpty(t) })
			test(t, w, api.Container)
		})
	}
}

// cgroupOf returns the cgroup of an instance's first process.
func cgroupOf(t *testing.T, w *world, name string) string {
	t.Helper()
	return strings.TrimPrefix(testenv.Shell(t, w.Machine, "cat /proc/"+w.field(t, name, ".Status.PID")+"/cgroup"), "0::")
}

// scopeOfUsers starts berthd as from a login session, in which nothing is the user's.
func scopeOfUsers(t *testing.T, m *testenv.UserHost) {
	w := onHost(t, m)
	if got := info(w, t); got != "v2" {
		t.Errorf("cgroups: %q, %s", got, w.Log(t))
	}
	limitsOfUsers(t, w)
	// Debian 12 delegates three controllers to users.
	refused(t, "cpuset", w.Try(t.Context(), "run", "--rm", "--cpuset-cpus", "0", "base", "true"), 125, "cpuset", "systemctl edit user@.service")

	w.start(t, api.Container, "first", "--memory", "64m", "base", "sleep", "600")
	first := cgroupOf(t, w, "first")
	scope, _, _ := strings.Cut(first, "/berth/")
	if !strings.Contains(scope, "/user@"+m.ID+".service/") || !strings.HasSuffix(scope, ".scope") {
		t.Errorf("the container is in %s", first)
	}
	w.Kill(t)
	w.Start(t)
	w.Berth(t, "update", "--memory", "48m", "first")
	if got := testenv.Shell(t, m, "cat /sys/fs/cgroup"+first+"/memory.max"); got != "50331648" {
		t.Errorf("after berthd's return memory.max is %s", got)
	}
	// The next daemon is where the last one was, and so is a keeper that it starts.
	for _, pid := range w.PIDs(t, "berth-keeper") {
		testenv.Shell(t, m, "kill -9 "+pid+" || true") // it may be the one that looked
		w.WaitGone(t, pid)
	}
	w.start(t, api.Container, "second", "--memory", "64m", "base", "sleep", "600")
	if second := cgroupOf(t, w, "second"); filepath.Dir(second) != filepath.Dir(first) {
		t.Errorf("the second container is in %s, the first in %s", second, first)
	}
	w.Stop(t)
	if r := w.Machine.Do(t.Context(), testenv.Command{Argv: []string{"berthd", "--cgroup", "/other", "--root", w.Dir + "/root", "--run", w.RunDir()}}); r.Exit != 1 ||
		!strings.Contains(r.Stderr, scope) || strings.Count(r.Stderr, "\n") != 1 {
		t.Errorf("another cgroup while instances run: %s", r)
	}
	w.Start(t)
	w.Berth(t, "rm", "-f", "first", "second")
	w.Stop(t)
	gone(t, m, scope)
	w.Start(t)
}

// gone waits until a cgroup is.
func gone(t *testing.T, m *testenv.UserHost, cgroup string) {
	t.Helper()
	testenv.Eventually(t, 10*time.Second, func() error {
		if r := m.Do(t.Context(), testenv.Command{Argv: []string{"find", "/sys/fs/cgroup" + cgroup, "-type", "d"}}); r.Exit == 0 {
			return fmt.Errorf("cgroups are left: %s", r)
		}
		return nil
	})
}

// serviceOfUsers restarts berthd's unit while a container runs.
func serviceOfUsers(t *testing.T, m *testenv.UserHost) {
	testenv.Shell(t, m, "mkdir -p .config/systemd/user && sed s,@bindir@,/opt/berth, /opt/berth/berthd-user.service >.config/systemd/user/berthd.service && systemctl --user daemon-reload && systemctl --user start berthd")
	berth := func(args string) string { return testenv.Shell(t, m, "/opt/berth/berth "+args) }
	answers := func() {
		t.Helper()
		testenv.Eventually(t, time.Minute, func() error {
			if r := m.Do(t.Context(), testenv.Command{Argv: []string{"/opt/berth/berth", "version"}}); r.Exit != 0 {
				return fmt.Errorf("berthd: %s", r)
			}
			return nil
		})
	}
	answers()
	berth("image import /opt/berth/base.tar base")
	berth("run -d --name box --memory 64m base sleep 600")
	testenv.Shell(t, m, "systemctl --user restart berthd")
	answers()
	berth("pause box")
	berth("update --memory 32m box")
	berth("run --rm --memory 64m base true")
	berth("rm -f box")
	testenv.Shell(t, m, "systemctl --user stop berthd; systemctl --user disable berthd; rm -r .config .local")
}

// cgroupByHand has root give the user a cgroup, as on a host without systemd.
func cgroupByHand(t *testing.T, m *testenv.UserHost) {
	m.Host.Shell(t, "cd /sys/fs/cgroup && mkdir given given/own && cd given && chown "+m.ID+" . own $(for d in . own; do for f in procs subtree_control threads; do echo $d/cgroup.$f; done; done)")
	t.Cleanup(func() {
		testenv.Shell(t, m.Host, "cd /sys/fs/cgroup && for i in $(seq 50); do rmdir given/own given && exit; sleep 0.1; done; exit 1")
	})
	w := onHost(t, m.Enter("/given/own"), "--cgroup", "/given")
	w.start(t, api.Container, "box", "--memory", "64m", "base", "sleep", "600")
	if got := w.Berth(t, "exec", "box", "cat", "/sys/fs/cgroup/memory.max"); got != "67108864" {
		t.Errorf("memory.max in the container is %s", got)
	}
	if got := cgroupOf(t, w, "box"); !strings.HasPrefix(got, "/given/berth/") {
		t.Errorf("the container is in %s", got)
	}
	w.Berth(t, "rm", "-f", "box")
	w.Stop(t)
	if left := testenv.Shell(t, m, "cd /sys/fs/cgroup/given && ls -d */ && cat cgroup.subtree_control"); left != "own/" {
		t.Errorf("left behind: %s", left)
	}
	w.Start(t)
}
