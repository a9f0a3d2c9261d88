package qemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// monitored starts a QEMU that stands, and connects to its monitor for twenty seconds at
// most. How it ends comes by ended.
func monitored(t *testing.T, machine ...string) (m *Monitor, ended <-chan error, ctx context.Context) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "qmp")
	cmd := exec.Command(program(t), append([]string{"-nodefaults", "-no-user-config", "-display", "none", "-S",
		"-qmp", "unix:" + socket + ",server=on,wait=off"}, machine...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	go func() { over <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill() })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	var err error
	for m, err = Dial(ctx, socket); err != nil && ctx.Err() == nil; m, err = Dial(ctx, socket) {
		<-time.After(time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m, over, ctx
}

// TestMonitor drives a real QEMU through its states.
func TestMonitor(t *testing.T) {
	m, ended, ctx := monitored(t, "-machine", "none")
	states := func(want RunState) {
		t.Helper()
		if got, err := m.Status(ctx); err != nil || got != want {
			t.Errorf("state %s, %v; want %s", got, err, want)
		}
	}
	states(StatePrelaunch)
	for _, step := range []struct {
		do   func(context.Context) error
		want RunState
	}{{m.Cont, StateRunning}, {m.Stop, StatePaused}, {m.Cont, StateRunning}} {
		if err := step.do(ctx); err != nil {
			t.Fatal(err)
		}
		states(step.want)
	}
	var refused *QMPError
	if err := m.Balloon(ctx, 1<<20); !errors.As(err, &refused) || refused.Command != "balloon" {
		t.Errorf("a balloon of a machine without one: %v", err)
	}
	if err := m.Quit(ctx); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := m.Status(ctx); err == nil {
		t.Error("a QEMU that has ended answers")
	}
}

// fakeQEMU greets, and then answers each command with the lines given.
func fakeQEMU(t *testing.T, greeting string, answers ...string) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		fmt.Fprintln(theirs, greeting)
		in := bufio.NewScanner(theirs)
		for _, answer := range answers {
			if !in.Scan() {
				return
			}
			fmt.Fprintln(theirs, answer)
		}
		for in.Scan() {
		}
	}()
	return ours
}

func TestMonitorOfABrokenQEMU(t *testing.T) {
	const hello, ready = `{"QMP": {}}`, `{"return": {}, "id": 1}`
	for name, c := range map[string]struct {
		greeting string
		answers  []string
		want     string
	}{
		"no greeting":   {`{"event": "STOP"}`, nil, "greeting"},
		"no JSON":       {"hello", nil, "no QMP"},
		"endless line":  {strings.Repeat("x", maxLine+1), nil, "more than"},
		"empty answer":  {hello, []string{ready, `{"id": 2}`}, "neither"},
		"wrong type":    {hello, []string{ready, `{"return": 7, "id": 2}`}, "query-status"},
		"its own error": {hello, []string{ready, `{"error": {"class": "X", "desc": "no"}, "id": 2}`}, "refuses query-status: no"},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := newMonitor(t.Context(), fakeQEMU(t, c.greeting, c.answers...))
			if err == nil {
				_, err = m.Status(t.Context())
				m.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("err = %v; want it to say %q", err, c.want)
			}
		})
	}
}

func TestMonitorThatHangs(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	m, err := newMonitor(t.Context(), fakeQEMU(t, `{"QMP": {}}`, `{"event": "RESUME"}`+"\n"+`{"return": {}, "id": 1}`))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := m.Status(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("err = %v", err)
	}
}

// TestAwait passes over what it was not asked for, and ends with the machine or its
// caller's patience.
func TestAwait(t *testing.T) {
	const hello, ready = `{"QMP": {}}`, `{"return": {}, "id": 1}`
	events := func(lines ...string) *Monitor {
		m, err := newMonitor(t.Context(), fakeQEMU(t, hello, ready+"\n"+strings.Join(lines, "\n")))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		return m
	}
	if err := events(`{"event": "WATCHDOG"}`, `{"return": {}, "id": 9}`, `{"event": "STOP"}`).Await(t.Context(), EventStop, EventResume); err != nil {
		t.Error(err)
	}
	if err := events(`{"event": 7}`).Await(t.Context(), EventStop); err == nil || !strings.Contains(err.Error(), "no QMP") {
		t.Errorf("no event: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := events(`{"event": "RESUME"}`).Await(ctx, EventStop); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no patience: %v", err)
	}
}

func FuzzMonitor(f *testing.F) {
	f.Add("{\"QMP\": {}}\n{\"return\": {}, \"id\": 1}\n{\"return\": {\"status\": \"running\"}, \"id\": 2}\n{\"event\": \"RESUME\"}\n{\"event\": \"STOP\"}\n")
	f.Add("{\"QMP\": {}}\n{\"return\": {}, \"id\": 1}\n{\"return\": {\"status\": \"running\"}, \"id\": 2}\n")
	f.Add("{\"QMP\": {}}\n{\"return\": {}, \"id\": 1}\n{\"event\": \"MIGRATION\", \"data\": {\"status\": \"completed\"}}\n")
	f.Fuzz(func(t *testing.T, sent string) {
		ours, theirs := net.Pipe()
		go func() {
			go func() {
				buf := make([]byte, 4096)
				for _, err := theirs.Read(buf); err == nil; _, err = theirs.Read(buf) {
				}
			}()
			_, _ = theirs.Write([]byte(sent))
			theirs.Close()
		}()
		if m, err := newMonitor(t.Context(), ours); err == nil {
			_, _ = m.Status(t.Context())
			_ = m.Await(t.Context(), EventStop)
			_, _ = m.streamed(t.Context())
			m.Close()
		}
	})
}
