package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/testenv"
)

// notForUsers are the scenarios that an ordinary user's daemon does not play, and why.
var notForUsers = map[string]string{
	"isolation":     "looks for other ids; see idsOfUsers",
	"host network":  "the host's is out of reach",
	"berthd killed": "see survivalOfUsers and machineOfUsers",
}

// TestUser plays on this machine, with the daemon of an ordinary user.
func TestUser(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	t.Parallel()
	testenv.CheckOwn(t)
	machine := testenv.NewUserLocal(t)
	machine.User.Delegate(t)
	w := &world{Daemon: testenv.NewDaemon(t, machine), place: user}
	for name, file := range archives(t, kernel{"cloud", ""}, kernel{"", "arm64"}) {
		own := filepath.Join(machine.User.Home, filepath.Base(file))
		share(t, file, own)
		w.Berth(t, "image", "import", own, name)
	}
	for name, test := range map[string]func(*testing.T, *world, *testenv.User){
		"user/refused": refusedToUsers, "user/undelegated": undelegatedToUsers, "user/ids": idsOfUsers, "user/client's address": clientsOfUsers, "user/survival": survivalOfUsers,
		"user/way out": wayOutOfUsers, "user/own places": placesOfUsers, "user/machine": machineOfUsers,
		"user/emulated": emulatedForUsers,
	} {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() { w.checkEmpty(t) })
			test(t, w, machine.User)
		})
	}
	play(t, w)
}

