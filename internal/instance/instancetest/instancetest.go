// Package instancetest is the suite that every driver of package instance
// passes.
//
// The commands it runs need a shell and the usual small tools: any image made
// from busybox will do.
package instancetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// Harness makes what the suite needs.
type Harness struct {
	// Driver returns a driver as berthd would have it after a restart: a new
	// value that finds the runs of the earlier ones.
	Driver func(*testing.T) instance.Driver
	// Prepare completes the plain Prepared of function Prepare with a root
	// filesystem and all else the driver needs.
	Prepare func(*testing.T, instance.Process) *instance.Prepared
	// Host is handed to Plan.
	Host instance.Host
}

// patience bounds every wait; slow drivers (a VM under emulation) need it.
const patience = 60 * time.Second

// Prepare returns a Prepared with an id, directories below the test's own, and
// the process.
func Prepare(t *testing.T, process instance.Process) *instance.Prepared {
	t.Helper()
	random := make([]byte, 32)
	_, _ = rand.Read(random)
	id := hex.EncodeToString(random)
	dir := t.TempDir()
	p := &instance.Prepared{
		ID:       id,
		Spec:     api.Spec{Name: "t" + id[:8], Image: "base"},
		Process:  process,
		Hostname: id[:12],
		Dir:      filepath.Join(dir, "dir"),
		RunDir:   filepath.Join(dir, "run"),
		LogPath:  filepath.Join(dir, "log"),
		Cgroup:   "/berth-test/" + id[:12],
	}
	for _, d := range []string{p.Dir, p.RunDir} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if p.Process.WorkingDir == "" {
		p.Process.WorkingDir = "/"
	}
	if len(p.Process.Env) == 0 {
		p.Process.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	}
	if p.Process.StopSignal == 0 {
		p.Process.StopSignal = int(syscall.SIGTERM)
	}
	return p
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	cases := []struct {
		name string
		f    func(*testing.T, Harness)
	}{
		{"PlanIsPure", testPlanIsPure},
		{"ExitCodeOutputAndLog", testExitCodeOutputAndLog},
		{"Stdin", testStdin},
		{"NoCommand", testNoCommand},
		{"NotRunnable", testNotRunnable},
		{"SignalAndWaiters", testSignalAndWaiters},
		{"StopByForce", testStopByForce},
		{"StopAtOnce", testStopAtOnce},
		{"AdoptRunning", testAdoptRunning},
		{"AdoptEnded", testAdoptEnded},
		{"AdoptMissing", testAdoptMissing},
		{"DeleteTwice", testDeleteTwice},
		{"Update", testUpdate},
		{"Exec", testExec},
		{"Pause", testPause},
		{"Suspend", testSuspend},
		{"SaveAndGoOn", testSaveAndGoOn},
		{"Copy", testCopy},
		{"StatsAndTop", testStatsAndTop},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.f(t, h) })
	}
}

func shell(script string) instance.Process {
	return instance.Process{Args: []string{"sh", "-c", script}}
}

// create makes a run and has it deleted at the end of the test.
func create(t *testing.T, h Harness, process instance.Process) (*instance.Prepared, instance.Handle) {
	t.Helper()
	p := h.Prepare(t, process)
	run, err := h.Driver(t).Create(t.Context(), p)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	t.Cleanup(func() { remove(t, run) })
	return p, run
}

func remove(t *testing.T, run instance.Handle) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := run.Delete(ctx); err != nil {
		t.Errorf("delete: %v", err)
	}
}

func start(t *testing.T, run instance.Handle) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := run.Start(ctx); err != nil {
		t.Fatalf("start: %v", err)
	}
}

func wait(t *testing.T, run instance.Handle) api.Exit {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	exit, err := run.Wait(ctx)
	if err != nil {
		t.Fatalf("wait: %v", err)
	}
	return exit
}

