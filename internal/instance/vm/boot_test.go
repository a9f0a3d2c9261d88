package vm_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// sh is a shell script as an entrypoint.
func sh(script string) instance.Process {
	return instance.Process{Args: []string{"sh", "-c", script}}
}

// result is what a finished run said.
type result struct {
	exit     api.Exit
	out, err string
}

// boot runs a prepared instance to its end.
func (h *harness) boot(t *testing.T, p *instance.Prepared) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	run, err := h.driver().Create(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := run.Delete(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	}()
	var out, errs bytes.Buffer
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- run.(instance.Attacher).Attach(ctx, instance.Streams{Stdout: &out, Stderr: &errs}, func() { close(ready) })
	}()
	<-ready
	if err := run.Start(ctx); err != nil {
		t.Fatal(err)
	}
	exit, err := run.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	return result{exit: exit, out: out.String(), err: errs.String()}
}

// want fails the test unless the run ended well and said exactly this.
func (r result) want(t *testing.T, out string) {
	t.Helper()
	if r.exit.Code != 0 || r.exit.Error != "" || r.out != out {
		t.Errorf("exit %+v\nstdout %q\n  want %q\nstderr %q", r.exit, r.out, out, r.err)
	}
}

// TestShares mounts a directory, a read-only one, a file and a tmpfs.
func TestShares(t *testing.T) {
	h := newHarness(t)
	dir := t.TempDir()
	for _, name := range []string{"rw", "ro"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{"rw/a": "A", "ro/b": "B", "single": "S"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p := h.prepare(t, sh(`
		cat /mnt/rw/a /mnt/ro/b /etc/single; echo
		echo new > /mnt/rw/new
		echo x 2>&1 > /mnt/ro/new || echo refused
		mount -o remount,rw /mnt/ro; echo x 2>&1 > /mnt/ro/new || echo still refused
		mkdir /m; mount -t virtiofs share1 /m; ls /m; echo x > /m/y || echo refused again
		ls /etc/..; stat -c %a:%T /mnt/tmp; stat -f -c %T /mnt/tmp
	`))
	p.Mounts = []instance.Mount{
		{Type: api.MountBind, Source: dir + "/rw", Target: "/mnt/rw"},
		{Type: api.MountBind, Source: dir + "/ro", Target: "/mnt/ro", ReadOnly: true},
		{Type: api.MountBind, Source: dir + "/single", Target: "/etc/single"},
		{Type: api.MountTmpfs, Target: "/mnt/tmp", Size: 1 << 20, Mode: 0o700},
	}
	r := h.boot(t, p)
	t.Logf("%+v", r)
	if new, err := os.ReadFile(dir + "/rw/new"); err != nil || string(new) != "new\n" {
		t.Errorf("the guest's file: %q, %v", new, err)
	}
	if entries, _ := os.ReadDir(dir + "/ro"); len(entries) != 1 {
		t.Errorf("the guest wrote into a read-only share: %v", entries)
	}
	for _, want := range []string{"ABS\n", "refused\n", "still refused\n", "refused again\n", "tmpfs\n"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("stdout lacks %q", want)
		}
	}
}
