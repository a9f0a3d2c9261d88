package testenv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"testing"
	"time"
)

// callTime is more than any one command of a test takes on a busy machine
// without hardware virtualization.
const callTime = 2 * time.Minute

// Daemon is a whole berthd with directories of its own on a machine. It is
// driven as a user drives it: by the command line program.
type Daemon struct {
	Machine Machine
	Dir     string // holds root/ and berthd.log, and run/ where a power cut spares it

	flags []string
	run   string // "" for Dir/run
	pid   string
}

// NewDaemon starts a berthd that ends with the test, with all its instances
// and its keeper. The flags are added to those that name its directories.
func NewDaemon(t testing.TB, m Machine, flags ...string) *Daemon {
	t.Helper()
	name := "b" + hash(t.Name())[:4]
	d := &Daemon{Machine: m, Dir: path.Join(m.Temp(), name), flags: flags}
	if m.Runtime() != m.Temp() {
		d.run = path.Join(m.Runtime(), name)
	}
	Shell(t, m, "mkdir -p -m 0700 "+d.Dir)
	d.Start(t)
	t.Cleanup(func() { d.tearDown(t) })
	return d
}

// RunDir returns the daemon's run directory.
func (d *Daemon) RunDir() string {
	if d.run != "" {
		return d.run
	}
	return d.Dir + "/run"
}

// Socket returns the path of the daemon's socket.
func (d *Daemon) Socket() string { return d.RunDir() + "/berthd.sock" }

// Start starts the daemon and returns once it answers.
func (d *Daemon) Start(t testing.TB) {
	t.Helper()
	argv := append([]string{
		d.Machine.Programs() + "/berthd", "--root", d.Dir + "/root", "--run", d.RunDir(), "--socket", d.Socket(),
	}, d.flags...)
	d.pid = Shell(t, d.Machine, fmt.Sprintf("setsid %s >>%s/berthd.log 2>&1 </dev/null & echo $!", strings.Join(argv, " "), d.Dir))
	Eventually(t, time.Minute, func() error {
		if r := d.Try(t.Context(), "version"); r.Exit == 0 {
			return nil
		}
		if r := d.do(t, "kill -0 "+d.pid); r.Exit != 0 {
			t.Fatalf("berthd ended; its log:\n%s", d.Log(t))
		}
		return errors.New("berthd does not answer")
	})
}

// Kill ends the daemon as a crash does: at once, with signal 9. Instances and
// the keeper go on.
func (d *Daemon) Kill(t testing.TB) { t.Helper(); d.end(t, "KILL") }

// Stop ends the daemon as a service manager does. Instances and the keeper go
// on.
func (d *Daemon) Stop(t testing.TB) { t.Helper(); d.end(t, "TERM") }

func (d *Daemon) end(t testing.TB, signal string) {
	t.Helper()
	Shell(t, d.Machine, "kill -"+signal+" "+d.pid)
	const line = "for i in $(seq 200); do grep -q '^State:.[^ZX]' /proc/%[1]s/status || exit 0; sleep 0.1; done; kill -QUIT %[1]s; sleep 1; exit 1"
	if r := d.do(t, fmt.Sprintf(line, d.pid)); r.Exit != 0 {
		// SIGQUIT has made it print where its goroutines wait.
		t.Fatalf("berthd did not end; its log:\n%s", d.Log(t))
	}
}

// WaitGone returns once a process of the machine has ended.
func (d *Daemon) WaitGone(t testing.TB, pid string) {
	t.Helper()
	Eventually(t, 30*time.Second, func() error {
		// A zombie has ended; whether somebody reaps it is not our question.
		if r := d.do(t, "grep -q '^State:.[^ZX]' /proc/"+pid+"/status"); r.Exit != 0 {
			return nil
		}
		return fmt.Errorf("process %s still runs", pid)
	})
}

// PIDs returns the processes of this daemon that run a program, as in
// "berth-keeper" or "qemu-system-x86_64": those whose arguments name one of
// the daemon's directories.
func (d *Daemon) PIDs(t testing.TB, program string) []string {
	t.Helper()
	line := `for p in /proc/[0-9]*; do
		a=$(tr '\0' ' ' <$p/cmdline 2>/dev/null) || continue
		case "$a" in "` + program + ` "*|*"/` + program + ` "*) case "$a" in *"` + d.Dir + `/"*|*"` + d.RunDir() + `"*) echo ${p#/proc/};; esac;; esac
	done`
	return strings.Fields(Shell(t, d.Machine, line))
}

func (d *Daemon) do(t testing.TB, line string) Result {
	return d.Machine.Do(context.WithoutCancel(t.Context()), Command{Argv: []string{"sh", "-c", line}})
}

// Log returns the daemon's own log.
func (d *Daemon) Log(t testing.TB) string {
	t.Helper()
	return Shell(t, d.Machine, "cat "+d.Dir+"/berthd.log")
}

// Try runs a berth command against the daemon.
func (d *Daemon) Try(ctx context.Context, args ...string) Result {
	return d.TryInput(ctx, nil, args...)
}

// TryInput runs a berth command with standard input.
func (d *Daemon) TryInput(ctx context.Context, stdin io.Reader, args ...string) Result {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	argv := []string{"env", "BERTH_HOST=unix://" + d.Socket(), d.Machine.Programs() + "/berth"}
	return d.Machine.Do(ctx, Command{Argv: append(argv, args...), Stdin: stdin})
}

// Berth runs a berth command that must succeed, and returns its standard
// output without the last line break.
func (d *Daemon) Berth(t testing.TB, args ...string) string {
	t.Helper()
	r := d.Try(t.Context(), args...)
	if r.Exit != 0 || r.Err != nil {
		t.Fatalf("berth %s: %s", strings.Join(args, " "), r)
	}
	return strings.TrimSuffix(r.Stdout, "\n")
}

// tearDown removes every instance and ends the daemon and its keeper. The
// daemon may be dead already, by the test's own hand.
func (d *Daemon) tearDown(t testing.TB) {
	if t.Failed() {
		r := d.do(t, "cat "+d.Dir+"/berthd.log")
		t.Logf("the end of berthd's log:\n%s", tail(r.Stdout, 8000))
	}
	if d.do(t, "kill -0 "+d.pid).Exit != 0 {
		d.Start(t)
	}
	ctx := context.WithoutCancel(t.Context())
	if ids := strings.Fields(d.Try(ctx, "ps", "-a", "-q", "--no-trunc").Stdout); len(ids) > 0 {
		if r := d.Try(ctx, append([]string{"rm", "-f", "-v"}, ids...)...); r.Exit != 0 {
			t.Errorf("remove all instances: %s", r)
		}
	}
	d.Stop(t)
	for _, pid := range d.PIDs(t, "berth-keeper") {
		d.do(t, "kill -TERM "+pid) // it may be on its way already
		d.WaitGone(t, pid)
	}
	if r := d.do(t, "rm -rf --one-file-system "+d.Dir+" "+d.RunDir()); r.Exit != 0 {
		t.Errorf("remove the daemon's directory: %s", r)
	}
}

// Number runs a berth command whose output is a number.
func (d *Daemon) Number(t testing.TB, args ...string) int {
	t.Helper()
	text := d.Berth(t, args...)
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		t.Fatalf("berth %s: %q is not a number", strings.Join(args, " "), text)
	}
	return n
}
