package server_test

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/keeper"
)

// console reads output of a serial console until want has come.
func (w *world) console(a *keeper.Attachment, want string) string {
	w.Helper()
	var got strings.Builder
	for !strings.Contains(got.String(), want) {
		ev, err := a.Next()
		if err != nil || ev.Exit != nil {
			w.Fatalf("after %q, without %q: %+v, %v", got.String(), want, ev.Exit, err)
		}
		got.Write(ev.Data)
	}
	return got.String()
}

// TestSerialConsole types to a process that stands in for QEMU, from two clients,
// one of which comes later, across the death of a keeper.
func TestSerialConsole(t *testing.T) {
	w := newWorld(t)
	p := w.shell("vm", "echo booting; while read line; do echo got $line; done; echo over")
	p.Stdio = keeper.Stdio{Kind: keeper.Sockets, Console: true}
	w.start(p)
	open := func() *keeper.Attachment {
		a, err := w.c.Attach(w.ctx, "vm", keeper.AttachOptions{Console: true, Stdin: true, Stdout: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { a.Close() })
		return a
	}
	enter := func(a *keeper.Attachment, text string) {
		if _, err := a.Write([]byte(text)); err != nil {
			t.Error(err)
		}
	}
	first := open()
	w.console(first, "booting\n")
	enter(first, "one\n")
	w.console(first, "got one\n")
	second := open()
	if got := w.console(second, "got one\n"); got != "booting\ngot one\n" {
		t.Errorf("what was kept: %q", got)
	}
	enter(second, "two\n")
	w.console(first, "got two\n")
	w.console(second, "got two\n")
	if err := second.CloseStdin(); err != nil { // a line has no end
		t.Error(err)
	}
	w.killKeeper()
	if _, err := first.Next(); !api.IsKind(err, api.Unavailable) {
		t.Errorf("the keeper is dead: %v", err)
	}
	third := open()
	enter(third, "three\n")
	w.console(third, "got three\n")
	if err := w.c.Signal(w.ctx, "vm", unix.SIGKILL); err != nil {
		t.Error(err)
	}
	if ev, err := third.Next(); err != nil || ev.Exit == nil {
		t.Errorf("it was killed: %+v, %v", ev, err)
	}
	if exit := w.wait("vm"); exit.Stderr != "got three\n" {
		t.Errorf("exit = %+v", exit)
	}
}

// TestFloodedConsole: neither a guest that floods its console nor a client that
// does not read costs the other clients or the keeper more than their bound, and
// input that nobody reads holds nobody up.
func TestFloodedConsole(t *testing.T) {
	w := newWorld(t)
	p := w.shell("vm", megabytes(8)+"; echo last; exec sleep 1000")
	p.Stdio = keeper.Stdio{Kind: keeper.Sockets, Console: true}
	w.start(p)
	attach := func(o keeper.AttachOptions) *keeper.Attachment {
		a, err := w.c.Attach(w.ctx, "vm", o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { a.Close() })
		return a
	}
	stuck := attach(keeper.AttachOptions{Console: true, Stdout: true, Wait: true})
	w.eventually("the flood is over", func() bool {
		a := attach(keeper.AttachOptions{Console: true, Stdout: true})
		defer a.Close()
		ev, err := a.Next()
		return err == nil && strings.HasSuffix(string(ev.Data), "\nlast\n")
	})
	late := attach(keeper.AttachOptions{Console: true, Stdin: true, Stdout: true})
	if kept := w.console(late, "last\n"); len(kept) < keeper.ConsoleKept-100 || len(kept) > 3*keeper.ConsoleKept || !strings.HasPrefix(kept, "0123456789abcde\n") {
		t.Errorf("%d bytes were kept, which begin with %.20q", len(kept), kept)
	}
	for range 4 { // more than a pipe holds
		if _, err := late.Write(make([]byte, 64<<10)); err != nil {
			t.Error(err)
		}
	}
	if out, _, _, err := collect(w.ctx, stuck); !api.IsKind(err, api.Exhausted) || len(out) > 4*keeper.ClientBuffer {
		t.Errorf("the client that did not read: %d bytes, %v", len(out), err)
	}
	if err := w.c.Signal(w.ctx, "vm", unix.SIGKILL); err != nil {
		t.Error(err)
	}
	w.wait("vm")
}

func TestNoConsole(t *testing.T) {
	w := newWorld(t)
	w.start(w.shell("p", "exec sleep 1000"))
	if _, err := w.c.Attach(w.ctx, "p", keeper.AttachOptions{Console: true, Stdout: true}); !api.IsKind(err, api.Unsupported) {
		t.Errorf("a process without a console: %v", err)
	}
	p := w.shell("q", "true")
	p.Stdio.Console = true
	if _, err := w.c.Start(w.ctx, p); !api.IsKind(err, api.Invalid) {
		t.Errorf("a console of pipes: %v", err)
	}
	if err := w.c.Signal(w.ctx, "p", unix.SIGKILL); err != nil {
		t.Error(err)
	}
	w.wait("p")
}
