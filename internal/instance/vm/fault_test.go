package vm_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// start makes and starts a run that ends with the test.
func (h *harness) start(t *testing.T, process instance.Process) instance.Handle {
	t.Helper()
	run, err := h.driver().Create(t.Context(), h.prepare(t, process))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := run.Delete(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	if err := run.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return run
}

// ends waits for the end and checks that it is told in one clear line.
func ends(t *testing.T, run instance.Handle, state api.State, message string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	exit, err := run.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(exit.Error, message) || (message == "") != (exit.Error == "") || strings.Contains(exit.Error, "\n") {
		t.Errorf("exit %+v; want its error to say %q", exit, message)
	}
	if st, err := run.Status(ctx); err != nil || st.State != state {
		t.Errorf("status %+v, %v; want %s", st, err, state)
	}
}

func TestDeadQEMU(t *testing.T) {
	run := newHarness(t).start(t, sh("sleep 1000"))
	st, err := run.Status(t.Context())
	if err != nil || st.PID == 0 {
		t.Fatalf("%+v, %v", st, err)
	}
	if err := unix.Kill(st.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ends(t, run, api.Failed, "QEMU was killed by signal 9")
}

func TestPanickedGuest(t *testing.T) {
	run := newHarness(t).start(t, sh("echo c > /proc/sysrq-trigger"))
	ends(t, run, api.Failed, "the guest ended without an exit code; last words: Kernel panic - not syncing: sysrq triggered crash")
}

// TestHungGuest stops the guest's processors, so that its agent is silent.
func TestHungGuest(t *testing.T) {
	run := newHarness(t).start(t, sh("sleep 1000"))
	if err := run.(instance.Pauser).Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := run.(instance.Statser).Stats(ctx); !api.IsKind(err, api.Unavailable) || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("stats of a hung guest: %v", err)
	}
	if err := run.Signal(t.Context(), int(unix.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	ends(t, run, api.Exited, "")
}
