package vm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/instance/vm"
	"github.com/berthcloud/berth/internal/keeper"
	"github.com/berthcloud/berth/internal/link"
)

// warmDriver keeps templates in a cache, and says in a log what fails.
func (h *harness) warmDriver(t testing.TB, cache string, log *bytes.Buffer) *vm.Driver {
	d := vm.New(vm.Config{
		Keeper: h.keeper, Launcher: h.bin + "/berth-qemu", Agents: map[string]string{"amd64": h.bin + "/berth-agent"}, Cache: cache, Host: h.host,
		Templates: 2, TemplateUser: 0x7ffe0000, Cgroup: "/berth-test", Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	t.Cleanup(d.Close)
	return d
}

// learnt returns a driver that has a template, by the boot of one machine.
func (h *harness) learnt(t *testing.T, cache string, p *instance.Prepared) *vm.Driver {
	t.Helper()
	d := h.warmDriver(t, cache, new(bytes.Buffer))
	h.bootBy(t, d, p)
	if err := d.Learn(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list, err := d.Templates(t.Context()); err != nil || len(list) != 1 {
		t.Fatalf("templates: %v, %v", list, err)
	}
	return d
}

// machineOf returns how the machine of a run began.
func machineOf(t *testing.T, d *vm.Driver, p *instance.Prepared) (template, start string) {
	t.Helper()
	run, err := d.Create(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	defer run.Delete(context.WithoutCancel(t.Context()))
	status, err := run.Status(t.Context())
	if err != nil || status.State != "created" || status.Machine == nil {
		t.Fatalf("%+v, %v", status, err)
	}
	return status.Machine.Template, status.Machine.Start
}

// TestTemplate is attack class 16: two copies of one template have nothing in common
// that should tell two machines apart. They have their own disks, addresses and
// streams.
func TestTemplate(t *testing.T) {
	h := newHarness(t)
	bridge := link.Bridge{Name: "bvm0", MAC: "52:54:00:00:00:01", Address: netip.MustParsePrefix("10.99.0.1/24")}
	if err := link.EnsureBridge(bridge); err != nil {
		t.Fatal(err)
	}
	defer link.Delete("bvm0")
	defer link.Delete("bvmtap0") // as the network would
	guest := func(n int, process instance.Process) *instance.Prepared {
		p := h.prepare(t, process)
		p.ID, p.Cgroup = fmt.Sprintf("%s-%d", p.ID, n), fmt.Sprintf("%s-%d", p.Cgroup, n)
		p.Hostname, p.Rootfs.DiskSize = fmt.Sprintf("guest%d", n), 1<<28
		p.Interfaces = []instance.Interface{{Name: "eth0", HostName: "bvmtap0", Bridge: "bvm0", MAC: fmt.Sprintf("52:54:00:12:34:%02x", n),
			Address: []string{fmt.Sprintf("10.99.0.%d/24", n+2)}, Gateway: "10.99.0.1"}}
		return p
	}
	d := h.learnt(t, t.TempDir(), guest(0, sh("true")))

	script := sh(`cat /proc/sys/kernel/random/boot_id; hexdump -n 16 -e '16/1 "%02x" "\n"' /dev/urandom
		cat /sys/class/net/eth0/address; hostname; ip -4 -o addr show eth0 | grep -o "inet [^/]*"
		ping -c 1 -W 5 10.99.0.1 >/dev/null && echo reaches; mktemp -u XXXXXXXXXXXX
		date +%s; df / | tail -1 | tr -s ' ' | cut -d' ' -f2`)
	said := [2][]string{}
	for n := range said {
		began := time.Now().Unix()
		p := guest(n+1, script)
		r := h.bootBy(t, d, p)
		said[n] = strings.Fields(r.out)
		if r.exit.Code != 0 || len(said[n]) != 10 {
			t.Fatalf("copy %d: %+v", n, r)
		}
		var clock, size int64
		fmt.Sscan(said[n][8], &clock)
		fmt.Sscan(said[n][9], &size)
		if clock < began || clock > time.Now().Unix() {
			t.Errorf("the clock of copy %d says %d and not between %d and now", n, clock, began)
		}
		if whole := int64(1) << 18; size < whole*8/10 || size > whole {
			t.Errorf("the disk of copy %d has %d KiB of %d", n, size, whole)
		}
		want := []string{fmt.Sprintf("52:54:00:12:34:%02x", n+1), fmt.Sprintf("guest%d", n+1), "inet", fmt.Sprintf("10.99.0.%d", n+3), "reaches"}
		if got := said[n][2:7]; strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("copy %d: %q, want %q", n, got, want)
		}
	}
	for i, what := range map[int]string{0: "boot id", 1: "randomness", 7: "name of a temporary file"} {
		if said[0][i] == said[1][i] {
			t.Errorf("two copies have the same %s: %s", what, said[0][i])
		}
	}
	p := guest(3, sh("true"))
	if template, start := machineOf(t, d, p); template == "" || !strings.Contains(start, template) {
		t.Errorf("template %q, start %q", template, start)
	}
	other := guest(4, sh("true"))
	other.Rootfs.DiskSize = 2 << 28 // which a guest that has seen its disk does not look at again
	if template, start := machineOf(t, d, other); template != "" {
		t.Errorf("with another disk: template %q, start %q", template, start)
	}
	p.Spec.VM.ColdBoot = true
	if template, start := machineOf(t, d, p); template != "" || !strings.Contains(start, "--cold-boot") {
		t.Errorf("with --cold-boot: template %q, start %q", template, start)
	}
}

// TestTemplateStreams runs copies with other streams than the machine that was booted.
func TestTemplateStreams(t *testing.T) {
	h := newHarness(t)
	d := h.learnt(t, t.TempDir(), h.prepare(t, sh("true")))
	p := h.prepare(t, sh("echo out; echo err >&2; exit 7"))
	if r := h.bootBy(t, d, p); r.out != "out\n" || r.err != "err\n" || r.exit.Code != 7 {
		t.Errorf("%+v", r)
	}
	// One template serves machines with a terminal and with standard input.
	p.Process.TTY, p.Process.OpenStdin = true, true
	if template, _ := machineOf(t, d, p); template == "" {
		t.Error("a terminal takes another template")
	}
}

// TestTornTemplate damages a template: the machine is booted, the failure is said
// once, and the template is gone.
func TestTornTemplate(t *testing.T) {
	h := newHarness(t)
	cache := t.TempDir()
	p := h.prepare(t, sh("echo hello"))
	h.learnt(t, cache, p).Close()
	dirs, err := filepath.Glob(cache + "/templates/*")
	if err != nil || len(dirs) != 1 {
		t.Fatal(dirs, err)
	}
	whole := t.TempDir()
	copyTree := func(to, from string) {
		if out, err := exec.Command("cp", "-a", from+"/.", to).CombinedOutput(); err != nil {
			t.Fatal(err, string(out))
		}
	}
	copyTree(whole, dirs[0])
	for name, damage := range map[string]func(dir string) error{
		"short state": func(dir string) error { return os.Truncate(dir+"/state", 1000) },
		"no state":    func(dir string) error { return os.Remove(dir + "/state") },
		"short ram":   func(dir string) error { return os.Truncate(dir+"/ram", 100<<20) },
	} {
		t.Run(name, func(t *testing.T) {
			copyTree(dirs[0], whole)
			if err := damage(dirs[0]); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			d := h.warmDriver(t, cache, &log)
			h.bootBy(t, d, p).want(t, "hello\n")
			if !strings.Contains(log.String(), "template") {
				t.Errorf("the log: %s", log.String())
			}
			if _, err := os.Stat(dirs[0]); !errors.Is(err, os.ErrNotExist) {
				t.Error("the template is still there")
			}
			if _, start := machineOf(t, d, p); !strings.Contains(start, "failed") {
				t.Errorf("start %q", start)
			}
			if n := strings.Count(log.String(), "\n"); n != 1 {
				t.Errorf("the log has %d lines after another start: %s", n, log.String())
			}
		})
	}
}

// TestTemplateSealed writes to the memory of a template as a QEMU that was taken over
// could: by the descriptor that it has, and by opening it anew.
func TestTemplateSealed(t *testing.T) {
	h := newHarness(t)
	p := h.prepare(t, sh("sleep 100"))
	d := h.learnt(t, t.TempDir(), h.prepare(t, sh("true")))
	run, err := d.Create(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	defer run.Delete(context.WithoutCancel(t.Context()))
	status, err := run.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := fmt.Sprintf("/proc/%d/fd/", status.PID)
	fds, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, fd := range fds {
		if to, _ := os.Readlink(dir + fd.Name()); !strings.Contains(to, "memfd:berth-template") {
			continue
		}
		found = true
		file, err := os.OpenFile(dir+fd.Name(), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt([]byte("x"), 0); !errors.Is(err, unix.EPERM) {
			t.Errorf("write: %v", err)
		}
		if _, err := unix.Mmap(int(file.Fd()), 0, 4096, unix.PROT_WRITE, unix.MAP_SHARED); !errors.Is(err, unix.EPERM) {
			t.Errorf("map: %v", err)
		}
		if err := unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096); !errors.Is(err, unix.EPERM) {
			t.Errorf("punch a hole: %v", err)
		}
		file.Close()
	}
	if !found {
		t.Error("QEMU has no memory of a template open")
	}
}

// TestTemplateAbandoned ends a daemon while it makes a template, by force and not: the
// next one leaves nothing of it.
func TestTemplateAbandoned(t *testing.T) {
	h := newHarness(t)
	cache := t.TempDir()
	d := h.warmDriver(t, cache, new(bytes.Buffer))
	h.bootBy(t, d, h.prepare(t, sh("true")))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := d.Learn(ctx); err == nil {
		t.Fatal("made within a tenth of a second")
	}
	if list, err := os.ReadDir(cache + "/templates"); err != nil || len(list) != 0 {
		t.Errorf("left: %v, %v", list, err)
	}
	if err := os.Mkdir(cache+"/templates/new", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := d.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list, err := os.ReadDir(cache + "/templates"); err != nil || len(list) != 0 {
		t.Errorf("left after Recover: %v, %v", list, err)
	}
}

// BenchmarkWarm is BenchmarkRun by a copy of a template.
func BenchmarkWarm(b *testing.B) {
	h, shut := benchHarness(b)
	defer shut()
	d := h.warmDriver(b, b.TempDir(), new(bytes.Buffer))
	h.benchRun(b, d, -1)
	if err := d.Learn(b.Context()); err != nil {
		b.Fatal(err)
	}
	var answers []float64
	for i := 0; b.Loop(); i++ {
		answers = append(answers, float64(h.benchRun(b, d, i).Microseconds())/1000)
	}
	slices.Sort(answers)
	b.ReportMetric(answers[0], "ms-to-answer-least")
	b.ReportMetric(answers[len(answers)/2], "ms-to-answer-median")
}

// benchHarness is a harness with a keeper that shut ends.
func benchHarness(b *testing.B) (h *harness, shut func()) {
	l, err := theLab()
	if err != nil {
		b.Fatal(err)
	}
	run, err := os.MkdirTemp("", "bvm")
	if err != nil {
		b.Fatal(err)
	}
	h = &harness{lab: l, keeper: keeper.New(keeper.Config{Run: run, Binary: l.bin + "/berth-keeper"})}
	return h, func() {
		h.keeper.Shutdown(b.Context())
		os.RemoveAll(run)
	}
}

// benchRun runs true in a machine, and returns the time from the start of its launcher
// to the agent's answer, when the entrypoint runs.
func (h *harness) benchRun(b *testing.B, d *vm.Driver, i int) (answer time.Duration) {
	p := &instance.Prepared{
		ID: fmt.Sprintf("bench%d", i), Hostname: "bench", Dir: b.TempDir(), RunDir: b.TempDir(), Cgroup: fmt.Sprintf("/berth-test/vmbench%d-%d", os.Getpid(), i),
		Process: instance.Process{Args: []string{"true"}, Env: []string{"PATH=/bin"}}, Kernel: h.kernel,
	}
	p.Rootfs = instance.Rootfs{Layers: []string{h.layer}, Disk: filepath.Join(p.Dir, "root.raw"), DiskSize: 10 << 30}
	r, err := d.Create(b.Context(), p)
	if err != nil {
		b.Fatal(err)
	}
	status, err := r.Start(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	answer = time.Since(status.Created)
	if exit, err := r.Wait(b.Context()); err != nil || exit.Code != 0 {
		b.Fatal(exit, err)
	}
	if err := r.Delete(b.Context()); err != nil {
		b.Fatal(err)
	}
	return answer
}
