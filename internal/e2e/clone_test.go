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

// cloneScenarios make other machines of machines.
var cloneScenarios = []scenario{
	{"clones", localOnly, vms, clones},
	{"clone at rest", localOnly, vms, cloneAtRest},
	{"clone refused", localOnly, both, cloneRefused},
	{"berthd killed as a clone begins", localOnly, vms, cloneOrphaned},
}

// whoami has a machine say all that tells it from others, a line each.
func whoami(t *testing.T, w *world, name string) []string {
	t.Helper()
	return strings.Split(w.Berth(t, "exec", name, "sh", "-c",
		"hostname; cat /etc/machine-id /sys/class/net/eth0/address; ip -4 -o addr show eth0 | tr -s ' ' | cut -d' ' -f4; head -c 16 /dev/urandom | od -An -tx1; echo $HOSTNAME"), "\n")
}

// clones makes machines of one that runs, is paused, is suspended, and was when a snapshot
// was made. They know what it knew, and are others.
func clones(t *testing.T, w *world, kind api.Kind) {
	w.start(t, api.Container, "peer", "base", "sleep", "600")
	for _, board := range []string{"microvm", "q35"} {
		name := func(word string) string { return board + "-" + word }
		w.start(t, kind, board, "--machine", board, "-p", "8093:80", "base", "sh", "-c",
			"echo 0123456789abcdef0123456789abcdef >/etc/machine-id; echo secret >/dev/shm/note; echo kept >/root/note; httpd -p 80 -h /etc; "+counting)
		w.logged(t, board, "3\n")
		seen := map[string]string{}
		told := func(machine string) {
			t.Helper()
			expect(t, machine+": what it knows", w.Try(t.Context(), "exec", machine, "cat", "/dev/shm/note", "/root/note"), 0, "secret\nkept\n")
			lines := whoami(t, w, machine)
			for _, line := range lines {
				if other := seen[line]; other != "" && other != machine {
					t.Errorf("%s and %s are both %s", machine, other, line)
				}
				seen[line] = machine
			}
			if id := w.field(t, machine, ".ID")[:12]; lines[0] != id || lines[5] != id {
				t.Errorf("%s calls itself %q and not %s", machine, lines, id)
			}
			address := w.field(t, machine, "(index .Status.Interfaces 0).Address")
			if len(lines) != 6 || lines[3] != address {
				t.Errorf("%s is at %s: %q", machine, address, lines)
			}
			address, _, _ = strings.Cut(address, "/")
			said := w.Berth(t, "exec", "peer", "sh", "-c", "printf 'GET /hostname HTTP/1.0\\r\\n\\r\\n' | nc -w 20 "+address+" 80")
			if !strings.HasSuffix(said, "\n"+lines[0]) {
				t.Errorf("%s says over TCP: %q", machine, said)
			}
			w.Berth(t, "exec", "peer", "ping", "-c", "1", "-W", "5", machine)
			goesOn(t, w, machine)
		}
		told(board)
		for _, word := range []string{"one", "two"} {
			if id := w.Berth(t, "clone", "--name", name(word), board); id != w.field(t, name(word), ".ID") {
				t.Errorf("clone says %q", id)
			}
			t.Cleanup(func() { w.remove(t, name(word)) })
			told(name(word))
		}
		if port := w.field(t, name("one"), "(index .Status.Ports 0).HostPort"); port == "8093" || port == "0" {
			t.Errorf("it is published at %s", port)
		}
		told(board)
		complete(t, board, w.Berth(t, "logs", board))
		if board == "q35" {
			w.Berth(t, "rm", "-f", board, name("one"), name("two"))
			continue
		}

		w.Berth(t, "pause", board)
		w.Berth(t, "clone", "--name", name("paused"), board)
		t.Cleanup(func() { w.remove(t, name("paused")) })
		w.becomes(t, board, ".Status.State", "paused")
		told(name("paused"))
		w.Berth(t, "unpause", board)
		told(board)

		// What a clone is it stays, through a suspension, a restart of berthd and a boot.
		w.Berth(t, "suspend", name("one"))
		w.Kill(t)
		w.Start(t)
		w.Berth(t, "clone", "--name", name("three"), name("one"))
		t.Cleanup(func() { w.remove(t, name("three")) })
		w.becomes(t, name("one"), ".Status.State", "suspended")
		w.Berth(t, "resume", name("one"))
		told(name("one"))
		told(name("three"))
		id := whoami(t, w, name("one"))[1]
		w.Berth(t, "restart", "-t", "0", name("one"))
		testenv.Eventually(t, time.Minute, func() error {
			// Its entrypoint writes the image's id again, after the agent's.
			if got := whoami(t, w, name("one")); got[0] != w.field(t, name("one"), ".ID")[:12] {
				return fmt.Errorf("booted, it is %q and was %s", got, id)
			}
			return nil
		})
		w.Berth(t, "snapshot", "create", board, "kept")
		w.Berth(t, "stop", "-t", "0", board)
		w.Berth(t, "clone", "--snapshot", "kept", "--name", name("four"), board)
		t.Cleanup(func() { w.remove(t, name("four")) })
		w.becomes(t, board, ".Status.State", "exited")
		told(name("four"))
		for _, word := range []string{"", "-one", "-two", "-paused", "-three", "-four"} {
			w.Berth(t, "rm", "-f", board+word)
		}
	}
}

