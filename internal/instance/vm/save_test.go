package vm_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// TestSaveDiskFull saves a machine to a filesystem that has no room for it: it says so
// in one line, leaves nothing, and the machine runs on.
func TestSaveDiskFull(t *testing.T) {
	h := newHarness(t)
	run := h.start(t, sh("sleep 600"))
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, 0)
	for _, o := range []instance.SaveOptions{{End: true}, {Disks: true, Copy: true}} {
		err := run.(instance.Saver).Save(t.Context(), dir+"/saved", o)
		if !errors.Is(err, unix.ENOSPC) || strings.Contains(err.Error(), "\n") {
			t.Errorf("saved to a full disk: %v", err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		if st, err := run.Status(t.Context()); err != nil || st.State != api.Running {
			t.Fatalf("it is %+v, %v", st, err)
		}
		exit, err := run.(instance.Execer).Exec(t.Context(), api.Exec{Command: []string{"cat", "/bin/busybox"}}, instance.Streams{})
		if err != nil || exit.Code != 0 {
			t.Errorf("a command in it: %+v, %v", exit, err)
		}
	}
}

// TestSuspendCopy suspends a copy of a template, whose memory is partly the template's,
// and removes that before it goes on.
func TestSuspendCopy(t *testing.T) {
	h := newHarness(t)
	cache := t.TempDir()
	d := h.learnt(t, cache, h.prepare(t, sh("true")))
	p := h.prepare(t, sh("read -r word; echo $word; exit 5"))
	p.Process.OpenStdin = true
	run, err := d.Create(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = run.Delete(context.WithoutCancel(t.Context())) }()
	if st, err := run.Start(t.Context()); err != nil || st.Machine.Template == "" {
		t.Fatalf("%+v, %v; want a copy", st, err)
	}
	if err := run.(instance.Saver).Save(t.Context(), p.SavedDir(), instance.SaveOptions{End: true}); err != nil {
		t.Fatal(err)
	}
	if err := run.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.Close()
	if err := os.RemoveAll(cache + "/templates"); err != nil {
		t.Fatal(err)
	}
	said := h.feed(t, p, "hello\n")
	if said.out != "hello\n" || said.exit.Code != 5 || said.exit.Error != "" {
		t.Errorf("%+v", said)
	}
}

// feed runs a prepared instance to its end, with standard input.
func (h *harness) feed(t *testing.T, p *instance.Prepared, input string) result {
	t.Helper()
	run, err := h.driver().Create(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := run.Delete(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	var out bytes.Buffer
	done := make(chan error, 1)
	if _, err := run.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	go func() {
		done <- run.(instance.Attacher).Attach(t.Context(), instance.Streams{Stdin: strings.NewReader(input), Stdout: &out}, nil)
	}()
	exit, err := run.Wait(t.Context())
	if err = errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	return result{exit: exit, out: out.String()}
}
