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
	{"names resolve", realOnly, nil, namesResolve},
	{"published port", realOnly, both, publishedPort},
	{"port in use", realOnly, nil, portInUse},
	{"no network", realOnly, both, noNetwork},
	{"host network", realOnly, containers, hostNetwork},
}

func namesResolve(t *testing.T, w *world, _ api.Kind) {
	serve := []string{"base", "sh", "-c", "echo it is $(hostname) >/tmp/index.html; exec httpd -f -p 80 -h /tmp"}
	w.start(t, api.Container, "box", append([]string{"-h", "box"}, serve...)...)
	w.start(t, api.VM, "machine", append([]string{"-h", "machine"}, serve...)...)
	for _, hop := range [][2]string{{"box", "machine"}, {"machine", "box"}, {"box", "box"}} {
		testenv.Eventually(t, time.Minute, func() error {
			r := w.Try(t.Context(), "exec", hop[0], "wget", "-q", "-T", "5", "-O", "-", "http://"+hop[1]+"/")
			if r.Stdout != "it is "+hop[1]+"\n" {
				return fmt.Errorf("from %s to %s: %s", hop[0], hop[1], r)
			}
			return nil
		})
	}
}

func publishedPort(t *testing.T, w *world, kind api.Kind) {
	// The server answers with the address it sees.
	w.start(t, kind, "web", "-p", "8080:80", "base", "sh", "-c",
		`while :; do nc -l -p 80 -e sh -c 'echo HTTP/1.0 200 OK; echo; echo hello' ; done`)
	testenv.Eventually(t, time.Minute, func() error {
		r := w.Machine.Do(t.Context(), testenv.Command{Argv: []string{"busybox", "wget", "-q", "-T", "3", "-O", "-", "http://127.0.0.1:8080/"}})
		if r.Stdout != "hello\n" {
			return fmt.Errorf("port 8080 of the host: %s", r)
		}
		return nil
	})
	if got := w.Berth(t, "ps", "--format", "{{.Ports}}"); !strings.Contains(got, "8080") {
		t.Errorf("ps shows the ports %q", got)
	}
	w.remove(t, "web")
	r := w.Machine.Do(t.Context(), testenv.Command{Argv: []string{"busybox", "wget", "-q", "-T", "3", "-O", "-", "http://127.0.0.1:8080/"}})
	if r.Exit == 0 {
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
