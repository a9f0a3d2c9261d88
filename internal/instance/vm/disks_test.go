package vm_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/instance"
)

// TestFurtherDisks gives a machine two disks, one to mount and one as it is, on virtio
// and on SATA. What it writes is there in the next machine.
func TestFurtherDisks(t *testing.T) {
	h := newHarness(t)
	dir := t.TempDir()
	if err := disk.CreateExt4(t.Context(), filepath.Join(dir, "data"), 64<<20, true); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "raw"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "raw"), 32<<20); err != nil {
		t.Fatal(err)
	}
	lives := func(bus api.DiskBus, script string) string {
		t.Helper()
		p := h.prepare(t, sh("sleep 1000"))
		p.Spec.AutoRemove = true
		if p.Spec.VM.DiskBus = bus; bus != api.DiskVirtio {
			p.Kernel = h.standard
		}
		p.Mounts = []instance.Mount{
			{Type: api.MountDisk, Name: "data", Source: filepath.Join(dir, "data"), Size: 64 << 20, Target: "/srv/data"},
			{Type: api.MountDisk, Name: "raw", Source: filepath.Join(dir, "raw"), Size: 32 << 20},
		}
		run, err := h.driver().Create(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := run.Delete(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
			}
		}()
		if _, err := run.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		said := within(t, run, script)
		if err := run.Stop(t.Context(), 15, time.Second); err != nil {
			t.Fatal(err)
		}
		return said
	}
	lives(api.DiskVirtio, `set -e
		echo mounted >/srv/data/file
		printf xxxxxxxx | dd of=/dev/disk/by-id/virtio-raw conv=fsync 2>/dev/null`)
	if text, err := os.ReadFile(filepath.Join(dir, "raw")); err != nil || !strings.HasPrefix(string(text), "xxxxxxxx") || len(text) != 32<<20 {
		t.Errorf("the raw disk begins with %q, %v", text[:min(len(text), 16)], err)
	}
	if said := lives(api.DiskAHCI, "cat /srv/data/file; head -c 8 /dev/disk/by-id/ata-QEMU_HARDDISK_raw"); said != "mounted\nxxxxxxxx" {
		t.Errorf("the next machine reads %q", said)
	}
}
