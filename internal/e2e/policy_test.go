package e2e

import (
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/testenv"
)

// policyScenarios are about what Berth does by itself.
var policyScenarios = []scenario{
	{"restart on failure", everywhere, both, restartOnFailure},
	{"restart always", realOnly, containers, restartAlways},
	{"health", realOnly, both, health},
	{"remove by itself", everywhere, both, removeByItself},
}

func restartOnFailure(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "box", "--restart", "on-failure:2", "base", "sh", "-c", "echo again; exit 3")
	w.becomes(t, "box", ".Status.Restarts", "2")
	w.becomes(t, "box", ".Status.State", "exited")
	w.logged(t, "box", "again\nagain\nagain\n")
	w.start(t, kind, "fine", "--restart", "on-failure", "base", "true")
	w.becomes(t, "fine", ".Status.State", "exited")
	w.becomes(t, "fine", ".Status.Restarts", "0")
}

func restartAlways(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "box", "--restart", "always", "base", "sleep", "600")
	testenv.Shell(t, w.Machine, "kill -9 "+w.field(t, "box", ".Status.PID"))
	w.becomes(t, "box", ".Status.Restarts", "1")
	w.becomes(t, "box", ".Status.State", "running")
	w.Berth(t, "stop", "-t", "1", "box") // the user's word stands above the policy
	w.becomes(t, "box", ".Status.State", "exited")
	w.becomes(t, "box", ".Status.Stopped", "true")
}

func health(t *testing.T, w *world, kind api.Kind) {
	w.start(t, kind, "box", "--health-cmd", "test -e /tmp/well", "--health-interval", "300ms", "--health-retries", "2", "base", "sleep", "600")
	w.becomes(t, "box", ".Status.Health", "unhealthy")
	w.Berth(t, "exec", "box", "touch", "/tmp/well")
	w.becomes(t, "box", ".Status.Health", "healthy")
}

func removeByItself(t *testing.T, w *world, kind api.Kind) {
	w.Berth(t, run(kind, "-d", "--rm", "--name", "box", "base", "true")...)
	testenv.Eventually(t, time.Minute, func() error {
		if w.Berth(t, "ps", "-a", "-q") != "" {
			return &leftError{"box"}
		}
		return nil
	})
}
