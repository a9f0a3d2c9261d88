package vm_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/testenv"
)

// TestMemoryComesBack has a guest use memory and give it up: the host gets it back
// without anybody asking, by free page reporting.
func TestMemoryComesBack(t *testing.T) {
	h := newHarness(t)
	p := h.prepare(t, sh("sleep 1000"))
	p.Mounts = []instance.Mount{{Type: api.MountTmpfs, Target: "/mem", Size: 150 << 20, Mode: 0o700}}
	p.Spec.Limits.Memory = 320 << 20
	run, err := h.driver().Create(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	defer run.Delete(context.WithoutCancel(t.Context()))
	if _, err := run.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	pid := h.pid(t, p.ID)
	resident := func() (mib int64) {
		t.Helper()
		_, text, _ := strings.Cut(read(t, "/proc/%d/status", pid), "VmRSS:")
		if _, err := fmt.Sscan(text, &mib); err != nil {
			t.Fatal(err)
		}
		return mib >> 10
	}
	within(t, run, "head -c 125829120 /dev/zero >/mem/x")
	full := resident()
	within(t, run, "rm /mem/x")
	testenv.Eventually(t, time.Minute, func() error {
		if now := resident(); now > full-100 {
			return fmt.Errorf("QEMU has %d MiB; with 120 MiB more in use it had %d", now, full)
		}
		return nil
	})
	t.Logf("%d MiB with 120 in use, %d after", full, resident())
}