// share gives the user a file to read.
func share(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, content, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func refusedToUsers(t *testing.T, w *world, _ *testenv.User) {
	for name, c := range map[string]struct {
		args  []string
		words string
	}{
		"host network": {[]string{"--network", "host", "base", "true"}, "publish ports"},
		"low port":     {[]string{"-p", "81:80", "base", "true"}, "ip_unprivileged_port_start"},
	} {
		refused(t, name, w.Try(t.Context(), append([]string{"run", "--rm"}, c.args...)...), 125, c.words)
	}
	if info := w.Berth(t, "info"); strings.Contains(info, "Warning") {
		t.Errorf("info:\n%s", info)
	}
}

// undelegatedToUsers has a daemon without any cgroup, and one without most controllers,
// refuse what takes them and do the rest.
func undelegatedToUsers(t *testing.T, w *world, u *testenv.User) {
	for _, c := range []struct {
		name, info  string
		controllers []string
		refused     []string
		works       []string
	}{
		{"none", "no cgroup is delegated", nil, []string{"--pids-limit=9", "--memory=64m", "--cpus=0.5", "--cpuset-cpus=0"}, nil},
		{"pids", "memory, cpu, cpuset", []string{"pids"}, []string{"--memory=64m", "--cpus=0.5", "--cpuset-cpus=0"}, []string{"--pids-limit=9"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := w.Machine.(*testenv.UserLocal).Delegated(t, c.controllers...)
			var flags []string
			if m.User.Cgroup != "" {
				flags = []string{"--cgroup", m.User.Cgroup}
			}
			w := &world{Daemon: testenv.NewDaemon(t, m, flags...), place: user}
			w.Berth(t, "image", "import", filepath.Join(u.Home, "base.tar"), "base")
			if info := w.Berth(t, "info"); !strings.Contains(info, c.info) {
				t.Errorf("info:\n%s", info)
			}
			for _, flag := range c.refused {
				name, _, _ := strings.Cut(flag, "=")
				refused(t, flag, w.Try(t.Context(), "run", "--rm", flag, "base", "true"), 125, name, "controller", "delegate")
			}
			w.start(t, api.Container, "plain", append(c.works, "base", "sleep", "600")...)
			refused(t, "update", w.Try(t.Context(), "update", "--memory=64m", "plain"), 1, "plain", "--memory", "delegate")
			expect(t, "exec", w.Try(t.Context(), "exec", "plain", "echo", "fine"), 0, "fine\n")
			if top := w.Berth(t, "top", "plain"); !strings.Contains(top, "sleep 600") {
				t.Errorf("top:\n%s", top)
			}
			switch stats := w.Try(t.Context(), "stats", "--no-stream", "plain"); {
			case c.works == nil:
				refused(t, "stats", stats, 1, "plain", "delegate")
			case stats.Exit != 0:
				t.Errorf("stats: %s", stats)
			}
			if c.works == nil || info(w, t) == "v1" {
				refused(t, "pause", w.Try(t.Context(), "pause", "plain"), 1, "plain", "freezer", "delegate")
			}
		})
	}
}

// info returns which version of cgroups the daemon has.
func info(w *world, t *testing.T) string {
	return w.Berth(t, "info", "--format", "{{.Cgroup}}")
}

// idsOfUsers looks from outside at who a container's processes are, and at whose files
// it makes.
func idsOfUsers(t *testing.T, w *world, u *testenv.User) {
	dir := filepath.Join(u.Home, "shared")
	testenv.Shell(t, w.Machine, "mkdir "+dir)
	w.start(t, api.Container, "ids", "-v", dir+":/shared", "base", "sh", "-c", "touch /shared/root /shared/other; chown 7:7 /shared/other; sleep 600")
	testenv.Eventually(t, 10*time.Second, func() error {
		if _, err := os.Stat(filepath.Join(dir, "other")); err != nil {
			return err
		}
		got := testenv.Shell(t, w.Machine, "cd "+dir+" && stat -c %u root other")
		if want := fmt.Sprintf("%d\n%d", u.ID, testenv.SubordinateID+6); got != want {
			return fmt.Errorf("files belong to %q, not %q", got, want)
		}
		return nil
	})
	testenv.Shell(t, w.Machine, "rm -f "+dir+"/*")
	// As isolated as root's: in a user namespace below the daemon's, without rights there.
	got := w.Berth(t, "exec", "ids", "sh", "-c", `grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\t'
		mount -t tmpfs none /tmp 2>/dev/null || echo no mount
		readlink /proc/self/ns/user`)
	var own string
	for _, pid := range w.PIDs(t, "berthd") {
		if ns, err := os.Readlink("/proc/" + pid + "/ns/user"); err == nil {
			own += ns
		}
	}
	if !strings.HasPrefix(got, "NoNewPrivs:1\nSeccomp:2\nno mount\nuser:[") || strings.Contains(own, got[strings.Index(got, "user:["):]) {
		t.Errorf("%q, and berthd is in %s", got, own)
	}
}

// udpAnswer has this program answer each datagram with its sender's address, in a
// container: busybox has no such server.
const udpAnswer = "BERTH_TEST_UDP_ANSWER"

func TestMain(m *testing.M) {
	address := os.Getenv(udpAnswer)
	if address == "" {
		os.Exit(testenv.Main(m))
	}
	conn, err := net.ListenPacket("udp4", address)
	for err == nil {
		var n int
		var from net.Addr
		if n, from, err = conn.ReadFrom(make([]byte, 100)); n > 0 {
			_, err = conn.WriteTo([]byte(from.String()), from)
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// clientsOfUsers has a neighbor of the host, and the host itself, call a published port.
func clientsOfUsers(t *testing.T, w *world, u *testenv.User) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(u.Home, "answer")
	share(t, self, program)
	w.start(t, api.Container, "udp", "-p", "8093:53/udp", "-e", udpAnswer+"=:53", "-v", program+":/answer:ro", "base", "/answer")
	w.start(t, api.Container, "tcp", "-p", "8092:80", "base", "httpd", "-f", "-v", "-h", "/etc")
	address := w.Machine.Address()
	get := testenv.Command{Argv: []string{"wget", "-T", "10", "-qO-", "http://" + address + ":8092/hostname"}}
	udp := func(to string) testenv.Command {
		// bash knows UDP; what comes in answer to one datagram is one line without an end.
		return testenv.Command{Argv: []string{"bash", "-c", "exec 3<>/dev/udp/" + to + "/8093; for i in 1 2 3 4 5; do echo >&3; if read -t 2 -N 8 -u 3 a; then echo $a; exit; fi; done"}}
	}
	for _, c := range []struct {
		name   string
		from   testenv.Machine
		client string
	}{{"neighbor", w.Machine.Neighbor(), w.Machine.Neighbor().Address()}, {"host", w.Machine, address}} {
		if r := c.from.Do(t.Context(), get); r.Exit != 0 {
			t.Fatalf("%s: %s", c.name, r)
		}
		w.logged(t, "tcp", c.client+"]:")
		if r := c.from.Do(t.Context(), udp(address)); !strings.HasPrefix(c.client, strings.TrimSpace(r.Stdout)) || r.Stdout == "" {
			t.Errorf("%s: the container saw %q, not %s: %s", c.name, r.Stdout, c.client, r)
		}
	}
	if r := w.Machine.Do(t.Context(), udp("127.0.0.1")); !strings.HasPrefix(r.Stdout, "10.") {
		t.Errorf("from loopback the container saw %s, not the gateway", r)
	}
}

// fetch is a line of shell that prints a page. The first process of a container ignores
// signals, so it is not wget.
func fetch(url string) string { return "timeout 3 wget -qO- " + url + "; exit $?" }

// wayOutOfUsers has a container call a neighbor of the host, through pasta.
func wayOutOfUsers(t *testing.T, w *world, _ *testenv.User) {
	neighbor := w.Machine.Neighbor()
	pid := testenv.Shell(t, neighbor, "busybox httpd -f -p 8095 -h /etc >/dev/null 2>&1 & echo $!")
	t.Cleanup(func() { testenv.Shell(t, neighbor, "kill "+pid) })
	want := testenv.Shell(t, neighbor, "cat /etc/hostname")
	testenv.Eventually(t, 10*time.Second, func() error {
		r := w.Try(t.Context(), "run", "--rm", "base", "sh", "-c", fetch("http://"+neighbor.Address()+":8095/hostname"))
		if r.Stdout != want+"\n" {
			return fmt.Errorf("the neighbor's page: %s", r)
		}
		return nil
	})
	// pasta is started anew where it dies.
	for _, pid := range pastas(t, w) {
		testenv.Shell(t, neighbor, "kill -9 "+pid)
	}
	testenv.Eventually(t, 10*time.Second, func() error {
		r := w.Try(t.Context(), "run", "--rm", "base", "sh", "-c", fetch("http://"+neighbor.Address()+":8095/hostname"))
		if r.Stdout != want+"\n" {
			return fmt.Errorf("after pasta's death: %s", r)
		}
		return nil
	})
	// What listens on the host's loopback is not for containers.
	testenv.Shell(t, w.Machine, "busybox httpd -p 127.0.0.1:8096 -h /etc")
	t.Cleanup(func() {
		testenv.Shell(t, w.Machine, "kill $(ss -Htlnp 'sport = 8096' | sed 's/.*pid=\\([0-9]*\\).*/\\1/')")
	})
	for _, to := range []string{"127.0.0.1", "100.127.255.1", "100.127.255.2"} {
		if r := w.Try(t.Context(), "run", "--rm", "base", "sh", "-c", fetch("http://"+to+":8096/hostname")); r.Exit == 0 {
			t.Errorf("a container reached the host's loopback by %s: %s", to, r)
		}
	}
}

// pastas returns the daemon's pasta: it has no arguments any more by which to find it,
// and the name of the variant for the processor.
func pastas(t *testing.T, w *world) (pids []string) {
	t.Helper()
	for _, pid := range w.PIDs(t, "berth-rootless") {
		threads, _ := filepath.Glob("/proc/" + pid + "/task/*/children")
		for _, thread := range threads {
			children, _ := os.ReadFile(thread)
			for child := range strings.FieldsSeq(string(children)) {
				if comm, err := os.ReadFile("/proc/" + child + "/comm"); err == nil && strings.HasPrefix(string(comm), "pas") {
					pids = append(pids, child)
				}
			}
		}
	}
	if len(pids) == 0 {
		t.Error("berth-rootless runs no pasta")
	}
	return pids
}

// placesOfUsers starts a daemon and asks it without naming any place.
func placesOfUsers(t *testing.T, w *world, u *testenv.User) {
	bin := w.Machine.Programs()
	got := testenv.Shell(t, w.Machine, bin+`/berthd >log 2>&1 & p=$!
		for i in $(seq 100); do `+bin+`/berth version >/dev/null 2>&1 && break; sleep 0.1; done
		`+bin+`/berth info; kill $p; wait $p; cat log`)
	for _, want := range []string{"unix://" + u.Run + "/berth/berthd.sock", u.Home + "/.local/share/berth", u.Run + "/berth\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %s", want, got)
		}
	}
}

// machineOfUsers looks from outside at whose process a VM is, and kills the daemon.
func machineOfUsers(t *testing.T, w *world, u *testenv.User) {
	w.start(t, api.VM, "machine", "base", "sleep", "600")
	pid := w.field(t, "machine", ".Status.PID")
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	id := fmt.Sprint(testenv.SubordinateID + testenv.SubordinateCount - 1)
	if want := "\nUid:" + strings.Repeat("\t"+id, 4) + "\n"; !strings.Contains(string(status), want) {
		t.Errorf("no %q in\n%s", want, status)
	}
	confined(t, testenv.NewLocal(t), pid)
	if groups, err := os.ReadFile("/proc/" + pid + "/cgroup"); err != nil || !strings.Contains(string(groups), "memory:"+u.Cgroup+"/berth/") && !strings.Contains(string(groups), "0::"+u.Cgroup+"/berth/") {
		t.Errorf("%v; QEMU is in\n%s", err, groups)
	}
	w.Kill(t)
	w.Start(t)
	expect(t, "exec", w.Try(t.Context(), "exec", "machine", "echo", "fine"), 0, "fine\n")
	w.Berth(t, "update", "-m", "256m", "machine")
}

// survivalOfUsers kills the daemon while a container runs and is called.
func survivalOfUsers(t *testing.T, w *world, _ *testenv.User) {
	w.start(t, api.Container, "lives", "-p", "8094:80", "base", "sh", "-c", "httpd -h /etc; trap 'exit 5' TERM; while :; do sleep 0.1; done")
	w.start(t, api.Container, "ends", "base", "sh", "-c", "sleep 1; exit 6")
	get := testenv.Command{Argv: []string{"wget", "-T", "10", "-qO-", "http://" + w.Machine.Address() + ":8094/hostname"}}
	w.Kill(t)
	if r := w.Machine.Neighbor().Do(t.Context(), get); r.Exit != 0 {
		t.Errorf("while berthd is away: %s", r)
	}
	// What keeps the namespaces and leads the ports may die too: the next daemon has
	// the instances' own namespaces kept, and led into, anew.
	for _, pid := range w.PIDs(t, "berth-rootless") {
		w.Machine.Do(t.Context(), testenv.Command{Argv: []string{"kill", "-9", pid}})
		w.WaitGone(t, pid)
	}
	w.Start(t)
	expect(t, "wait", w.Try(t.Context(), "wait", "ends"), 0, "6\n")
	if r := w.Machine.Neighbor().Do(t.Context(), get); r.Exit != 0 {
		t.Errorf("after berthd's return: %s", r)
	}
	w.Berth(t, "stop", "lives")
	expect(t, "wait", w.Try(t.Context(), "wait", "lives"), 0, "5\n")
	// With nothing left to keep, all that was started ends with the daemon.
	w.Berth(t, "rm", "ends", "lives")
	w.Stop(t)
	for _, pid := range w.PIDs(t, "berth-rootless") {
		w.WaitGone(t, pid)
	}
	w.Start(t)
}

// emulatedForUsers builds an image of another architecture, whose programs qemu-user runs.
// It is registered in the user namespace of the daemon, and nowhere else: binfmt_misc is
// its own there since Linux 6.7 (commit 21ca59b365c0).
func emulatedForUsers(t *testing.T, w *world, u *testenv.User) {
	w.later(t, "builder", "prune", "-f") // an ordinary user could not remove all of it by hand
	emulator := testenv.Emulator(t, "aarch64")
	own := filepath.Join(u.Home, filepath.Base(emulator))
	share(t, emulator, own)
	const elf = `\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:` +
		`\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff`
	inside := slices.DeleteFunc(w.PIDs(t, "berthd"), func(pid string) bool {
		theirs, _ := os.Readlink("/proc/" + pid + "/ns/user")
		ours, _ := os.Readlink("/proc/self/ns/user")
		return theirs == ours
	})
	if len(inside) == 0 {
		t.Fatal("no berthd has a user namespace of its own")
	}
	enter := "nsenter --user --mount --target " + inside[0]
	script := "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc && printf %s '" + `:qemu-aarch64:M::` + elf + ":" + own + ":PF' >/proc/sys/fs/binfmt_misc/register"
	if r := testenv.Here(t).Do(t.Context(), testenv.Command{Argv: append(strings.Fields(enter), "sh", "-c", script)}); r.Exit != 0 {
		t.Skipf("binfmt_misc is the host's: %s", r)
	}
	dir := buildContext(t, map[string]string{"Dockerfile": `FROM base:arm64 AS made
RUN uname -m >/machine && for i in 1 2; do busybox uname -m; done >>/machine
FROM scratch
COPY --from=made /machine /
`})
	out := filepath.Join(u.Home, "out")
	w.build(t, "--platform", "linux/arm64", "-o", out, dir)
	if text, err := os.ReadFile(filepath.Join(out, "machine")); string(text) != "aarch64\naarch64\naarch64\n" {
		t.Errorf("the step ran on %q, %v", text, err)
	}
}
