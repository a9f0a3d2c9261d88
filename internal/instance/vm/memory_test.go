package vm_test

import (
	"context"
	"fmt"
	"os"
	"slices"
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

// TestMergeable: the host's kernel may merge pages of a guest's memory, also of what is
// added to it, only where its user says so.
func TestMergeable(t *testing.T) {
	h := newHarness(t)
	if _, err := os.Stat("/sys/kernel/mm/ksm/run"); err != nil {
		t.Skip("this kernel has no KSM")
	}
	h.host.KSM = true
	for _, wanted := range []bool{false, true} {
		p := h.prepare(t, sh("sleep 1000"))
		p.Spec.Limits.Memory, p.Spec.VM.KSM, p.Spec.VM.Machine = 192<<20, wanted, api.MachineQ35
		run, err := h.driver().Create(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		defer run.Delete(context.WithoutCancel(t.Context()))
		if _, err := run.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := run.Update(t.Context(), api.Limits{CPUs: 1, Memory: 320 << 20}); err != nil {
			t.Fatal(err)
		}
		sizes, mergeable := mergeableMaps(t, h.pid(t, p.ID))
		for _, kib := range []int{192 << 10, 128 << 10} {
			if !slices.Contains(sizes, kib) || slices.Contains(mergeable, kib) != wanted {
				t.Errorf("KSM %v: of the mappings %v KiB these can be merged: %v", wanted, sizes, mergeable)
			}
		}
	}
}

// mergeableMaps returns the sizes of a process's large mappings, in KiB, and of those
// that KSM may look at (smaps, proc_pid_smaps(5): mg).
func mergeableMaps(t *testing.T, pid int) (all, mergeable []int) {
	t.Helper()
	size := 0
	for line := range strings.Lines(read(t, "/proc/%d/smaps", pid)) {
		if rest, found := strings.CutPrefix(line, "Size:"); found {
			if _, err := fmt.Sscan(rest, &size); err != nil {
				t.Fatal(err)
			}
		}
		if flags, found := strings.CutPrefix(line, "VmFlags:"); found && size > 100<<10 {
			all = append(all, size)
			if slices.Contains(strings.Fields(flags), "mg") {
				mergeable = append(mergeable, size)
			}
		}
	}
	return all, mergeable
}
