package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/testenv"
)

// survivalScenarios kill what keeps instances, and look at what becomes of
// them.
var survivalScenarios = []scenario{
	{"berthd killed", realOnly, nil, daemonKilled},
	{"berthd killed while they end", realOnly, both, endedMeanwhile},
	{"berthd killed by order", localOnly, nil, killedAgainAndAgain},
	{"QEMU killed", realOnly, vms, qemuKilled},
	{"keeper killed", realOnly, containers, keeperKilled},
}

// counting writes a number ten times a second.
const counting = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done"

func daemonKilled(t *testing.T, w *world, _ api.Kind) {
	kinds := map[string]api.Kind{"box": api.Container, "machine": api.VM}
	pids := map[string]string{}
	for name, kind := range kinds {
		w.start(t, kind, name, "-p", map[string]string{"box": "8090:80", "machine": "8091:80"}[name], "base", "sh", "-c", counting)
		w.logged(t, name, "3\n")
		pids[name] = w.field(t, name, ".Status.PID")
	}
	w.Kill(t)
	// It stays dead while the instances count on.
	for _, pid := range pids {
		testenv.Shell(t, w.Machine, "kill -0 "+pid)
	}
	testenv.Shell(t, w.Machine, "sleep 1")
	w.Start(t)
	for name := range kinds {
		w.becomes(t, name, ".Status.State", "running")
		if now := w.field(t, name, ".Status.PID"); now != pids[name] {
			t.Errorf("%s was process %s and is %s", name, pids[name], now)
		}
		expect(t, "exec", w.Try(t.Context(), "exec", name, "echo", "here"), 0, "here\n")
		last := lastNumber(w.Berth(t, "logs", name))
		testenv.Eventually(t, time.Minute, func() error {
			if n := lastNumber(w.Berth(t, "logs", name)); n <= last+3 {
				return fmt.Errorf("%s counts no further than %d", name, n)
			}
			return nil
		})
		complete(t, name, w.Berth(t, "logs", name))
	}
}

// complete fails the test unless a log counts up from 1 without a gap.
func complete(t *testing.T, name, log string) {
	t.Helper()
	for i, line := range strings.Split(strings.TrimSpace(log), "\n") {
		if line != strconv.Itoa(i+1) {
			t.Errorf("%s: line %d of the log is %q", name, i+1, line)
			return
		}
	}
}

func lastNumber(log string) int {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	n, err := strconv.Atoi(lines[len(lines)-1])
	if err != nil {
		return 0
	}
	return n
}

func endedMeanwhile(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "box", "base", "sh", "-c", "echo ready; sleep 2; echo the last words; exit 23")
	w.logged(t, "box", "ready")
	pid := w.field(t, "box", ".Status.PID")
	w.Kill(t)
	w.WaitGone(t, pid)
	w.Start(t)
	w.becomes(t, "box", ".Status.State", "exited")
	if code := w.Berth(t, "wait", "box"); code != "23" {
		t.Errorf("exit code %s, want 23", code)
	}
	w.logged(t, "box", "the last words")
}

// killedAgainAndAgain kills berthd at different moments of starts and
// removals. Whatever it was doing, the next one finds a state that makes
// sense, and can take everything back.
func killedAgainAndAgain(t *testing.T, w *world, _ api.Kind) {
	for i := range 8 {
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.Try(t.Context(), run(api.Container, "-d", "--name", fmt.Sprintf("box%d", i), "base", "sleep", "600")...)
		}()
		time.Sleep(time.Duration(5*i) * time.Millisecond) //nolint:forbidigo // the moment of the blow, not a wait
		w.Kill(t)
		<-done
		w.Start(t)
	}
	for line := range strings.SplitSeq(w.Berth(t, "ps", "-a", "--format", "{{.Names}} {{.State}}"), "\n") {
		name, state, ok := strings.Cut(line, " ")
		if !ok {
			continue
		}
		if state == string(api.Starting) || state == string(api.Removing) {
			t.Errorf("%s is %s although nobody works on it", name, state)
		}
		w.Berth(t, "rm", "-f", name)
	}
}

func qemuKilled(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "machine", "base", "sh", "-c", "echo ready; sleep 600")
	w.logged(t, "machine", "ready")
	testenv.Shell(t, w.Machine, "kill -9 "+w.field(t, "machine", ".Status.PID"))
	w.becomes(t, "machine", ".Status.State", "failed")
	if why := w.field(t, "machine", ".Status.Error"); why == "" || strings.Contains(why, "\n") {
		t.Errorf("the reason is %q, not one line", why)
	}
	w.Berth(t, "start", "machine")
	w.becomes(t, "machine", ".Status.State", "running")
}

func keeperKilled(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "box", "base", "sh", "-c", counting)
	w.logged(t, "box", "3\n")
	pid := w.field(t, "box", ".Status.PID")
	for _, keeper := range w.PIDs(t, "berth-keeper") {
		testenv.Shell(t, w.Machine, "kill -9 "+keeper+" || true") // one may be about to end
		w.WaitGone(t, keeper)
	}
	testenv.Shell(t, w.Machine, "kill -0 "+pid) // the container does not notice
	testenv.Eventually(t, time.Minute, func() error {
		if len(w.PIDs(t, "berth-keeper")) == 0 {
			return fmt.Errorf("no new keeper")
		}
		return nil
	})
	before := lastNumber(w.Berth(t, "logs", "box"))
	testenv.Eventually(t, time.Minute, func() error {
		if n := lastNumber(w.Berth(t, "logs", "box")); n <= before+3 {
			return fmt.Errorf("the log ends at %d", n)
		}
		return nil
	})
	w.becomes(t, "box", ".Status.State", "running")
	if now := w.field(t, "box", ".Status.PID"); now != pid {
		t.Errorf("it was process %s and is %s", pid, now)
	}
	w.Berth(t, "stop", "-t", "1", "box")
}
