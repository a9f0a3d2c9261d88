package vm_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/testenv"
)

// within runs a command in a running instance and returns what it prints.
func within(t *testing.T, run instance.Handle, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	if exit, err := run.(instance.Execer).Exec(ctx, api.Exec{Command: []string{"sh", "-c", script}}, instance.Streams{Stdout: &out, Stderr: &errs}); err != nil || exit.Code != 0 {
		t.Fatalf("%s: %+v, %v: %s", script, exit, err, errs.String())
	}
	return strings.TrimSpace(out.String())
}

// TestGrow gives a running machine with PCI a second processor and more memory than it
// started with, takes memory back, and finds it all again as the next berthd.
func TestGrow(t *testing.T) {
	h := newHarness(t)
	p := h.prepare(t, sh("sleep 1000"))
	p.Spec.VM.Machine, p.Spec.Limits.Memory = api.MachineQ35, 192<<20
	p.Mounts = []instance.Mount{{Type: api.MountBind, Source: t.TempDir(), Target: "/share"}} // its server maps what is added
	run, err := h.driver().Create(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { run.Delete(context.WithoutCancel(t.Context())) }()
	if _, err := run.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	// What a balloon holds still counts as the guest's, in MemTotal alone.
	has := func(cpus int, memory string, least, most int64) {
		t.Helper()
		testenv.Eventually(t, time.Minute, func() error {
			var n int
			var kib int64
			said := within(t, run, "nproc; grep "+memory+" /proc/meminfo | tr -dc 0-9")
			if _, err := fmt.Sscan(said, &n, &kib); err != nil || n != cpus || kib < least<<10 || kib > most<<10 {
				return fmt.Errorf("it has %q, %w; want %d processors and %s of %d to %d MiB", said, err, cpus, memory, least, most)
			}
			return nil
		})
	}
	update := func(l api.Limits) {
		t.Helper()
		if err := run.Update(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	has(1, "MemTotal", 120, 192)
	update(api.Limits{CPUs: 2, Memory: 300 << 20})
	has(2, "MemTotal", 250, 320)
	has(2, "MemAvailable", 150, 300)
	within(t, run, "dd if=/dev/zero of=/share/x bs=1M count=150 2>/dev/null && wc -c </share/x && rm /share/x")
	if run, err = h.driver().Adopt(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	update(api.Limits{CPUs: 2, Memory: 160 << 20})
	has(2, "MemAvailable", 40, 130)
	if err := run.Update(t.Context(), api.Limits{CPUs: 3}); !api.IsKind(err, api.Unsupported) || !strings.Contains(err.Error(), "more than 2 CPUs") {
		t.Errorf("three processors of two: %v", err)
	}
}

// TestCannotGrow refuses what a microvm cannot, with the way out.
func TestCannotGrow(t *testing.T) {
	run := newHarness(t).start(t, sh("sleep 1000"))
	for _, l := range []api.Limits{{CPUs: 2}, {Memory: 1 << 30}} {
		if err := run.Update(t.Context(), l); !api.IsKind(err, api.Unsupported) || !strings.Contains(err.Error(), "microvm") || !strings.Contains(err.Error(), "--machine q35") {
			t.Errorf("%+v: %v", l, err)
		}
	}
}
