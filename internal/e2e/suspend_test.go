package e2e

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/testenv"
)

// suspendScenarios save machines to disk, with all that is in their memory.
var suspendScenarios = []scenario{
	{"suspend", localOnly, vms, suspend},
	{"suspend attached", localOnly, vms, suspendAttached},
	{"snapshots", localOnly, vms, snapshots},
	{"snapshots at rest", localOnly, vms, snapshotsAtRest},
	{"snapshots with disks", localOnly, vms, snapshotsWithDisks},
	{"suspend refused", localOnly, both, suspendRefused},
	{"berthd killed while it suspends", localOnly, vms, killedSuspending},
}

// telling counts on when it is told to, and ends when it is told to.
const telling = `n=0; while read -r word; do n=$((n+1)); echo "$word $n"; [ "$word" = end ] && exit 7; done`

func suspend(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "machine", "-p", "8092:80", "base", "sh", "-c", "echo secret >/dev/shm/note; "+counting)
	w.logged(t, "machine", "3\n")
	pid, address := w.field(t, "machine", ".Status.PID"), w.field(t, "machine", "(index .Status.Interfaces 0).Address")
	w.Berth(t, "suspend", "machine")
	testenv.Shell(t, w.Machine, "! kill -0 "+pid+" 2>/dev/null")
	w.becomes(t, "machine", ".Status.State", "suspended")
	if said := w.Berth(t, "ps", "--format", "{{.Names}} {{.Status}}"); said != "machine Suspended" {
		t.Errorf("ps says %q", said)
	}
	// Its address is its own, also to the next berthd.
	w.Kill(t)
	w.Start(t)
	w.becomes(t, "machine", ".Status.State", "suspended")
	w.start(t, api.Container, "other", "base", "sleep", "600")
	if other := w.field(t, "other", "(index .Status.Interfaces 0).Address"); other == address {
		t.Errorf("%s has been given to another", address)
	}
	refused(t, "stop", w.Try(t.Context(), "stop", "machine"), 1, "machine", "berth resume machine", "berth kill machine")
	refused(t, "rm", w.Try(t.Context(), "rm", "machine"), 1, "machine", "berth resume machine")
	refused(t, "update", w.Try(t.Context(), "update", "--cpus", "2", "machine"), 1, "machine", "suspended")
	refused(t, "exec", w.Try(t.Context(), "exec", "machine", "true"), 125, "machine", "suspended")

	w.Berth(t, "resume", "machine")
	w.becomes(t, "machine", ".Status.State", "running")
	last := lastNumber(w.Berth(t, "logs", "machine"))
	testenv.Eventually(t, time.Minute, func() error {
		if n := lastNumber(w.Berth(t, "logs", "machine")); n <= last+3 {
			return fmt.Errorf("it counts no further than %d", n)
		}
		return nil
	})
	complete(t, "machine", w.Berth(t, "logs", "machine"))
	expect(t, "its files", w.Try(t.Context(), "exec", "machine", "cat", "/dev/shm/note"), 0, "secret\n")
	if now := w.field(t, "machine", "(index .Status.Interfaces 0).Address"); now != address {
		t.Errorf("it was at %s and is at %s", address, now)
	}
	w.Berth(t, "exec", "other", "ping", "-c", "1", "-W", "5", "machine")
	guest := w.Berth(t, "exec", "machine", "date", "+%s")
	host := testenv.Shell(t, w.Machine, "date +%s")
	var inside, outside int64
	fmt.Sscan(guest, &inside)
	fmt.Sscan(host, &outside)
	if inside < outside-2 || inside > outside {
		t.Errorf("its clock says %d at %d", inside, outside)
	}
	refused(t, "resume", w.Try(t.Context(), "resume", "machine"), 1, "machine", "running")

	const bootID = "/proc/sys/kernel/random/boot_id"
	boot := w.Berth(t, "exec", "machine", "cat", bootID)
	w.Berth(t, "suspend", "machine")
	w.Berth(t, "kill", "machine")
	w.becomes(t, "machine", ".Status.State", "exited")
	w.Berth(t, "start", "machine")
	if w.Berth(t, "exec", "machine", "cat", bootID) == boot {
		t.Error("what was given up goes on")
	}
	w.Berth(t, "suspend", "machine")
	w.Berth(t, "rm", "-f", "machine")
}

// suspendAttached talks to a machine that is suspended in between, and gets its exit code.
func suspendAttached(t *testing.T, w *world, kind api.Kind) {
	defer w.remove(t, "machine")
	in, user := io.Pipe()
	ended := make(chan testenv.Result, 1)
	go func() {
		ended <- w.TryInput(t.Context(), in, run(kind, "-i", "--name", "machine", "base", "sh", "-c", telling)...)
	}()
	fmt.Fprintln(user, "one")
	testenv.Eventually(t, time.Minute, func() error {
		if r := w.Try(t.Context(), "logs", "machine"); r.Stdout != "one 1\n" {
			return fmt.Errorf("it has said %s", r)
		}
		return nil
	})
	w.Berth(t, "suspend", "machine")
	fmt.Fprintln(user, "two")
	w.Berth(t, "start", "machine")
	w.logged(t, "machine", "two 2\n")
	fmt.Fprintln(user, "end")
	user.Close()
	expect(t, "the attached client", <-ended, 7, "one 1\ntwo 2\nend 3\n")
	if code := w.field(t, "machine", ".Status.ExitCode"); code != "7" {
		t.Errorf("it ended with %s", code)
	}
}

