package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/testenv"
)

// networkScenarios are about the default network, which both kinds share.
var networkScenarios = []scenario{
	{"names resolve", localOnly, nil, namesResolve},
	{"published port", realOnly, both, publishedPort},
	{"port in use", realOnly, nil, portInUse},
	{"no network", realOnly, both, noNetwork},
	{"host network", realOnly, containers, hostNetwork},
	{"several networks", localOnly, both, severalNetworks},
}

// webServer serves one page with busybox.
func webServer(page string) []string {
	return []string{"base", "sh", "-c", "mkdir /www; echo " + page + " >/www/index.html; exec httpd -f -v -p 80 -h /www"}
}

// namesResolve looks each instance up from the other. A static busybox
// cannot use the C library's resolver, so the name is looked up by nslookup.
func namesResolve(t *testing.T, w *world, _ api.Kind) {
	w.start(t, api.Container, "box", webServer("box")...)
	w.start(t, api.VM, "machine", webServer("machine")...)
	for _, hop := range [][2]string{{"box", "machine"}, {"machine", "box"}, {"box", "box"}} {
		line := "a=$(nslookup " + hop[1] + " | sed -n '/^Name/,$ s/^Address[^:]*: //p' | head -n 1) && timeout 5 wget -q -O - http://$a/"
		testenv.Eventually(t, time.Minute, func() error {
			r := w.Try(t.Context(), "exec", hop[0], "sh", "-c", line)
			if r.Stdout != hop[1]+"\n" {
				return fmt.Errorf("from %s to %s: %s", hop[0], hop[1], r)
			}
			return nil
		})
	}
}

// publishedPort reaches an instance through its host from another machine,
// and from the host itself by the host's address. The server sees the client's
// own address.
func publishedPort(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "web", append([]string{"-p", "8080:80"}, webServer("hello")...)...)
	get := []string{"busybox", "timeout", "5", "busybox", "wget", "-q", "-O", "-", "http://" + w.Machine.Address() + ":8080/"}
	for who, from := range map[string]testenv.Machine{"the neighbor": w.Machine.Neighbor(), "the host": w.Machine} {
		testenv.Eventually(t, 30*time.Second, func() error {
			if r := from.Do(t.Context(), testenv.Command{Argv: get}); r.Stdout != "hello\n" {
				return fmt.Errorf("%s: %s", who, r)
			}
			return nil
		})
	}
	w.logged(t, "web", w.Machine.Neighbor().Address()) // busybox httpd -v names its clients
	if got := w.Berth(t, "ps", "--format", "{{.Ports}}"); !strings.Contains(got, "8080") {
		t.Errorf("ps shows the ports %q", got)
	}
	w.remove(t, "web")
	if r := w.Machine.Neighbor().Do(t.Context(), testenv.Command{Argv: get}); r.Exit == 0 {
		t.Errorf("the port outlives its instance: %s", r)
	}
}

func portInUse(t *testing.T, w *world, _ api.Kind) {
	w.start(t, api.Container, "first", "-p", "8081:80", "base", "sleep", "600")
	refused(t, "port of an instance", w.Try(t.Context(), run(api.Container, "--rm", "-p", "8081:80", "base", "true")...), 125, "8081", "first")
	testenv.Shell(t, w.Machine, "busybox httpd -p 127.0.0.1:8082 -h /var/empty 2>/dev/null || busybox httpd -p 127.0.0.1:8082 -h /tmp")
	t.Cleanup(func() {
		testenv.Shell(t, w.Machine, "kill $(ss -Htlnp 'sport = 8082' | sed 's/.*pid=\\([0-9]*\\).*/\\1/')")
	})
	refused(t, "port of another program", w.Try(t.Context(), run(api.Container, "--rm", "-p", "8082:80", "base", "true")...), 125, "8082")
}

// severalNetworks has a front on the default network and an internal one, and a back on
// the latter alone; through the death of berthd, and a VM's start as a copy.
func severalNetworks(t *testing.T, w *world, kind api.Kind) {
	w.Berth(t, "network", "create", "--internal", "backend")
	w.later(t, "network", "rm", "backend")
	w.start(t, api.Container, "back", append([]string{"--network", "backend"}, webServer("back")...)...)
	start := w.start
	if kind == api.VM {
		w.Berth(t, run(kind, "--rm", "--network", "default", "--network", "backend", "base", "true")...)
		start = w.startCopy
	}
	front := []string{"--network", "default", "--network", "backend", "-p", "8083:80"}
	start(t, kind, "front", append(front, webServer("front")...)...)
	check := func() {
		t.Helper()
		reach := func(from, to string) {
			line := "a=$(nslookup " + to + " | sed -n '/^Name/,$ s/^Address[^:]*: //p' | head -n 1) && timeout 5 wget -q -O - http://$a/"
			testenv.Eventually(t, time.Minute, func() error {
				if r := w.Try(t.Context(), "exec", from, "sh", "-c", line); r.Stdout != to+"\n" {
					return fmt.Errorf("from %s to %s: %s", from, to, r)
				}
				return nil
			})
		}
		reach("front", "back")
		reach("back", "front")
		show := "ls -1 /sys/class/net | tr '\\n' ' '; ip route | grep -c ^default"
		expect(t, "the front's interfaces", w.Try(t.Context(), "exec", "front", "sh", "-c", show), 0, "eth0 eth1 lo 1\n")
		expect(t, "the back's way out", w.Try(t.Context(), "exec", "back", "sh", "-c", show), 1, "eth0 lo 0\n")
		get := testenv.Command{Argv: []string{"busybox", "timeout", "5", "busybox", "wget", "-q", "-O", "-", "http://" + w.Machine.Address() + ":8083/"}}
		if r := w.Machine.Neighbor().Do(t.Context(), get); r.Stdout != "front\n" {
			t.Errorf("from outside: %s", r)
		}
	}
	check()
	w.Kill(t)
	w.Start(t)
	check()
	refused(t, "remove a network in use", w.Try(t.Context(), "network", "rm", "backend"), 1, "back, front")
	w.Berth(t, "restart", "front")
	check()
	w.remove(t, "front", "back")
}

func noNetwork(t *testing.T, w *world, kind api.Kind) {
	r := w.Try(t.Context(), run(kind, "--rm", "--network", "none", "base", "sh", "-c", "ls /sys/class/net; ip addr show lo | grep -c 127.0.0.1")...)
	expect(t, "run", r, 0, "lo\n1\n")
}

func hostNetwork(t *testing.T, w *world, kind api.Kind) {
	r := w.Try(t.Context(), run(kind, "--rm", "--network", "host", "base", "readlink", "/proc/self/ns/net")...)
	want := testenv.Shell(t, w.Machine, "readlink /proc/self/ns/net")
	expect(t, "run", r, 0, want+"\n")
	refused(t, "a VM", w.Try(t.Context(), run(api.VM, "--rm", "--network", "host", "base", "true")...), 125, "host")
}
