package instancetest

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// ability returns run as T or skips the test.
func ability[T any](t *testing.T, run instance.Handle) T {
	t.Helper()
	a, ok := run.(T)
	if !ok {
		t.Skip("this driver lacks the ability")
	}
	return a
}

func testExec(t *testing.T, h Harness) {
	_, run := startTrapping(t, h, trapping)
	ex := ability[instance.Execer](t, run)

	var out, errs buffer
	exit, err := ex.Exec(t.Context(), api.Exec{
		Command: []string{"sh", "-c", "cat; echo $GREETING >&2; pwd; exit 9"},
		Env:     []string{"GREETING=hello"}, WorkingDir: "/tmp", Stdin: true,
	}, instance.Streams{Stdin: strings.NewReader("in\n"), Stdout: &out, Stderr: &errs})
	if err != nil || exit.Code != 9 || out.String() != "in\n/tmp\n" || errs.String() != "hello\n" {
		t.Errorf("exit %+v, %v; stdout %q, stderr %q", exit, err, out.String(), errs.String())
	}

	_, err = ex.Exec(t.Context(), api.Exec{Command: []string{"no-such-command"}}, instance.Streams{})
	if !api.IsKind(err, api.NoCommand) {
		t.Errorf("a missing command: %v; want kind %s", err, api.NoCommand)
	}

	var big buffer
	exit, err = ex.Exec(t.Context(), api.Exec{Command: []string{"sh", "-c", "head -c 1000000 /dev/zero"}}, instance.Streams{Stdout: &big})
	if n := len(big.String()); err != nil || exit.Code != 0 || n != 1000000 {
		t.Errorf("1,000,000 bytes: exit %+v, %v, got %d", exit, err, n)
	}
}

func testPause(t *testing.T, h Harness) {
	_, run := startTrapping(t, h, trapping)
	p := ability[instance.Pauser](t, run)
	if err := p.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantState(t, run, api.Paused)
	if err := p.Unpause(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantState(t, run, api.Running)
}

// counting says a number that only its memory knows, whenever it is told to go on.
const counting = `n=0; trap 'exit 3' USR1; trap 'n=$((n+1)); echo count $n' USR2; echo ready; while :; do sleep 0.05; done`

// said returns what a counting run says next.
func said(t *testing.T, run instance.Handle, out *buffer, want string) {
	t.Helper()
	if err := run.Signal(t.Context(), int(syscall.SIGUSR2)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it says "+want, func() bool { return strings.HasSuffix(out.String(), want+"\n") })
}

// testSuspend saves a run, has it end, and has others go on from there, twice.
func testSuspend(t *testing.T, h Harness) {
	p, run := create(t, h, shell(counting))
	ability[instance.Saver](t, run)
	for lap, want := range []string{"count 1", "count 2", "count 3"} {
		var out buffer
		done := attach(t, run, instance.Streams{Stdout: &out})
		start(t, run)
		wantState(t, run, api.Running)
		if lap == 0 {
			eventually(t, "it listens", func() bool { return out.String() == "ready\n" })
		}
		said(t, run, &out, want)
		if lap == 2 {
			break
		}
		if err := run.(instance.Saver).Save(t.Context(), p.SavedDir(), instance.SaveOptions{End: true}); err != nil {
			t.Fatal(err)
		}
		wait(t, run)
		if err := <-done; err != nil {
			t.Errorf("attach: %v", err)
		}
		remove(t, run)
		var err error
		if run, err = h.Driver(t).Create(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		defer remove(t, run)
		wantState(t, run, api.Created)
	}
	if err := run.Signal(t.Context(), int(syscall.SIGUSR1)); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, run); exit.Code != 3 || exit.Error != "" {
		t.Errorf("exit = %+v; want code 3", exit)
	}
	if _, err := os.Stat(p.SavedDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was saved is left: %v", err)
	}
}

// testSaveAndGoOn saves a run that goes on, twice, and in between to where nothing can
// be written.
func testSaveAndGoOn(t *testing.T, h Harness) {
	_, run := create(t, h, shell(counting))
	s := ability[instance.Saver](t, run)
	var out buffer
	attach(t, run, instance.Streams{Stdout: &out})
	start(t, run)
	eventually(t, "it listens", func() bool { return out.String() == "ready\n" })
	dir := t.TempDir()
	for _, c := range []struct {
		dir, want string
		fails     bool
	}{{dir + "/one", "count 1", false}, {dir + "/none/such", "count 2", true}, {dir + "/two", "count 3", false}} {
		err := s.Save(t.Context(), c.dir, instance.SaveOptions{})
		if (err != nil) != c.fails {
			t.Fatalf("%s: %v", c.dir, err)
		}
		wantState(t, run, api.Running)
		said(t, run, &out, c.want)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("%v, %v; want one and two", entries, err)
	}
}

func testCopy(t *testing.T, h Harness) {
	_, run := startTrapping(t, h, trapping)
	c := ability[instance.Copier](t, run)

	var in bytes.Buffer
	w := tar.NewWriter(&in)
	for _, f := range []struct{ name, text string }{{"note", "hello"}, {"sub/deep", "deep"}} {
		hdr := &tar.Header{Name: f.name, Mode: 0o640, Size: int64(len(f.text)), Uid: 1, Gid: 2}
		if err := errors.Join(w.WriteHeader(hdr), second(io.WriteString(w, f.text))); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.CopyIn(t.Context(), "/tmp", &in); err != nil {
		t.Fatalf("copy in: %v", err)
	}

	var out bytes.Buffer
	if err := c.CopyOut(t.Context(), "/tmp/sub", &out); err != nil {
		t.Fatalf("copy out: %v", err)
	}
	got := map[string]string{}
	for r := tar.NewReader(&out); ; {
		hdr, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(r)
		got[strings.TrimSuffix(hdr.Name, "/")] = string(text)
	}
	if got["sub/deep"] != "deep" || len(got) != 2 {
		t.Errorf("copied out %v", got)
	}
	if err := c.CopyOut(t.Context(), "/no/such/file", io.Discard); !api.IsKind(err, api.NotFound) {
		t.Errorf("a missing file: %v; want kind not-found", err)
	}
}

func second[T any](_ T, err error) error { return err }

func testStatsAndTop(t *testing.T, h Harness) {
	_, run := startTrapping(t, h, trapping)
	stats, err := ability[instance.Statser](t, run).Stats(t.Context())
	if err != nil || stats.PIDs < 1 || stats.Time.IsZero() {
		t.Errorf("stats = %+v, %v", stats, err)
	}
	top, err := ability[instance.Topper](t, run).Top(t.Context())
	if err != nil || len(top.Processes) == 0 || top.Processes[0].Command == "" {
		t.Errorf("top = %+v, %v", top, err)
	}
}
