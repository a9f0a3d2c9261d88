package vm_test

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/agent"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/keeper"
	"github.com/berthcloud/berth/internal/qemu"
	"github.com/berthcloud/berth/internal/testenv"
)

// TestHostDiesWhilePaused has a berthd die while a machine stands still whose guest
// talks to it, and lets the machine go on before the next berthd has come: QEMU then
// takes nothing of the guest until that one has left too.
func TestHostDiesWhilePaused(t *testing.T) {
	h := newHarness(t)
	p := h.prepare(t, sh("while :; do echo still here; sleep 0.02; done"))
	next := h.begin(t, p)
	dial := func(ctx context.Context) (agent.Conn, error) { return keeper.Dial(ctx, filepath.Join(p.RunDir, "ctl")) }
	client, err := agent.Connect(t.Context(), dial)
	if err != nil {
		t.Fatal(err)
	}
	talks := &mark{set: make(chan struct{})}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, err := client.Exec(t.Context(), agent.Exec{Process: agent.Process{Args: []string{"yes"}}}, agent.Streams{Stdout: talks})
		if err == nil {
			t.Error("the command has ended")
		}
	}()
	<-talks.set
	m := monitor(t, p)
	if err := m.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	client.Close()
	<-ended
	n := len(lines(t, p))
	if err := m.Cont(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.Close()
	testenv.Eventually(t, time.Minute, func() error { return says(t, p, n+10) })
	if out := run(t, next, "echo answered"); out != "answered\n" {
		t.Errorf("a command said %q", out)
	}
}

// TestPausedUnanswered pauses a machine whose guest is asked to hold itself and has no time
// to say that it does: in the end it goes on, however late it has read what was asked.
func TestPausedUnanswered(t *testing.T) {
	h := newHarness(t)
	p := h.prepare(t, sh("while :; do echo still here; sleep 0.02; done"))
	machine := h.begin(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	talks := &mark{set: make(chan struct{})}
	go func() { // so that the request is sent at once
		defer close(ended)
		_, _ = machine.(instance.Execer).Exec(ctx, api.Exec{Command: []string{"sh", "-c", "echo; sleep 600"}}, instance.Streams{Stdout: talks})
	}()
	<-talks.set
	for range 3 {
		m := monitor(t, p)
		if err := m.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.Close()
		if err := machine.(instance.Pauser).Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := machine.(instance.Pauser).Unpause(t.Context()); err != nil {
			t.Fatal(err)
		}
		n := len(lines(t, p))
		testenv.Eventually(t, time.Minute, func() error { return says(t, p, n+10) })
	}
	cancel()
	<-ended
}

// monitor connects to an instance's QEMU, which takes one client at a time.
func monitor(t *testing.T, p *instance.Prepared) *qemu.Monitor {
	t.Helper()
	m, err := qemu.Dial(t.Context(), filepath.Join(p.RunDir, "qmp"))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// mark is a writer that is set by what is written to it.
type mark struct {
	once sync.Once
	set  chan struct{}
}

func (m *mark) Write(p []byte) (int, error) {
	m.once.Do(func() { close(m.set) })
	return len(p), nil
}
