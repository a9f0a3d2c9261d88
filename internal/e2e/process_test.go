package e2e

import (
	"strings"
	"testing"

	"github.com/berthcloud/berth/api"
)

// processScenarios are about the entrypoint itself: how it is started, what it
// sees, how its streams and its end come back.
var processScenarios = []scenario{
	{"streams and exit code", everywhere, both, streamsAndExit},
	{"environment", realOnly, both, environment},
	{"standard input", everywhere, both, standardInput},
	{"terminal", realOnly, both, terminal},
	{"signals", everywhere, both, signals},
	{"exec", realOnly, both, execs},
}

func streamsAndExit(t *testing.T, w *world, kind api.Kind) {
	r := w.Try(t.Context(), run(kind, "--rm", "base", "sh", "-c", "echo out; echo err >&2; exit 7")...)
	expect(t, "run", r, 7, "out\n")
	if !strings.Contains(r.Stderr, "err\n") {
		t.Errorf("standard error is %q", r.Stderr)
	}
	// Much output, and its end, arrive whole although nobody waits for it.
	r = w.Try(t.Context(), run(kind, "--rm", "base", "sh", "-c", "seq 20000; echo end")...)
	if lines := strings.Count(r.Stdout, "\n"); lines != 20001 || !strings.HasSuffix(r.Stdout, "20000\nend\n") {
		t.Errorf("%d lines of 20001 arrived; exit %d, %q", lines, r.Exit, r.Stderr)
	}
}

func environment(t *testing.T, w *world, kind api.Kind) {
	r := w.Try(t.Context(), run(kind, "--rm", "-e", "GREETING=hello world", "-u", "1000:1001", "-w", "/tmp", "-h", "box",
		"--entrypoint", "sh", "base", "-c", `echo "$GREETING|$(id -u):$(id -g)|$PWD|$(hostname)|$(cat /proc/sys/kernel/hostname)"`)...)
	expect(t, "run", r, 0, "hello world|1000:1001|/tmp|box|box\n")
}

func standardInput(t *testing.T, w *world, kind api.Kind) {
	text := strings.Repeat("one line of text\n", 5000)
	r := w.TryInput(t.Context(), strings.NewReader(text), run(kind, "--rm", "-i", "base", "cat")...)
	if r.Stdout != text || r.Exit != 0 {
		t.Errorf("%d of %d bytes came back; exit %d, %q", len(r.Stdout), len(text), r.Exit, r.Stderr)
	}
	// Without -i the entrypoint sees its end at once.
	expect(t, "run", w.TryInput(t.Context(), strings.NewReader(text), run(kind, "--rm", "base", "cat")...), 0, "")
}

func terminal(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "term", "-t", "base", "sh", "-c", "test -t 0 && test -t 1 && echo terminal; sleep 600")
	w.logged(t, "term", "terminal")
}

func signals(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "sig", "base", "sh", "-c", `trap 'echo got it; exit 5' USR1; echo ready; while :; do sleep 0.1; done`)
	w.logged(t, "sig", "ready")
	w.Berth(t, "kill", "-s", "USR1", "sig")
	if code := w.Berth(t, "wait", "sig"); code != "5" {
		t.Errorf("exit code %s, want 5", code)
	}
	w.logged(t, "sig", "got it")
}

func execs(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "box", "-e", "FROM=run", "base", "sleep", "600")
	r := w.Try(t.Context(), "exec", "-e", "MORE=exec", "-w", "/etc", "-u", "7:8", "box", "sh", "-c", `echo "$FROM $MORE $PWD $(id -u) $(id -g)"; exit 9`)
	expect(t, "exec", r, 9, "run exec /etc 7 8\n")
	expect(t, "exec -i", w.TryInput(t.Context(), strings.NewReader("abc"), "exec", "-i", "box", "cat"), 0, "abc")
	refused(t, "exec of nothing", w.Try(t.Context(), "exec", "box", "no-such-command"), 127, "no-such-command")
	refused(t, "exec of data", w.Try(t.Context(), "exec", "box", "/etc/passwd"), 126, "/etc/passwd")
	if top := w.Berth(t, "top", "box"); !strings.Contains(top, "sleep 600") {
		t.Errorf("top shows no sleep: %s", top)
	}
}
