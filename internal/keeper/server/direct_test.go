package server_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/keeper"
)

func TestDirect(t *testing.T) {
	w := newWorld(t)
	w.start(w.shell("p", "echo out; echo err >&2; printf unfinished; exit 3"))
	if exit := w.wait("p"); exit.Code != 3 || exit.Signal != 0 || exit.Unknown != "" {
		t.Errorf("exit = %+v", exit)
	}
	got := w.log("p")
	for _, want := range []string{"stdout F out\n", "stderr F err\n", "stdout F unfinished\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("log lacks %q:\n%s", want, got)
		}
	}
	if _, err := os.Stat(filepath.Join(w.run, "keeper", "p", "exit.json")); err != nil {
		t.Error(err)
	}
	if _, err := w.c.Start(w.ctx, w.shell("p", "true")); !api.IsKind(err, api.Exists) {
		t.Errorf("second start: %v", err)
	}
	if err := w.c.Shutdown(w.ctx); !api.IsKind(err, api.InUse) {
		t.Errorf("shutdown: %v", err)
	}
}

// TestStartWaiting waits on the connection of the start: to the end, until the caller
// has enough, and beyond the death of the keeper.
func TestStartWaiting(t *testing.T) {
	w := newWorld(t)
	start := func(id, script string) *keeper.Waiting {
		st, waiting, err := w.c.StartWaiting(w.ctx, w.shell(id, script))
		if err != nil || st.PID == 0 || st.Exit != nil {
			t.Fatalf("start %s: %+v, %v", id, st, err)
		}
		return waiting
	}
	if exit, err := start("ends", "exit 3").Wait(w.ctx); err != nil || exit.Code != 3 {
		t.Errorf("exit = %+v, %v", exit, err)
	}
	canceled, cancel := context.WithCancel(w.ctx)
	waiting := start("stays", "read line; sleep 100")
	cancel()
	if _, err := waiting.Wait(canceled); !api.IsKind(err, api.Canceled) {
		t.Errorf("given up: %v", err)
	}
	if err := start("unheard", "sleep 100").Close(); err != nil {
		t.Error(err)
	}
	waiting = start("outlives", "sleep 100")
	ended := make(chan keeper.Exit, 1)
	go func() {
		exit, err := waiting.Wait(w.ctx)
		if err != nil {
			t.Errorf("after the keeper was replaced: %v", err)
		}
		ended <- exit
	}()
	w.killKeeper()
	if err := w.c.Signal(w.ctx, "outlives", unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := <-ended; exit.Signal != int(unix.SIGKILL) {
		t.Errorf("exit = %+v", exit)
	}
}

func TestSignal(t *testing.T) {
	w := newWorld(t)
	w.start(w.shell("p", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done"))
	w.eventually("the trap is set", func() bool { return strings.Contains(w.log("p"), "ready") })
	if err := w.c.Forget(w.ctx, "p"); !api.IsKind(err, api.Conflict) {
		t.Errorf("forget: %v", err)
	}
	if err := w.c.Signal(w.ctx, "p", unix.SIGTERM); err != nil {
		t.Error(err)
	}
	if exit := w.wait("p"); exit.Code != 7 {
		t.Errorf("exit = %+v", exit)
	}
	if err := w.c.Signal(w.ctx, "p", unix.SIGTERM); !api.IsKind(err, api.Conflict) {
		t.Errorf("signal after the end: %v", err)
	}
	w.start(w.shell("q", "exec sleep 1000"))
	if err := w.c.Signal(w.ctx, "q", unix.SIGKILL); err != nil {
		t.Error(err)
	}
	if exit := w.wait("q"); exit.Code != 137 || exit.Signal != 9 {
		t.Errorf("exit = %+v", exit)
	}
}

func TestStartErrors(t *testing.T) {
	w := newWorld(t)
	plain := filepath.Join(w.run, "plain")
	if err := os.WriteFile(plain, []byte("no program"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		change func(*keeper.Process)
		kind   api.ErrorKind
		code   int
	}{
		{"absent", func(p *keeper.Process) { p.Args = []string{"/nowhere/program"} }, api.NoCommand, 127},
		{"no permission", func(p *keeper.Process) { p.Args = []string{plain} }, api.NotRunnable, 126},
		{"absent, as a user", func(p *keeper.Process) { p.Args, p.UID = []string{"/nowhere/program"}, 65534 }, api.NoCommand, 127},
		{"relative", func(p *keeper.Process) { p.Args = []string{"sh"} }, api.Invalid, 0},
		{"no command", func(p *keeper.Process) { p.Args = nil }, api.Invalid, 0},
		{"bad id", func(p *keeper.Process) { p.ID = "../x" }, api.Invalid, 0},
		{"bad mode", func(p *keeper.Process) { p.Mode = "sideways" }, api.Invalid, 0},
		{"bad streams", func(p *keeper.Process) { p.Stdio.Kind = "tin cans" }, api.Invalid, 0},
		{"no log directory", func(p *keeper.Process) { p.Log.Path = "/nowhere/log" }, api.Invalid, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := w.shell("p", "true")
			tc.change(&p)
			_, err := w.c.Start(w.ctx, p)
			var ce *keeper.CommandError
			if !api.IsKind(err, tc.kind) || errors.As(err, &ce) != (tc.code != 0) || ce != nil && ce.Code != tc.code {
				t.Errorf("error = %v (%s)", err, api.KindOf(err))
			}
			if left, _ := os.ReadDir(filepath.Join(w.run, "keeper")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
	if _, err := w.c.Wait(w.ctx, "nobody"); !api.IsKind(err, api.NotFound) {
		t.Errorf("wait for nobody: %v", err)
	}
}

// TestNoInheritance checks what a kept process gets from the keeper: nothing
// but its three streams, no ignored signals, a session of its own.
func TestNoInheritance(t *testing.T) {
	w := newWorld(t)
	w.start(w.shell("other", "exec sleep 1000"))
	w.start(w.shell("p", "ls -l /proc/self/fd | grep -c '^[lp]'; grep SigIgn /proc/self/status; env | grep -v -e PATH -e PWD -e SHLVL -e '^_='; cat /proc/self/stat | cut -d' ' -f6 >/dev/null; pwd"))
	w.wait("p")
	// 0, 1, 2 and the directory that ls reads.
	if got, want := w.log("p"), "stdout F 4\nstdout F SigIgn:\t0000000000000000\nstdout F /\n"; got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestUserAndCgroup(t *testing.T) {
	w := newWorld(t)
	cg := filepath.Join("/sys/fs/cgroup/pids", filepath.Base(w.run))
	if _, err := os.Stat("/sys/fs/cgroup/pids"); err != nil {
		cg = filepath.Join("/sys/fs/cgroup", filepath.Base(w.run))
	}
	if err := os.Mkdir(cg, 0o755); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.Remove(cg); err != nil {
			t.Error(err)
		}
	}()
	p := w.shell("p", "id -u; id -g; id -G; grep -c "+filepath.Base(cg)+" /proc/self/cgroup")
	p.UID, p.GID, p.Groups, p.Cgroups = 65534, 65534, []uint32{12}, []string{cg}
	w.start(p)
	w.wait("p")
	if got, want := w.log("p"), "stdout F 65534\nstdout F 65534\nstdout F 65534 12\nstdout F 1\n"; got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestStdin(t *testing.T) {
	w := newWorld(t)
	p := w.shell("p", "cat; echo end")
	p.Stdio.OpenStdin, p.Stdio.StdinOnce = true, true
	_, a, err := w.c.StartAttached(w.ctx, p, keeper.AttachOptions{Stdin: true, Stdout: true, Stderr: true, Wait: true})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	input := strings.Repeat("a line of input\n", 100_000)
	go func() {
		a.Write([]byte(input))
		a.CloseStdin()
	}()
	out, _, exit, err := collect(w.ctx, a)
	if err != nil || exit.Code != 0 || out != input+"end\n" {
		t.Errorf("%d bytes of %d, exit %+v, %v", len(out), len(input), exit, err)
	}
}

// TestStdinStaysOpen: without StdinOnce the next client goes on writing.
func TestStdinStaysOpen(t *testing.T) {
	w := newWorld(t)
	p := w.shell("p", "read a; read b; echo $a$b")
	p.Stdio.OpenStdin = true
	w.start(p)
	for _, text := range []string{"first\n", "second\n"} {
		a, err := w.c.Attach(w.ctx, "p", keeper.AttachOptions{Stdin: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Write([]byte(text)); err != nil {
			t.Error(err)
		}
		if err := a.CloseStdin(); err != nil && text == "first\n" { // after the second the process may have ended
			t.Error(err)
		}
		if text == "first\n" {
			w.eventually("the client has gone", func() bool { a.Close(); st, _ := w.c.Status(w.ctx, "p"); return st.Clients == 0 })
		}
		defer a.Close()
	}
	w.wait("p")
	if got := w.log("p"); got != "stdout F firstsecond\n" {
		t.Errorf("log: %s", got)
	}
}

// TestStdinOfDeadProcess: a client that writes to a process that does not read
// is let go when the process ends.
func TestStdinOfDeadProcess(t *testing.T) {
	w := newWorld(t)
	p := w.shell("p", "exec sleep 1000")
	p.Stdio.OpenStdin = true
	_, a, err := w.c.StartAttached(w.ctx, p, keeper.AttachOptions{Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	done := make(chan error, 1)
	go func() {
		for {
			if _, err := a.Write(make([]byte, 1<<16)); err != nil {
				done <- err
				return
			}
		}
	}()
	w.c.Signal(w.ctx, "p", unix.SIGKILL)
	if _, _, exit, err := collect(w.ctx, a); err != nil || exit.Signal != 9 {
		t.Errorf("%+v %v", exit, err)
	}
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("the writer hangs")
	}
}

// TestLateWriters: output of a process that outlives the kept one goes on into
// the log, and nobody waits for it.
func TestLateWriters(t *testing.T) {
	w := newWorld(t)
	p := w.shell("p", "(sleep 0.3; echo late) & echo early")
	w.start(p)
	w.wait("p")
	w.eventually("the late line is logged", func() bool { return strings.Contains(w.log("p"), "stdout F late") })
}
