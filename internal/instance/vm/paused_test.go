package vm_test

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/berthcloud/berth/internal/agent"
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
	m, err := qemu.Dial(t.Context(), filepath.Join(p.RunDir, "qmp"))
	if err != nil {
		t.Fatal(err)
	}
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

// mark is a writer that is set by what is written to it.
type mark struct {
	once sync.Once
	set  chan struct{}
}

func (m *mark) Write(p []byte) (int, error) {
	m.once.Do(func() { close(m.set) })
	return len(p), nil
}
