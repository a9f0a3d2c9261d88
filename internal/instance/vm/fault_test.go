package vm_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/instance/vm"
	"github.com/berthcloud/berth/internal/testenv"
)

// start makes and starts a run that ends with the test.
func (h *harness) start(t *testing.T, process instance.Process) instance.Handle {
	t.Helper()
	return h.begin(t, h.prepare(t, process))
}

// ends waits for the end and checks that it is told in one clear line.
func ends(t *testing.T, run instance.Handle, state api.State, message string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	exit, err := run.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(exit.Error, message) || (message == "") != (exit.Error == "") || strings.Contains(exit.Error, "\n") {
		t.Errorf("exit %+v; want its error to say %q", exit, message)
	}
	if st, err := run.Status(ctx); err != nil || st.State != state {
		t.Errorf("status %+v, %v; want %s", st, err, state)
	}
}

func TestDeadQEMU(t *testing.T) {
	run := newHarness(t).start(t, sh("sleep 1000"))
	st, err := run.Status(t.Context())
	if err != nil || st.PID == 0 {
		t.Fatalf("%+v, %v", st, err)
	}
	if err := unix.Kill(st.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for notice := st.Notice; st.State == api.Running; {
		if st, err = run.Status(t.Context()); err != nil || st.Notice != notice {
			t.Fatalf("while it ends: %+v, %v", st, err)
		}
	}
	ends(t, run, api.Failed, "QEMU was killed by signal 9")
}

func TestPanickedGuest(t *testing.T) {
	run := newHarness(t).start(t, sh("echo c > /proc/sysrq-trigger"))
	ends(t, run, api.Failed, "the guest ended without an exit code; last words: Kernel panic - not syncing: sysrq triggered crash")
}

// TestHungGuest stops the guest's processors, so that its agent is silent.
func TestHungGuest(t *testing.T) {
	run := newHarness(t).start(t, sh("sleep 1000"))
	if err := run.(instance.Pauser).Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := run.(instance.Statser).Stats(ctx); !api.IsKind(err, api.Unavailable) || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("stats of a hung guest: %v", err)
	}
	if err := run.Signal(t.Context(), int(unix.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	ends(t, run, api.Exited, "")
}

// TestClass12ExitPortFlood is a guest that fills its exit port: the host's
// file cannot grow beyond the guest's own disk.
func TestClass12ExitPortFlood(t *testing.T) {
	h := newHarness(t)
	p := h.prepare(t, sh("for port in /dev/vport*p5; do cat /dev/zero > $port; done"))
	p.Rootfs.DiskSize, p.Spec.Limits.Memory = 64<<20, 128<<20
	run, err := h.driver().Create(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	defer run.Delete(context.WithoutCancel(t.Context()))
	if _, err := run.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	// What goes beyond waits in the guest, and so does its exit code.
	file := filepath.Join(p.Dir, "exit")
	testenv.Eventually(t, time.Minute, func() error {
		info, err := os.Stat(file)
		if err == nil && info.Size() != 128<<20 {
			err = fmt.Errorf("%d bytes", info.Size())
		}
		return err
	})
}

// TestSmallAndOdd boots a machine with the least memory, and one on a board
// with PCI because it has many devices.
func TestSmallAndOdd(t *testing.T) {
	h := newHarness(t)
	p := h.prepare(t, sh("ls /sys/bus/pci/devices | wc -l; touch /x || echo read-only; hostname"))
	p.Spec.Limits.Memory, p.Spec.Security.ReadOnly, p.Hostname = vm.MinMemory, true, "small"
	h.boot(t, p).want(t, "0\nread-only\nsmall\n")

	many := h.prepare(t, sh("test $(ls /sys/bus/pci/devices | wc -l) -gt 10 && ls /many | wc -l"))
	dir := t.TempDir()
	for i := range 12 {
		many.Mounts = append(many.Mounts, instance.Mount{Type: api.MountBind, Source: dir, Target: "/many/" + string(rune('a'+i))})
	}
	h.boot(t, many).want(t, "12\n")
}

// TestStarvedDisk: a host that has no room for what a guest writes stops the guest, which
// is told, and goes on where it was when there is room.
func TestStarvedDisk(t *testing.T) {
	h := newHarness(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=48m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	p := h.prepare(t, sh("for i in $(seq 50); do cat /bin/busybox >>/fill || exit 1; done; sync /fill && exec test $(stat -c %s /fill) = $((50 * $(stat -c %s /bin/busybox)))"))
	// Zeros would take no room.
	p.Rootfs.Disk = filepath.Join(dir, "root.raw")
	run := h.begin(t, p)
	told, watched := make(chan instance.Status, 8), make(chan error)
	go func() { watched <- run.(instance.Watcher).Watch(t.Context(), func(st instance.Status) { told <- st }) }()
	await := func(want api.State) instance.Status {
		t.Helper()
		select {
		case st := <-told:
			if st.State != want {
				t.Fatalf("told of %+v, want %s", st, want)
			}
			return st
		case err := <-watched:
			exit, werr := run.Wait(t.Context())
			t.Fatalf("nobody watches any more: %v; it ended with %+v, %v", err, exit, werr)
		case <-time.After(time.Minute):
			t.Fatalf("not told that it is %s", want)
		}
		return instance.Status{}
	}
	if st := await(api.Paused); st.Crashed || !strings.Contains(st.Notice, "make room, then 'berth unpause") {
		t.Errorf("without room: %+v", st)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=256m"); err != nil {
		t.Fatal(err)
	}
	if err := run.(instance.Pauser).Unpause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := await(api.Running); st.Notice != "" && strings.Contains(st.Notice, "make room") {
		t.Errorf("with room: %+v", st)
	}
	ends(t, run, api.Exited, "")
	if err := <-watched; err != nil {
		t.Errorf("the watch: %v", err)
	}
}

// TestStoppedQEMU: a QEMU that is stopped answers nobody, and holds up nobody; it ends
// when it is told to.
func TestStoppedQEMU(t *testing.T) {
	run := newHarness(t).start(t, sh("sleep 1000"))
	st, err := run.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(st.PID, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	short := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	if _, err := run.(instance.Statser).Stats(short()); !api.IsKind(err, api.Unavailable) {
		t.Errorf("stats: %v", err)
	}
	if _, err := run.(instance.Execer).Exec(short(), api.Exec{Command: []string{"true"}}, instance.Streams{}); err == nil {
		t.Error("a command ran in it")
	}
	if st, err := run.Status(short()); err == nil && st.Notice == "" {
		t.Errorf("its status says nothing: %+v", st)
	}
	if err := unix.Kill(st.PID, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if exit, err := run.(instance.Execer).Exec(t.Context(), api.Exec{Command: []string{"true"}}, instance.Streams{}); err != nil || exit.Code != 0 {
		t.Errorf("it goes on: %+v, %v", exit, err)
	}
	if err := unix.Kill(st.PID, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := run.Signal(t.Context(), int(unix.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	ends(t, run, api.Exited, "")
}