func suspendRefused(t *testing.T, w *world, kind api.Kind) {
	if kind == api.Container {
		w.start(t, kind, "box", "base", "sleep", "600")
		refused(t, "a container", w.Try(t.Context(), "suspend", "box"), 1, "box", "berth pause", "--vm")
		return
	}
	dir := testenv.Shell(t, w.Machine, "mktemp -d")
	defer testenv.Shell(t, w.Machine, "rm -r "+dir)
	w.start(t, kind, "sharing", "-v", dir+":/mnt", "base", "sleep", "600")
	refused(t, "a share", w.Try(t.Context(), "suspend", "sharing"), 1, "sharing", "virtiofs", "-v")
	w.start(t, kind, "passing", "--rm", "base", "sleep", "600")
	refused(t, "--rm", w.Try(t.Context(), "suspend", "passing"), 1, "passing", "--rm")
	for _, name := range []string{"sharing", "passing"} {
		expect(t, name, w.Try(t.Context(), "exec", name, "echo", "here"), 0, "here\n")
	}
}

// killedSuspending ends berthd at several moments of a suspension: the machine then
// runs, or is suspended and goes on.
func killedSuspending(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "machine", "base", "sh", "-c", counting)
	w.logged(t, "machine", "3\n")
	states := map[string]int{}
	for i := range 7 {
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.Try(t.Context(), "suspend", "machine")
		}()
		time.Sleep(time.Duration(130*i) * time.Millisecond) //nolint:forbidigo // the moment of the blow, not a wait
		w.Kill(t)
		<-done
		w.Start(t)
		state := w.field(t, "machine", ".Status.State")
		states[state]++
		switch state {
		case "running":
		case "suspended":
			w.Berth(t, "resume", "machine")
		default:
			t.Fatalf("after %d ms it is %s", 130*i, state)
		}
		last := lastNumber(w.Berth(t, "logs", "machine"))
		testenv.Eventually(t, time.Minute, func() error {
			if n := lastNumber(w.Berth(t, "logs", "machine")); n <= last {
				return fmt.Errorf("it counts no further than %d", n)
			}
			return nil
		})
	}
	complete(t, "machine", w.Berth(t, "logs", "machine"))
	t.Log(states, "template:", w.field(t, "machine", ".Status.Machine.Template"))
	if out := testenv.Shell(t, w.Machine, "ls "+w.Dir+"/root"+"/instances/*/"); strings.Contains(out, ".new") || strings.Contains(out, "suspended") {
		t.Errorf("left behind:\n%s", out)
	}
}

// snapshots puts a machine back to where it was, disk and memory, on both boards.
func snapshots(t *testing.T, w *world, kind api.Kind) {
	for _, board := range []string{"microvm", "q35"} {
		w.start(t, kind, board, "--machine", board, "base", "sh", "-c", counting)
		note := func(word string) {
			w.Berth(t, "exec", board, "sh", "-c", "echo "+word+" >/root/note; echo "+word+" >/dev/shm/note; sync")
		}
		noted := func(want string) {
			t.Helper()
			expect(t, board+": what it knows", w.Try(t.Context(), "exec", board, "cat", "/root/note", "/dev/shm/note"), 0, want+"\n"+want+"\n")
		}
		note("one")
		if name := w.Berth(t, "snapshot", "create", board); name != "snap0" {
			t.Errorf("its name is %q", name)
		}
		noted("one")
		note("two")
		w.Berth(t, "snapshot", "create", board, "second")
		note("three")
		refused(t, "a name twice", w.Try(t.Context(), "snapshot", "create", board, "second"), 1, board, "second", "berth snapshot rm")
		refused(t, "a bad name", w.Try(t.Context(), "snapshot", "create", board, "../../x"), 1, board, "../../x")
		if said := w.Berth(t, "snapshot", "ls", "--format", "{{.Name}} {{.Memory}}", board); said != "snap0 yes\nsecond yes" {
			t.Errorf("ls says %q", said)
		}
		random := map[string]bool{}
		for range 2 {
			w.Berth(t, "snapshot", "restore", board, "snap0")
			w.becomes(t, board, ".Status.State", "running")
			noted("one")
			random[w.Berth(t, "exec", board, "sh", "-c", "head -c 16 /dev/urandom | od -An -tx1")] = true
			note("four")
		}
		if len(random) != 2 {
			t.Errorf("after two restores the same randomness: %v", random)
		}
		w.Berth(t, "stop", "-t", "0", board)
		w.Kill(t)
		w.Start(t)
		w.Berth(t, "snapshot", "restore", board, "second") // of one that does not run
		noted("two")
		w.Berth(t, "snapshot", "rm", board, "snap0", "second")
		refused(t, "one that is gone", w.Try(t.Context(), "snapshot", "restore", board, "snap0"), 1, board, "snap0", "berth snapshot ls")
		if out := testenv.Shell(t, w.Machine, "ls -A "+w.Dir+"/root/instances/*/snapshots"); out != "" {
			t.Errorf("left behind: %s", out)
		}
		w.Berth(t, "suspend", board)
		refused(t, "of a suspended one", w.Try(t.Context(), "snapshot", "create", board), 1, board, "berth resume")
		w.Berth(t, "resume", board)
		noted("two")
		w.Berth(t, "rm", "-f", board)
	}
}

