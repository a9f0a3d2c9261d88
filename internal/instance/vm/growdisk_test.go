package vm_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/testenv"
)

// TestGrowDisk makes the disk of a running machine larger than QEMU was allowed to make
// a file, twice, with another berthd between; and of one that is stopped.
func TestGrowDisk(t *testing.T) {
	h := newHarness(t)
	p := h.prepare(t, sh("sleep 1000"))
	p.Rootfs.DiskSize = 64 << 20
	p.Spec.Limits.Memory = 192 << 20
	boots := func() {
		t.Helper()
		run, err := h.driver().Create(t.Context(), p)
		if err == nil {
			_, err = run.Start(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	boots()
	run, err := h.driver().Adopt(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { run.Delete(context.WithoutCancel(t.Context())) }()
	has := func(mib int) {
		t.Helper()
		testenv.Eventually(t, time.Minute, func() error {
			var n int
			said := within(t, run, "df -m / | tail -1 | awk '{print $2}'")
			if _, err := fmt.Sscan(said, &n); err != nil || n > mib || n < mib*9/10-4 {
				return fmt.Errorf("the root filesystem has %q MiB of %d, %w", said, mib, err)
			}
			return nil
		})
	}
	has(64)
	within(t, run, "echo before >/before")
	for _, mib := range []int{400, 500} {
		if err := run.Update(t.Context(), api.Limits{Disk: int64(mib) << 20}); err != nil {
			t.Fatal(err)
		}
		has(mib)
		if run, err = h.driver().Adopt(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	within(t, run, "dd if=/dev/zero of=/big bs=1M count=350 2>/dev/null && sync && cat /before")
	if err := run.Stop(t.Context(), 15, time.Second); err != nil {
		t.Fatal(err)
	}
	if err := run.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.Rootfs.DiskSize = 6 << 30
	boots()
	has(6 << 10)
	if got := within(t, run, "cat /before; wc -c </big"); got != fmt.Sprintf("before\n%d", 350<<20) {
		t.Errorf("after it has grown there is %q", got)
	}
}

// TestCannotGrowDisk refuses what a guest would not see.
func TestCannotGrowDisk(t *testing.T) {
	h := newHarness(t)
	p := h.prepare(t, sh("sleep 1000"))
	p.Kernel, p.Spec.VM.DiskBus = h.standard, api.DiskAHCI
	run, err := h.driver().Create(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { run.Delete(context.WithoutCancel(t.Context())) }()
	if err := run.Update(t.Context(), api.Limits{Disk: 2 << 30}); !api.IsKind(err, api.Unsupported) || !strings.Contains(err.Error(), "ahci grow: stop it first") {
		t.Error(err)
	}
}
