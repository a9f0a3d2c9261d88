package server_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/keeper"
	"github.com/berthcloud/berth/internal/keeper/server"
	"github.com/berthcloud/berth/internal/keeper/standby"
)

// TestMain lets this binary be the keeper that the tests talk to, and the
// runtime command it starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "--run", server.StageCommand:
			os.Exit(server.Main(os.Args[1:], "test"))
		case standby.Command:
			os.Exit(standby.Serve(fakeRuntime))
		}
	}
	os.Exit(m.Run())
}

// world is a keeper in a directory of its own.
type world struct {
	*testing.T
	run string
	c   *keeper.Client
	ctx context.Context
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run, err := os.MkdirTemp("", "berth-keeper-") // short: t.TempDir would exceed a socket path
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	w := &world{T: t, run: run, c: keeper.New(keeper.Config{Run: run, Binary: exe}), ctx: ctx}
	t.Cleanup(func() {
		defer cancel()
		w.end()
		os.RemoveAll(run)
	})
	return w
}

// end kills what is still kept, and shuts the keeper down.
func (w *world) end() {
	w.Helper()
	list, err := w.c.List(w.ctx)
	if err != nil {
		w.Errorf("list: %v", err)
	}
	for _, st := range list {
		if st.Exit == nil {
			w.c.Signal(w.ctx, st.ID, unix.SIGKILL)
			if _, err := w.c.Wait(w.ctx, st.ID); err != nil {
				w.Errorf("wait %s: %v", st.ID, err)
			}
		}
		if err := w.c.Forget(w.ctx, st.ID); err != nil {
			w.Errorf("forget %s: %v", st.ID, err)
		}
	}
	pid := w.keeperPID()
	if err := w.c.Shutdown(w.ctx); err != nil {
		w.Errorf("shutdown: %v", err)
	}
	w.eventually("the keeper ends", func() bool { return !running(pid) })
	left, err := os.ReadDir(filepath.Join(w.run, "keeper"))
	if err != nil || len(left) > 0 {
		w.Errorf("left behind: %v %v", left, err)
	}
}

func (w *world) keeperPID() int {
	w.Helper()
	info, err := w.c.Ping(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	return info.PID
}

// killKeeper kills the keeper as kill -9 does, and waits until it is gone.
func (w *world) killKeeper() {
	w.Helper()
	pid := w.keeperPID()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		w.Fatal(err)
	}
	w.eventually("the keeper is dead", func() bool { return !running(pid) })
}

// running reports whether pid is a process that has not ended.
func running(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func (w *world) eventually(what string, ok func() bool) {
	w.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.Fatalf("in vain: %s", what)
		}
	}
}

// shell describes a process that runs a shell script, logged.
func (w *world) shell(id, script string) keeper.Process {
	return keeper.Process{
		ID: id, Mode: keeper.Direct,
		Args:  []string{"/bin/sh", "-c", script},
		Env:   []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
		Stdio: keeper.Stdio{Kind: keeper.Pipes},
		Log:   &keeper.Log{Path: filepath.Join(w.run, id+".log")},
	}
}

func (w *world) start(p keeper.Process) keeper.Status {
	w.Helper()
	st, err := w.c.Start(w.ctx, p)
	if err != nil {
		w.Fatalf("start %s: %v", p.ID, err)
	}
	return st
}

func (w *world) wait(id string) keeper.Exit {
	w.Helper()
	exit, err := w.c.Wait(w.ctx, id)
	if err != nil {
		w.Fatalf("wait %s: %v", id, err)
	}
	return exit
}

// log returns the log of id without the times.
func (w *world) log(id string) string {
	w.Helper()
	data, err := os.ReadFile(filepath.Join(w.run, id+".log"))
	if err != nil {
		w.Fatal(err)
	}
	var b strings.Builder
	for line := range strings.Lines(string(data)) {
		_, rest, ok := strings.Cut(line, " ")
		if !ok {
			w.Fatalf("not a log line: %q", line)
		}
		b.WriteString(rest)
	}
	return b.String()
}

// collect gathers both streams of an attachment until the exit.
func collect(ctx context.Context, a *keeper.Attachment) (out, err string, exit keeper.Exit, cerr error) {
	var o, e strings.Builder
	exit, cerr = a.Copy(ctx, &o, &e)
	return o.String(), e.String(), exit, cerr
}

var _ io.Writer = (*keeper.Attachment)(nil)