// snapshotsWithDisks puts a machine back whose memory fits its further disk as it was then.
func snapshotsWithDisks(t *testing.T, w *world, kind api.Kind) {
	w.later(t, "volume", "rm", "data", "fixed")
	w.Berth(t, "volume", "create", "--size", "16m", "fixed")
	mounts := []string{"--mount", "type=disk,source=data,size=64m,target=/data", "--mount", "type=disk,source=fixed,readonly"}
	w.start(t, kind, "machine", append(mounts, "base", "sleep", "600")...)
	note := func(word string) {
		w.Berth(t, "exec", "machine", "sh", "-c", "for d in root data dev/shm; do echo "+word+" >/$d/note; done; sync")
	}
	note("one")
	refused(t, "without its disk", w.Try(t.Context(), "snapshot", "create", "machine"), 1, "machine", "berth snapshot create --volumes")
	w.Berth(t, "snapshot", "create", "--volumes", "machine", "all")
	if said := w.Berth(t, "snapshot", "ls", "--format", "{{.Name}} {{.Memory}} {{.Volumes}}", "machine"); said != "all yes data" {
		t.Errorf("ls says %q", said)
	}
	note("two")
	for range 2 {
		w.Berth(t, "snapshot", "restore", "machine", "all")
		expect(t, "what it knows", w.Try(t.Context(), "exec", "machine", "cat", "/root/note", "/data/note", "/dev/shm/note"), 0, "one\none\none\n")
		note("three")
	}
	w.Berth(t, "suspend", "machine")
	refused(t, "its disk while it is suspended", w.Try(t.Context(), "run", "--vm", "--rm", mounts[0], mounts[1], "base", "true"), 125, "data", "machine")
	w.Berth(t, "resume", "machine")
	expect(t, "what it goes on with", w.Try(t.Context(), "exec", "machine", "cat", "/data/note"), 0, "three\n")
	w.Berth(t, "stop", "machine")
	refused(t, "at rest", w.Try(t.Context(), "snapshot", "create", "--volumes", "machine"), 1, "machine", "leave --volumes out")
	w.start(t, kind, "other", mounts[0], mounts[1], "base", "sleep", "600")
	refused(t, "a disk that another has", w.Try(t.Context(), "snapshot", "restore", "machine", "all"), 1, "machine", "data", "other")
	expect(t, "the other's", w.Try(t.Context(), "exec", "other", "cat", "/data/note"), 0, "three\n")
	w.Berth(t, "stop", "other")
	w.Berth(t, "snapshot", "restore", "machine", "all")
	expect(t, "what it knows again", w.Try(t.Context(), "exec", "machine", "cat", "/root/note", "/data/note"), 0, "one\none\n")
	w.Berth(t, "stop", "machine") // its filesystem was never in a state that its memory did not fit
	w.Berth(t, "start", "other")
	expect(t, "the other's then", w.Try(t.Context(), "exec", "other", "sh", "-c", "cat /data/note; dmesg | grep -c 'EXT4-fs error'"), 1, "one\n0\n")
}

// snapshotsAtRest keeps the disk of a machine that does not run.
func snapshotsAtRest(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "machine", "base", "sh", "-c", "read -r n </root/runs; echo $((n+1)) >/root/runs; cat /root/runs; exec sleep 600")
	w.logged(t, "machine", "1\n")
	w.Berth(t, "stop", "machine")
	w.Berth(t, "snapshot", "create", "machine", "once")
	w.Berth(t, "start", "machine")
	w.logged(t, "machine", "2\n")
	refused(t, "while it runs", w.Try(t.Context(), "snapshot", "restore", "machine", "once"), 1, "machine", "once", "stop it first")
	w.Berth(t, "stop", "machine")
	w.Berth(t, "snapshot", "restore", "machine", "once")
	w.becomes(t, "machine", ".Status.State", "exited")
	w.Berth(t, "start", "machine")
	testenv.Eventually(t, time.Minute, func() error {
		// It says 1 until the entrypoint has counted this run, and 3 had nothing been put back.
		if r := w.Try(t.Context(), "exec", "machine", "cat", "/root/runs"); r.Stdout != "2\n" {
			return fmt.Errorf("it has run %s", r)
		}
		return nil
	})
	w.start(t, api.Container, "box", "base", "sleep", "600")
	refused(t, "of a container", w.Try(t.Context(), "snapshot", "create", "box"), 1, "box", "berth commit")
}
