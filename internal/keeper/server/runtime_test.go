package server_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/keeper"
	"github.com/berthcloud/berth/internal/keeper/standby"
)

// fakeRuntime does what an OCI runtime does with "create": it leaves a process
// behind, whose pid it writes to a file; with a console socket it makes a
// terminal and sends it there. It can also fail, say nothing, or hang.
//
//	create PIDFILE CONSOLE|- SCRIPT
//	fail STATUS TEXT
//	nothing
//	hang PIDFILE
//	die
func fakeRuntime(ctx context.Context, args []string, stdio [3]int) (int, string) {
	switch args[0] {
	case "create":
		return fakeCreate(args[1], args[2], args[3], stdio)
	case "fail":
		status, _ := strconv.Atoi(args[1])
		return status, args[2]
	case "hang":
		if status, text := fakeCreate(args[1], "-", "exec sleep 1000", stdio); status != 0 {
			return status, text
		}
		<-ctx.Done()
		return 1, "stopped"
	case "foreign":
		if err := os.WriteFile(args[1], []byte(args[2]), 0o600); err != nil {
			return 1, err.Error()
		}
	case "die":
		os.Exit(3)
	}
	return 0, ""
}

func fakeCreate(pidFile, console, script string, stdio [3]int) (int, string) {
	cmd := exec.Command("/bin/sh", "-c", script)
	// The keeper's child, not ours. exec.Cmd closes files of ours: it gets copies.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_PARENT}
	streams := [3]*os.File{}
	for i, fd := range stdio {
		n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return 1, err.Error()
		}
		streams[i] = os.NewFile(uintptr(n), "stream")
		defer streams[i].Close()
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = streams[0], streams[1], streams[2]
	if console != "-" {
		master, slave, err := openPTY()
		if err != nil {
			return 1, err.Error()
		}
		defer master.Close()
		defer slave.Close()
		conn, err := keeper.Dial(context.Background(), console)
		if err != nil {
			return 1, err.Error()
		}
		defer conn.Close()
		if err := unix.Sendmsg(int(conn.Fd()), []byte("/dev/pts/x"), unix.UnixRights(int(master.Fd())), nil, 0); err != nil {
			return 1, err.Error()
		}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
		cmd.SysProcAttr.Setctty = true
	}
	if err := cmd.Start(); err != nil {
		return 127, err.Error()
	}
	if err := os.WriteFile(pidFile, []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		return 1, err.Error()
	}
	return 0, ""
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
	p.Args = []string{exe, "create", p.PIDFile, "-", script}
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
			p.Args = []string{p.Args[0], "fail", "126", "no such container\n"}
			_, err := w.c.Start(w.ctx, p)
			var ce *keeper.CommandError
			if !errors.As(err, &ce) || ce.Code != 126 || ce.Stderr != "no such container" || !api.IsKind(err, api.NotRunnable) {
				t.Errorf("error = %v", err)
			}
			if data, err := os.ReadFile(p.Log.Path); err != nil || len(data) > 0 {
				t.Errorf("log holds %q, %v", data, err)
			}
			// Whoever says nothing and leaves no pid is a failure too.
			p.Args = []string{p.Args[0], "nothing"}
			if _, err := w.c.Start(w.ctx, p); !api.IsKind(err, api.Internal) {
				t.Errorf("error = %v", err)
			}
			// So is a runtime that dies, or that there is none of.
			for _, args := range [][]string{{p.Args[0], "die"}, {"/bin/true", "create"}} {
				p.Args = args
				if _, err := w.c.Start(w.ctx, p); !api.IsKind(err, api.Internal) || !strings.Contains(err.Error(), args[0]) {
					t.Errorf("%q: error = %v", args, err)
				}
			}
			p.Args = []string{"/no/such/runtime"}
			if _, err := w.c.Start(w.ctx, p); !errors.As(err, &ce) || ce.Code != 127 {
				t.Errorf("error = %v", err)
			}
		})
	}
}

// TestRuntimeWarm: what stands by serves the next start, and goes when there is none.
func TestRuntimeWarm(t *testing.T) {
	w := newWorld(t)
	p := w.runtime("p", "true")
	if err := w.c.Warm(w.ctx, p.Args[0]); err != nil {
		t.Fatal(err)
	}
	first := w.standingBy(p.Args[0])
	if len(first) != 1 {
		t.Fatalf("standing by: %v", first)
	}
	w.start(p)
	w.wait("p")
	if again := w.standingBy(p.Args[0]); !slices.Equal(first, again) {
		t.Errorf("standing by: %v, then %v", first, again)
	}
	// One that was killed while it stood by is replaced.
	if err := w.c.Forget(w.ctx, "p"); err != nil {
		t.Fatal(err)
	}
	if err := w.c.Warm(w.ctx, p.Args[0]); err != nil {
		t.Fatal(err)
	}
	for _, pid := range w.standingBy(p.Args[0]) {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Error(err)
		}
		w.eventually("it is dead", func() bool { return !running(pid) })
	}
	w.start(p)
	w.wait("p")
	w.eventually("it is let go", func() bool { return len(w.standingBy(p.Args[0])) == 0 })
	if err := w.c.Warm(w.ctx, "/no/such/program"); err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("error = %v", err)
	}
}

// standingBy returns the keeper's processes of a program that stand by.
func (w *world) standingBy(program string) (pids []int) {
	info, err := w.c.Ping(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	var children []byte
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", info.PID))
	for _, t := range tasks {
		more, _ := os.ReadFile(t)
		children = append(children, more...)
	}
	for field := range strings.FieldsSeq(string(children)) {
		line, _ := os.ReadFile("/proc/" + field + "/cmdline")
		if pid, err := strconv.Atoi(field); err == nil && string(line) == program+"\x00"+standby.Command+"\x00" {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

// TestRuntimeForeignPID: a runtime cannot make the keeper watch, and later
// kill, a process that is not its own.
func TestRuntimeForeignPID(t *testing.T) {
	w := newWorld(t)
	p := w.runtime("p", "")
	p.Args = []string{p.Args[0], "foreign", p.PIDFile, strconv.Itoa(os.Getpid())}
	if _, err := w.c.Start(w.ctx, p); err == nil || !strings.Contains(err.Error(), "did not leave") {
		t.Errorf("error = %v", err)
	}
}

// TestRuntimeHangs: a client that gives up takes the start back.
func TestRuntimeHangs(t *testing.T) {
	w := newWorld(t)
	p := w.runtime("p", "")
	p.Args = []string{p.Args[0], "hang", p.PIDFile}
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
