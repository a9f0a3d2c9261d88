package server_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/keeper"
)

// fakeRuntime does what an OCI runtime does with "create": it leaves a process
// behind, whose pid it writes to a file; with a console socket it makes a
// terminal and sends it there.
//
//	fake-runtime PIDFILE CONSOLE|- SCRIPT
func fakeRuntime(args []string) int {
	pidFile, console, script := args[0], args[1], args[2]
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if console != "-" {
		master, slave, err := openPTY()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		conn, err := keeper.Dial(context.Background(), console)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if err := unix.Sendmsg(int(conn.Fd()), []byte("/dev/pts/x"), unix.UnixRights(int(master.Fd())), nil, 0); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
		cmd.SysProcAttr.Setctty = true
	}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 127
	}
	if err := os.WriteFile(pidFile, []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		return 1
	}
	return 0
}

func openPTY() (master, slave *os.File, err error) {
	if master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return nil, nil, err
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		return nil, nil, err
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	return master, slave, err
}

// runtime describes a process that the fake runtime leaves behind.
func (w *world) runtime(id, script string) keeper.Process {
	p := w.shell(id, "")
	exe, _ := os.Executable()
	p.Mode = keeper.Runtime
	p.PIDFile = filepath.Join(w.run, id+".pid")
	p.Args = []string{exe, "fake-runtime", p.PIDFile, "-", script}
	return p
}

func TestRuntime(t *testing.T) {
	w := newWorld(t)
	st := w.start(w.runtime("p", "echo out; echo err >&2; exit 5"))
	if st.PID <= 1 {
		t.Errorf("status = %+v", st)
	}
	if exit := w.wait("p"); exit.Code != 5 {
		t.Errorf("exit = %+v", exit)
	}
	got := w.log("p")
	if !strings.Contains(got, "stdout F out\n") || !strings.Contains(got, "stderr F err\n") {
		t.Errorf("log:\n%s", got)
	}
}

// TestRuntimeShortLived starts many processes that end before the runtime
// does: none of their exit codes may be lost to the reaping of strays.
func TestRuntimeShortLived(t *testing.T) {
	w := newWorld(t)
	failed := make(chan error, 20)
	for i := range cap(failed) {
		go func() {
			p := w.runtime(fmt.Sprintf("p%d", i), fmt.Sprintf("exit %d", 50+i))
			p.Ephemeral = i%2 == 0
			_, err := w.c.Start(w.ctx, p)
			var exit keeper.Exit
			if err == nil {
				exit, err = w.c.Wait(w.ctx, p.ID)
			}
			if err == nil && exit.Code != 50+i {
				err = fmt.Errorf("%s: %+v", p.ID, exit)
			}
			failed <- err
		}()
	}
	for range cap(failed) {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
}

func TestRuntimeFails(t *testing.T) {
	w := newWorld(t)
	for _, kind := range []keeper.StdioKind{keeper.Null, keeper.Pipes, keeper.PTY} {
		t.Run(string(kind), func(t *testing.T) {
			p := w.runtime("p", "")
			p.Stdio.Kind = kind
			p.Stdio.ConsoleSocket = filepath.Join(w.run, "console")
			p.Args = []string{"/bin/sh", "-c", "echo no such container >&2; exit 126"}
			_, err := w.c.Start(w.ctx, p)
			var ce *keeper.CommandError
			if !errors.As(err, &ce) || ce.Code != 126 || ce.Stderr != "no such container" || !api.IsKind(err, api.NotRunnable) {
				t.Errorf("error = %v", err)
			}
			if data, err := os.ReadFile(p.Log.Path); err != nil || len(data) > 0 {
				t.Errorf("log holds %q, %v", data, err)
			}
			// Whoever says nothing and leaves no pid is a failure too.
			p.Args = []string{"/bin/true"}
			if _, err := w.c.Start(w.ctx, p); !api.IsKind(err, api.Internal) {
				t.Errorf("error = %v", err)
			}
		})
	}
}

// TestRuntimeForeignPID: a runtime cannot make the keeper watch, and later
// kill, a process that is not its own.
func TestRuntimeForeignPID(t *testing.T) {
	w := newWorld(t)
	p := w.runtime("p", "")
	p.Args = []string{"/bin/sh", "-c", fmt.Sprintf("echo %d > %s", os.Getpid(), p.PIDFile)}
	if _, err := w.c.Start(w.ctx, p); err == nil || !strings.Contains(err.Error(), "did not leave") {
		t.Errorf("error = %v", err)
	}
}

// TestRuntimeHangs: a client that gives up takes the start back.
func TestRuntimeHangs(t *testing.T) {
	w := newWorld(t)
	p := w.runtime("p", "")
	p.Args = []string{"/bin/sh", "-c", fmt.Sprintf("sleep 1000 & echo $! > %s; exec sleep 1000", p.PIDFile)}
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := w.c.Start(ctx, p)
		ended <- err
	}()
	pid := 0
	w.eventually("it leaves a process", func() bool {
		data, _ := os.ReadFile(p.PIDFile)
		pid, _ = strconv.Atoi(strings.TrimSpace(string(data)))
		return pid > 0
	})
	cancel()
	if err := <-ended; !api.IsKind(err, api.Canceled) {
		t.Errorf("error = %v", err)
	}
	w.eventually("what it left is killed", func() bool { return !running(pid) })
	p.StartTimeout = 100 * time.Millisecond
	w.eventually("the id is free", func() bool {
		_, err := w.c.Start(w.ctx, p)
		if err != nil && !api.IsKind(err, api.Exists) && !api.IsKind(err, api.Unavailable) {
			t.Errorf("error = %v", err)
		}
		return api.IsKind(err, api.Unavailable)
	})
}

func TestPTY(t *testing.T) {
	for _, mode := range []keeper.Mode{keeper.Direct, keeper.Runtime} {
		t.Run(string(mode), func(t *testing.T) {
			w := newWorld(t)
			script := `stty size; read x; echo "got $x"; trap 'stty size; exit 4' WINCH; echo waiting; while :; do sleep 0.01; done`
			p := w.shell("p", script)
			if mode == keeper.Runtime {
				p = w.runtime("p", script)
				p.Args[3] = filepath.Join(w.run, "console")
				p.Stdio.ConsoleSocket = p.Args[3]
			}
			p.Stdio.Kind = keeper.PTY
			p.Stdio.Size = keeper.Size{Rows: 33, Cols: 77}
			_, a, err := w.c.StartAttached(w.ctx, p, keeper.AttachOptions{Stdin: true, Stdout: true})
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			if _, err := a.Write([]byte("hello\n")); err != nil {
				t.Error(err)
			}
			w.eventually("it waits", func() bool { return strings.Contains(w.log("p"), "waiting") })
			if err := w.c.Resize(w.ctx, "p", keeper.Size{Rows: 44, Cols: 88}); err != nil {
				t.Error(err)
			}
			out, _, exit, err := collect(w.ctx, a)
			if err != nil || exit.Code != 4 {
				t.Errorf("exit = %+v, %v", exit, err)
			}
			wants := []string{"got hello", "44 88"}
			if mode == keeper.Direct {
				// A runtime's terminal has its size from whoever made it, until
				// the keeper sets it; the shell may be faster.
				wants = append(wants, "33 77")
			}
			for _, want := range wants {
				if !strings.Contains(out, want) {
					t.Errorf("output lacks %q:\n%s", want, out)
				}
			}
		})
	}
}