func wantState(t *testing.T, run instance.Handle, want api.State) {
	t.Helper()
	got, err := run.Status(t.Context())
	if err != nil || got.State != want {
		t.Errorf("status = %+v, %v; want state %s", got, err, want)
	}
}

// buffer is a bytes.Buffer that a driver may write while the test reads.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// eventually polls until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("%s: not within %v", what, patience)
		case <-tick.C:
		}
	}
}

// attach connects to the run and returns its output so far and a channel that
// yields when the streams have ended.
func attach(t *testing.T, run instance.Handle, s instance.Streams) (done chan error) {
	t.Helper()
	a, ok := run.(instance.Attacher)
	if !ok {
		t.Skip("this driver cannot attach")
	}
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- a.Attach(t.Context(), s, sync.OnceFunc(func() { close(ready) })) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatalf("attach: %v", err)
	}
	return done
}

func testPlanIsPure(t *testing.T, h Harness) {
	p := h.Prepare(t, shell("true"))
	d := h.Driver(t)
	first, err := d.Plan(p, h.Host)
	if err != nil {
		t.Fatal(err)
	}
	second, err := d.Plan(p, h.Host)
	if err != nil || !bytes.Equal(first, second) {
		t.Errorf("two plans of one input differ (%v):\n%s\n%s", err, first, second)
	}
	p.Process.Args = nil
	if _, err := d.Plan(p, h.Host); !api.IsKind(err, api.Invalid) {
		t.Errorf("a plan without a command: %v; want kind invalid", err)
	}
}

func testExitCodeOutputAndLog(t *testing.T, h Harness) {
	p, run := create(t, h, shell("echo out; echo err >&2; exit 7"))
	wantState(t, run, api.Created)
	var out, errs buffer
	done := attach(t, run, instance.Streams{Stdout: &out, Stderr: &errs})
	start(t, run)
	if exit := wait(t, run); exit.Code != 7 || exit.Error != "" || exit.Time.IsZero() {
		t.Errorf("exit = %+v; want code 7", exit)
	}
	if err := <-done; err != nil {
		t.Errorf("attach: %v", err)
	}
	if out.String() != "out\n" || errs.String() != "err\n" {
		t.Errorf("stdout %q, stderr %q", out.String(), errs.String())
	}
	wantState(t, run, api.Exited)
	log, err := os.ReadFile(p.LogPath)
	if err != nil || !strings.Contains(string(log), " stdout F out\n") || !strings.Contains(string(log), " stderr F err\n") {
		t.Errorf("log %q, %v", log, err)
	}
}

func testStdin(t *testing.T, h Harness) {
	process := shell("cat; echo end")
	process.OpenStdin, process.StdinOnce = true, true
	_, run := create(t, h, process)
	var out buffer
	done := attach(t, run, instance.Streams{Stdin: strings.NewReader("hello\n"), Stdout: &out})
	start(t, run)
	if exit := wait(t, run); exit.Code != 0 {
		t.Errorf("exit = %+v", exit)
	}
	if err := <-done; err != nil || out.String() != "hello\nend\n" {
		t.Errorf("stdout %q, attach %v", out.String(), err)
	}
}

// failedStart creates and starts a process that cannot start.
func failedStart(t *testing.T, h Harness, args ...string) error {
	t.Helper()
	run, err := h.Driver(t).Create(t.Context(), h.Prepare(t, instance.Process{Args: args}))
	if err != nil {
		return err
	}
	defer remove(t, run)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err = run.Start(ctx)
	return err
}

func testNoCommand(t *testing.T, h Harness) {
	for _, args := range [][]string{{"no-such-command"}, {"/no/such/file"}} {
		if err := failedStart(t, h, args...); !api.IsKind(err, api.NoCommand) || !strings.Contains(err.Error(), args[0]) {
			t.Errorf("%v: %v; want kind %s and the name", args, err, api.NoCommand)
		}
	}
}

