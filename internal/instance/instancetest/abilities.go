package instancetest

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
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
