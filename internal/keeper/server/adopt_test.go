package server_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/keeper"
)

// TestKilledKeeper kills the keeper under a process that writes all the time:
// the process does not notice, no line is lost but the one in flight, and the
// exit code arrives at a client that waited all along.
func TestKilledKeeper(t *testing.T) {
	w := newWorld(t)
	const lines = 20_000
	w.start(w.shell("p", fmt.Sprintf("i=0; while [ $i -lt %d ]; do echo line $i; i=$((i+1)); done; exit 42", lines)))
	exit := make(chan keeper.Exit, 1)
	go func() { exit <- w.wait("p") }()
	w.eventually("it writes", func() bool { return strings.Contains(w.log("p"), "line 500\n") })
	w.killKeeper()
	if got := <-exit; got.Code != 42 || got.Unknown != "" {
		t.Errorf("exit = %+v", got)
	}
	st, err := w.c.Status(w.ctx, "p")
	if err != nil || !st.Adopted || st.Exit == nil || st.Exit.Code != 42 {
		t.Errorf("status = %+v, %v", st, err)
	}
	missing, at := 0, 0
	for line := range strings.Lines(w.log("p")) {
		var n int
		if _, err := fmt.Sscanf(line, "stdout F line %d\n", &n); err != nil {
			continue // the rest of a line whose beginning the dead keeper held
		}
		missing += n - at
		at = n + 1
	}
	// The dead keeper may have read one buffer that it did not write.
	if at != lines || missing > 32<<10/len("line 0\n") {
		t.Errorf("%d lines of %d are missing, the last one is %d", missing, lines, at-1)
	}
}