func testNotRunnable(t *testing.T, h Harness) {
	if err := failedStart(t, h, "/etc/passwd"); !api.IsKind(err, api.NotRunnable) {
		t.Errorf("err = %v; want kind %s", err, api.NotRunnable)
	}
}

// trapping runs until SIGUSR1 and says when it listens.
const trapping = `trap 'exit 3' USR1; echo ready; while :; do sleep 0.05; done`

func startTrapping(t *testing.T, h Harness, script string) (*instance.Prepared, instance.Handle) {
	t.Helper()
	p, run := create(t, h, shell(script))
	var out buffer
	attach(t, run, instance.Streams{Stdout: &out})
	start(t, run)
	eventually(t, "the script listens", func() bool { return strings.Contains(out.String(), "ready") })
	return p, run
}

func testSignalAndWaiters(t *testing.T, h Harness) {
	_, run := startTrapping(t, h, trapping)
	wantState(t, run, api.Running)
	short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := run.Wait(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for a running run: %v", err)
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if exit := wait(t, run); exit.Code != 3 {
				t.Errorf("exit = %+v; want code 3", exit)
			}
		})
	}
	if err := run.Signal(t.Context(), int(syscall.SIGUSR1)); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if err := run.Signal(t.Context(), int(syscall.SIGUSR1)); !api.IsKind(err, api.Conflict) {
		t.Errorf("a signal after the end: %v; want kind conflict", err)
	}
}

func testStopByForce(t *testing.T, h Harness) {
	_, run := startTrapping(t, h, `trap '' TERM; echo ready; while :; do sleep 0.05; done`)
	if err := run.Stop(t.Context(), int(syscall.SIGTERM), 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, run); exit.Code != 137 {
		t.Errorf("exit = %+v; want code 137", exit)
	}
	if err := run.Stop(t.Context(), int(syscall.SIGTERM), 0); err != nil {
		t.Errorf("a second stop: %v", err)
	}
}

// testStopAtOnce stops without a grace, as a forced removal does: the second
// signal finds a run that is just going.
func testStopAtOnce(t *testing.T, h Harness) {
	_, run := startTrapping(t, h, trapping)
	if err := run.Stop(t.Context(), int(syscall.SIGKILL), 0); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, run); exit.Code != 137 {
		t.Errorf("exit = %+v; want code 137", exit)
	}
}

func testAdoptRunning(t *testing.T, h Harness) {
	p, _ := startTrapping(t, h, trapping)
	run, err := h.Driver(t).Adopt(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	wantState(t, run, api.Running)
	if err := run.Signal(t.Context(), int(syscall.SIGUSR1)); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, run); exit.Code != 3 {
		t.Errorf("exit = %+v; want code 3", exit)
	}
}

func testAdoptEnded(t *testing.T, h Harness) {
	p, first := create(t, h, shell("exit 5"))
	start(t, first)
	wait(t, first)
	run, err := h.Driver(t).Adopt(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, run); exit.Code != 5 {
		t.Errorf("exit = %+v; want code 5", exit)
	}
}

func testAdoptMissing(t *testing.T, h Harness) {
	if _, err := h.Driver(t).Adopt(t.Context(), h.Prepare(t, shell("true"))); !api.IsKind(err, api.NotFound) {
		t.Errorf("err = %v; want kind not-found", err)
	}
}

func testDeleteTwice(t *testing.T, h Harness) {
	p, run := startTrapping(t, h, trapping)
	remove(t, run)
	remove(t, run)
	if _, err := h.Driver(t).Adopt(t.Context(), p); !api.IsKind(err, api.NotFound) {
		t.Errorf("adopting a deleted run: %v; want kind not-found", err)
	}
}

func testUpdate(t *testing.T, h Harness) {
	_, run := startTrapping(t, h, trapping)
	limits := api.Limits{CPUs: 0.5, Memory: 256 << 20, PIDs: 100}
	for range 2 {
		if err := run.Update(t.Context(), limits); err != nil {
			t.Fatalf("update: %v", err)
		}
	}
}