// cloneAtRest makes a machine of one that does not run: it boots as another.
func cloneAtRest(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "machine", "base", "sh", "-c",
		"[ -e /root/note ] || { echo 0123456789abcdef0123456789abcdef >/etc/machine-id; echo kept >/root/note; }; cat /etc/machine-id; exec sleep 600")
	w.logged(t, "machine", "0123456789abcdef0123456789abcdef\n")
	w.Berth(t, "stop", "-t", "0", "machine")
	w.Berth(t, "clone", "--name", "copy", "machine")
	t.Cleanup(func() { w.remove(t, "copy") })
	w.becomes(t, "copy", ".Status.State", "created")
	ids := map[string]bool{"0123456789abcdef0123456789abcdef": true}
	for range 2 {
		w.Berth(t, "start", "copy")
		ids[whoami(t, w, "copy")[1]] = true
		expect(t, "its disk", w.Try(t.Context(), "exec", "copy", "cat", "/root/note"), 0, "kept\n")
		w.Berth(t, "stop", "-t", "0", "copy")
	}
	if len(ids) != 2 {
		t.Errorf("its machine ids are %v", ids)
	}
	w.Berth(t, "start", "machine")
	if id := whoami(t, w, "machine")[1]; id != "0123456789abcdef0123456789abcdef" {
		t.Errorf("its source became %s", id)
	}
}

// cloneOrphaned ends berthd when a clone has what it goes on from, and is not yet, or
// just now, a machine of its own: the next berthd makes it one.
func cloneOrphaned(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "machine", "base", "sh", "-c", "echo 0123456789abcdef0123456789abcdef >/etc/machine-id; "+counting)
	w.logged(t, "machine", "3\n")
	done := make(chan testenv.Result, 1)
	go func() { done <- w.Try(t.Context(), "clone", "--name", "copy", "machine") }()
	t.Cleanup(func() { w.remove(t, "copy") })
	for begun := false; !begun; {
		select {
		case r := <-done:
			t.Fatalf("too fast to be struck: %s", r)
		case <-time.After(100 * time.Microsecond):
		}
		used, err := filepath.Glob(filepath.Join(w.Dir, "root/instances/*/suspended.old"))
		if err != nil {
			t.Fatal(err)
		}
		begun = len(used) > 0
	}
	w.Kill(t)
	<-done
	w.Start(t)
	for _, name := range []string{"machine", "copy"} {
		w.becomes(t, name, ".Status.State", "running")
		goesOn(t, w, name)
	}
	mine, theirs := whoami(t, w, "copy"), whoami(t, w, "machine")
	for i := range mine {
		if mine[i] == theirs[i] {
			t.Errorf("it is %q, as its source", mine[i])
		}
	}
	if address := w.field(t, "copy", "(index .Status.Interfaces 0).Address"); mine[3] != address {
		t.Errorf("it is at %s and not at %s", mine[3], address)
	}
	if out := testenv.Shell(t, w.Machine, "ls -d "+w.Dir+"/root/instances/*/suspended* 2>/dev/null || true"); out != "" {
		t.Errorf("left behind: %s", out)
	}
}

func cloneRefused(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "box", "base", "sleep", "600")
	if kind == api.Container {
		refused(t, "a container", w.Try(t.Context(), "clone", "box"), 1, "box", "berth commit box")
		return
	}
	refused(t, "a name in use", w.Try(t.Context(), "clone", "--name", "box", "box"), 1, "box")
	refused(t, "no snapshot", w.Try(t.Context(), "clone", "--snapshot", "none", "box"), 1, "box", "berth snapshot ls box")
	w.later(t, "volume", "rm", "data")
	w.start(t, kind, "writing", "--mount", "type=disk,source=data,size=64m,target=/data", "base", "sleep", "600")
	refused(t, "a disk", w.Try(t.Context(), "clone", "writing"), 1, "writing", "data", "read-only")
	if out := w.Berth(t, "ps", "-aq"); strings.Count(out, "\n") != 1 {
		t.Errorf("left behind: %s", out)
	}
}
