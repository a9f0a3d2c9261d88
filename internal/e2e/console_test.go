package e2e

import (
	"strings"
	"testing"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/testenv"
)

// consoleScenarios are about what surrounds a VM.
var consoleScenarios = []scenario{
	{"console", localOnly, vms, serialConsole},
	{"console of a killed QEMU", localOnly, vms, consoleOfKilled},
}

// serialConsole types to a shell on the guest's serial line, until it ends.
func serialConsole(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "line", "base", "sh", "-c", "echo ready; exec sh </dev/ttyS0 >/dev/ttyS0 2>&1")
	w.logged(t, "line", "ready\n")
	r := w.TryInput(t.Context(), strings.NewReader("echo said $((40+2)); exit 7\n"), "console", "line")
	if r.Exit != 0 || !strings.Contains(r.Stdout, "said 42\r\n") || r.Stderr != "berth: line has ended\n" {
		t.Errorf("console: %s", r)
	}
	w.becomes(t, "line", ".Status.ExitCode", "7")
	if log := w.Berth(t, "logs", "line"); log != "ready" {
		t.Errorf("the console is not the log: %q", log)
	}
	refused(t, "of one that does not run", w.Try(t.Context(), "console", "line"), 1, "line", "exited", "berth start line")
	w.start(t, api.Container, "box", "base", "sleep", "1000")
	refused(t, "of a container", w.Try(t.Context(), "console", "box"), 1, "box", "container", "berth attach box")
}

// consoleOfKilled has a guest flood its console with control sequences while one
// client watches and QEMU is killed: none of it gets into what Berth itself says.
func consoleOfKilled(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "loud", "base", "sh", "-c", `echo ready; while :; do printf '\033]0;owned\007\033[31mloud\n'; done >/dev/ttyS0`)
	w.logged(t, "loud", "ready\n")
	watched := make(chan testenv.Result, 1)
	go func() { watched <- w.Try(t.Context(), "console", "--no-stdin", "loud") }()
	expect(t, "exec beside it", w.Try(t.Context(), "exec", "loud", "echo", "here"), 0, "here\n")
	testenv.Shell(t, w.Machine, "sleep 1; kill -9 "+w.field(t, "loud", ".Status.PID"))
	r := <-watched
	if r.Exit != 0 || !strings.Contains(r.Stdout, "\x1b[31mloud\r\n") || !strings.HasPrefix(r.Stderr, "berth: loud has ended: QEMU was killed by signal 9") {
		t.Errorf("console: exit %d, %d bytes, %q, %v", r.Exit, len(r.Stdout), r.Stderr, r.Err)
	}
	w.becomes(t, "loud", ".Status.State", "failed")
	if said := r.Stderr + w.Berth(t, "inspect", "loud"); strings.ContainsAny(said, "\x1b\a") {
		t.Errorf("a control sequence of the guest's: %q", said)
	}
}