func TestAdopt(t *testing.T) {
	w := newWorld(t)
	if err := unix.Mkfifo(filepath.Join(w.run, "go"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.start(w.shell("runs", "read x < "+filepath.Join(w.run, "go")+"; echo $x; exit 8"))
	w.start(w.shell("ended", "exit 9"))
	w.wait("ended")
	w.start(w.runtime("left", "exec sleep 1000"))
	victim := w.start(w.shell("victim", "exec sleep 1000"))
	tty := w.shell("tty", "exec sleep 1000")
	tty.Stdio.Kind = keeper.PTY
	w.start(tty)
	quick := w.shell("ephemeral", "exec sleep 1000")
	quick.Ephemeral = true
	lost := w.start(quick)

	w.killKeeper()
	unix.Kill(victim.PID, unix.SIGKILL)
	w.eventually("the victim is dead", func() bool { return !running(victim.PID) })
	if running(lost.PID) {
		unix.Kill(lost.PID, unix.SIGKILL)
	}

	list, err := w.c.List(w.ctx)
	if err != nil || len(list) != 5 {
		t.Fatalf("list = %+v, %v", list, err)
	}
	if exit := w.wait("ended"); exit.Code != 9 {
		t.Errorf("ended: %+v", exit)
	}
	// Nobody can know how the victim ended, unless it is a zombie still.
	if exit := w.wait("victim"); exit.Unknown == "" && exit.Signal != 9 {
		t.Errorf("victim: %+v", exit)
	}
	// The hangup of its terminal ended it, now or before the adoption.
	if exit := w.wait("tty"); exit.Unknown == "" && exit.Signal != int(unix.SIGHUP) {
		t.Errorf("tty: %+v", exit)
	}
	if err := w.c.Signal(w.ctx, "left", unix.SIGTERM); err != nil {
		t.Error(err)
	}
	if exit := w.wait("left"); exit.Signal != int(unix.SIGTERM) {
		t.Errorf("left: %+v", exit)
	}
	if err := os.WriteFile(filepath.Join(w.run, "go"), []byte("after\n"), 0); err != nil {
		t.Error(err)
	}
	if exit := w.wait("runs"); exit.Code != 8 {
		t.Errorf("runs: %+v", exit)
	}
	if got := w.log("runs"); got != "stdout F after\n" {
		t.Errorf("log: %q", got)
	}
}

// TestAdoptReusedPID: a stored pid that belongs to another process by now is
// never watched, let alone killed.
func TestAdoptReusedPID(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(w.run, "keeper", "p")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	state := fmt.Sprintf(`{"process":{"id":"p","mode":"direct","stdio":{"kind":"pipes"}},"pid":%d,"birth":1}`, os.Getpid())
	if err := os.WriteFile(filepath.Join(dir, "state.json"), []byte(state), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, junk := range []string{"empty", "torn"} {
		dir := filepath.Join(w.run, "keeper", junk)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(w.run, "keeper", "torn", "state.json"), []byte(state[:40]), 0o600); err != nil {
		t.Fatal(err)
	}
	if exit := w.wait("p"); exit.Unknown == "" || exit.Code != 255 {
		t.Errorf("exit = %+v", exit)
	}
	if err := w.c.Signal(w.ctx, "p", unix.SIGKILL); !api.IsKind(err, api.Conflict) {
		t.Errorf("signal: %v", err)
	}
	if list, err := w.c.List(w.ctx); err != nil || len(list) != 1 {
		t.Errorf("list = %+v, %v", list, err)
	}
}

func TestOneKeeper(t *testing.T) {
	w := newWorld(t)
	first := w.keeperPID()
	// A second keeper of the same directory refuses, even with the socket gone.
	if err := os.Remove(filepath.Join(w.run, "keeper.sock")); err != nil {
		t.Fatal(err)
	}
	_, err := w.c.Ping(w.ctx)
	if err == nil || !strings.Contains(err.Error(), "another keeper runs") {
		t.Errorf("error = %v", err)
	}
	unix.Kill(first, unix.SIGKILL)
	w.eventually("it is dead", func() bool { return !running(first) })
}

// TestSockets stands in for QEMU: a process that listens on its streams'
// sockets some time after it has started.
func TestSockets(t *testing.T) {
	w := newWorld(t)
	p := w.shell("vm", "echo qemu says this >&2; exec sleep 1000")
	path := func(name string) string { return filepath.Join(w.run, name) }
	p.Stdio = keeper.Stdio{Kind: keeper.Sockets, StdinOnce: true, StdinSocket: path("in"), StdoutSocket: path("out"), StderrSocket: path("err")}
	_, a, err := w.c.StartAttached(w.ctx, p, keeper.AttachOptions{Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	listeners := map[string]net.Listener{}
	for _, name := range []string{"in", "out", "err"} {
		if listeners[name], err = net.Listen("unix", path(name)); err != nil {
			t.Fatal(err)
		}
		defer listeners[name].Close()
	}
	accept := func(name string) net.Conn {
		t.Helper()
		c, err := listeners[name].Accept()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	in, out, errs := accept("in"), accept("out"), accept("err")
	if _, err := a.Write([]byte("input")); err != nil {
		t.Fatal(err)
	}
	if err := a.CloseStdin(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	if n, err := in.Read(buf); err != nil || string(buf[:n]) != "input" {
		t.Errorf("input: %q %v", buf[:n], err)
	}
	if _, err := in.Read(buf); err == nil {
		t.Error("no end of input")
	}
	fmt.Fprintln(out, "to stdout")
	fmt.Fprintln(errs, "to stderr")
	w.eventually("both are logged", func() bool {
		got := w.log("vm")
		return strings.Contains(got, "stdout F to stdout\n") && strings.Contains(got, "stderr F to stderr\n")
	})

	w.killKeeper()
	w.keeperPID()
	out = accept("out")
	fmt.Fprintln(out, "after")
	w.eventually("the next keeper has connected", func() bool { return strings.Contains(w.log("vm"), "stdout F after\n") })
	if err := w.c.Signal(w.ctx, "vm", unix.SIGKILL); err != nil {
		t.Error(err)
	}
	w.wait("vm")
}

func TestSocketsTail(t *testing.T) {
	w := newWorld(t)
	p := w.shell("vm", "echo qemu: no such disk >&2; exit 1")
	p.Stdio = keeper.Stdio{Kind: keeper.Sockets, StdoutSocket: filepath.Join(w.run, "never")}
	w.start(p)
	if exit := w.wait("vm"); exit.Code != 1 || exit.Stderr != "qemu: no such disk\n" {
		t.Errorf("exit = %+v", exit)
	}
}
