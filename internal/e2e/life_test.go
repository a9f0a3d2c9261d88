package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/berthcloud/berth/api"
)

// lifeScenarios lead instances through their states.
var lifeScenarios = []scenario{
	{"life", everywhere, both, life},
	{"pause", realOnly, both, pause},
	{"logs", everywhere, both, logs},
	{"stats", realOnly, both, stats},
	{"side by side", localOnly, nil, sideBySide},
	{"writable layer", realOnly, both, writableLayer},
	{"events", everywhere, nil, events},
	{"prune", everywhere, nil, prune},
}

func life(t *testing.T, w *world, kind api.Kind) {
	create := run(kind, "--name", "box", "--label", "tier=web", "base", "sleep", "600")
	create[0] = "create"
	id := w.Berth(t, create...)
	t.Cleanup(func() { w.remove(t, "box", "crate") })
	if len(id) != 64 {
		t.Errorf("the id is %q", id)
	}
	w.becomes(t, "box", ".Status.State", "created")
	w.Berth(t, "start", id[:12])
	w.becomes(t, "box", ".Status.State", "running")
	if got := w.Berth(t, "ps", "--filter", "label=tier=web", "--format", "{{.Names}}"); got != "box" {
		t.Errorf("ps shows %q", got)
	}
	w.Berth(t, "rename", "box", "crate")
	w.Berth(t, "restart", "-t", "1", "crate")
	w.becomes(t, "crate", ".Status.State", "running")
	w.Berth(t, "stop", "-t", "1", "crate")
	w.becomes(t, "crate", ".Status.State", "exited")
	refused(t, "kill of what has ended", w.Try(t.Context(), "kill", "crate"), 1, "crate")
	w.Berth(t, "start", "crate")
	refused(t, "rm of what runs", w.Try(t.Context(), "rm", "crate"), 1, "crate", "-f")
	w.Berth(t, "rm", "-f", "crate")
	refused(t, "inspect of nothing", w.Try(t.Context(), "inspect", "crate"), 1, "crate")
}

func pause(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "box", "base", "sleep", "600")
	w.Berth(t, "pause", "box")
	w.becomes(t, "box", ".Status.State", "paused")
	refused(t, "pause twice", w.Try(t.Context(), "pause", "box"), 1, "box")
	w.Berth(t, "unpause", "box")
	w.becomes(t, "box", ".Status.State", "running")
	expect(t, "exec", w.Try(t.Context(), "exec", "box", "echo", "awake"), 0, "awake\n")
}

func logs(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "box", "base", "sh", "-c", "for i in 1 2 3; do echo line $i; done; sleep 0.3; echo last >&2")
	w.Berth(t, "wait", "box")
	r := w.Try(t.Context(), "logs", "box")
	if r.Exit != 0 || r.Stdout != "line 1\nline 2\nline 3\n" || r.Stderr != "last\n" {
		t.Errorf("logs: %s", r)
	}
	r = w.Try(t.Context(), "logs", "--tail", "2", "box")
	if r.Stdout+r.Stderr != "line 3\nlast\n" {
		t.Errorf("logs --tail 2: %s", r)
	}
	stamped := w.Berth(t, "logs", "-t", "--tail", "2", "box")
	if !strings.Contains(stamped, "T") || !strings.Contains(stamped, "Z line 3") {
		t.Errorf("logs -t: %q", stamped)
	}
	// -f ends with the instance.
	expect(t, "logs -f", w.Try(t.Context(), "logs", "-f", "--tail", "0", "box"), 0, "")
}

func stats(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "box", "-m", "256m", "base", "sh", "-c", "head -c 10000000 /dev/zero | md5sum; sleep 600")
	w.logged(t, "box", "  -")
	var s api.Stats
	text := w.Berth(t, "stats", "--no-stream", "--format", "json", "box")
	if err := json.Unmarshal([]byte(strings.Trim(text, "[]\n ")), &s); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if s.Memory <= 0 || s.CPU <= 0 || s.PIDs <= 0 {
		t.Errorf("stats: %s", text)
	}
	if kind == api.Container && s.MemoryLimit != 256<<20 {
		t.Errorf("memory limit %d, want %d", s.MemoryLimit, 256<<20)
	}
}

func sideBySide(t *testing.T, w *world, _ api.Kind) {
	w.start(t, api.Container, "box", "base", "sh", "-c", "uname -r; sleep 600")
	w.start(t, api.VM, "machine", "base", "sh", "-c", "uname -r; sleep 600")
	if got := w.Berth(t, "ps", "--format", "{{.Names}} {{.Kind}}"); !strings.Contains(got, "box container") || !strings.Contains(got, "machine vm") {
		t.Errorf("ps shows %q", got)
	}
	if a, b := w.logged(t, "box", "."), w.logged(t, "machine", "."); a == b {
		t.Errorf("both run the kernel %s", a)
	}
}

func writableLayer(t *testing.T, w *world, kind api.Kind) {
	// Each life says its word last, when all that it does to the disk is done.
	w.start(t, kind, "box", "base", "sh", "-c",
		"if test -e /kept; then cat /kept; else echo old >/kept; rm /etc/group; sync; echo new; fi; exec sleep 600")
	w.logged(t, "box", "new")
	w.Berth(t, "restart", "-t", "1", "box")
	w.logged(t, "box", "old")
	expect(t, "a deleted file", w.Try(t.Context(), "exec", "box", "test", "-e", "/etc/group"), 1, "")
	expect(t, "the image", w.Try(t.Context(), run(kind, "--rm", "base", "sh", "-c", "test -e /etc/group && ! test -e /kept")...), 0, "")
}

func events(t *testing.T, w *world, _ api.Kind) {
	before := w.Berth(t, "info", "--format", "{{.Version}}") // the daemon answers
	_ = before
	w.Berth(t, run(api.Container, "--rm", "--name", "box", "base", "true")...)
	got := w.Berth(t, "events", "--since", "1m", "--until", "0s", "--format", "{{.Action}} {{.Name}}")
	for _, want := range []string{"create box", "start box", "exit box", "remove box"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q among the events:\n%s", want, got)
		}
	}
}

func prune(t *testing.T, w *world, _ api.Kind) {
	w.start(t, api.Container, "done", "base", "true")
	w.Berth(t, "wait", "done")
	w.start(t, api.Container, "runs", "base", "sleep", "600")
	w.Berth(t, "system", "prune", "-f")
	if got := w.Berth(t, "ps", "-a", "--format", "{{.Names}}"); got != "runs" {
		t.Errorf("prune left %q, want only what runs", got)
	}
	expect(t, "the image in use", w.Try(t.Context(), run(api.Container, "--rm", "base", "true")...), 0, "")
}
