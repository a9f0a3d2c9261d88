package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/testenv"
)

// halfwayScenarios strike while a machine is being saved.
var halfwayScenarios = []scenario{
	{"killed half-way", localOnly, vms, killedHalfway},
}

// halfway is how much of a state has been written when the blow falls, in bytes: of some
// 90 MB.
const halfway = 20 << 20

// killedHalfway kills berthd, its keeper or QEMU when part of a machine's memory has been
// written, for a suspension, a snapshot and a clone. Each leaves one clear state: the
// machine runs on, is whole in what was to be made, or has failed with QEMU; and nothing
// that is half.
func killedHalfway(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "machine", "base", "sh", "-c", "head -c 48000000 /dev/urandom >/dev/shm/ballast; "+counting)
	w.logged(t, "machine", "3\n")
	for _, verb := range []string{"suspend machine", "snapshot create machine snap", "clone --name copy machine"} {
		for _, victim := range []string{"berthd", "berth-keeper", "QEMU"} {
			what := victim + " killed in " + verb
			r := strike(t, w, verb, func() {
				switch victim {
				case "berthd":
					w.Kill(t)
				case "QEMU":
					testenv.Shell(t, w.Machine, "kill -9 "+w.field(t, "machine", ".Status.PID"))
				default:
					testenv.Shell(t, w.Machine, "kill -9 "+strings.Join(w.PIDs(t, victim), " ")+" || true") // one may be about to end
				}
			})
			if strings.Count(r.Stderr, "\n") > 1 || strings.Contains(r.Stderr, "EOF") {
				t.Errorf("%s: %s", what, r)
			}
			state := "running"
			switch {
			case victim == "berthd":
				w.Start(t)
			case victim == "QEMU":
				state = "failed"
				w.becomes(t, "machine", ".Status.State", state)
				if said := w.field(t, "machine", ".Status.Error"); r.Exit == 0 || !strings.Contains(said, "killed by signal 9") {
					t.Errorf("%s: %q, and it says %s", what, said, r)
				}
			case r.Exit == 0 && verb == "suspend machine": // it does not need the keeper to be saved
				state = "suspended"
			}
			made := victim == "berth-keeper" && r.Exit == 0
			settled(t, w, what, state, made)
			if made {
				w.Berth(t, strings.Fields(map[string]string{"suspend": "resume machine", "snapshot": "snapshot rm machine snap", "clone": "rm -f copy"}[strings.Fields(verb)[0]])...)
			} else if state == "failed" {
				w.Berth(t, "start", "machine")
				w.logged(t, "machine", "3\n")
			}
			goesOn(t, w, "machine")
		}
	}
}

// strike lets a blow fall on a command when part of a machine's memory has been written,
// and no more until then, and returns what the command said.
func strike(t *testing.T, w *world, command string, blow func()) testenv.Result {
	t.Helper()
	pid := w.field(t, "machine", ".Status.PID")
	done := make(chan testenv.Result, 1)
	go func() { done <- w.Try(t.Context(), strings.Fields(command)...) }()
	for {
		for _, pattern := range []string{"suspended.new/state", "snapshots/*.new/state"} {
			files, err := filepath.Glob(filepath.Join(w.Dir, "root/instances/*", pattern))
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range files {
				if info, err := os.Stat(file); err == nil && info.Size() >= halfway {
					testenv.Shell(t, w.Machine, "kill -STOP "+pid)
					blow()
					testenv.Shell(t, w.Machine, "kill -CONT "+pid+" 2>/dev/null || true")
					return <-done
				}
			}
		}
		select {
		case r := <-done:
			t.Fatalf("%s was too fast to be struck: %s", command, r)
		case <-time.After(200 * time.Microsecond):
		}
	}
}

// settled checks that a machine is in a state, and that what was to be made of it is whole
// or not there at all.
func settled(t *testing.T, w *world, what, state string, made bool) {
	t.Helper()
	testenv.Eventually(t, time.Minute, func() error {
		if got := w.field(t, "machine", ".Status.State"); got != state {
			return fmt.Errorf("%s: it is %s, not %s", what, got, state)
		}
		return nil
	})
	left := testenv.Shell(t, w.Machine, "cd "+w.Dir+"/root/instances; ls -d */*.new */*.old */snapshots/*.* 2>/dev/null; ls -d * | wc -l")
	want := "1"
	if made && strings.Contains(what, "clone") {
		want = "2"
	}
	if left != want {
		t.Errorf("%s: left behind: %s", what, left)
	}
	snapshots := w.Berth(t, "snapshot", "ls", "-q", "machine")
	if (snapshots == "snap") != (made && strings.Contains(what, "snapshot")) {
		t.Errorf("%s: its snapshots are %q", what, snapshots)
	}
}

// goesOn checks that a machine counts on.
func goesOn(t *testing.T, w *world, name string) {
	t.Helper()
	last := lastNumber(w.Berth(t, "logs", name))
	testenv.Eventually(t, time.Minute, func() error {
		if n := lastNumber(w.Berth(t, "logs", name)); n <= last {
			return fmt.Errorf("%s counts no further than %d", name, n)
		}
		return nil
	})
}
