package vm_test

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/disk"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/instance/instancetest"
	"github.com/berthcloud/berth/internal/instance/vm"
	"github.com/berthcloud/berth/internal/keeper"
	"github.com/berthcloud/berth/internal/link/linktest"
	"github.com/berthcloud/berth/internal/testenv"
)

// lab is what the VM tests share: programs, a guest kernel, a small image.
type lab struct {
	bin, cache string
	kernel     instance.Kernel // Debian's cloud kernel
	standard   instance.Kernel // its standard kernel, with drivers of emulated devices
	layer      string
	host       instance.Host
}

// TestMain fetches what tests need from the network, and then runs them in a
// network namespace of their own.
func TestMain(m *testing.M) {
	flag.Parse()
	if !testing.Short() && os.Getuid() == 0 {
		if _, err := theLab(); err != nil {
			fmt.Fprintln(os.Stderr, "make what the tests boot:", err)
			os.Exit(1)
		}
	}
	os.Exit(linktest.Main(m))
}

// theLab makes the lab once per test process.
var theLab = sync.OnceValues(makeLab)

func newLab(t *testing.T) *lab {
	t.Helper()
	if testing.Short() {
		t.Skip("boots virtual machines")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	l, err := theLab()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func makeLab() (*lab, error) {
	cache := os.Getenv("BERTH_TEST_CACHE")
	if cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return nil, err
		}
		cache = filepath.Join(base, "berth-test")
	}
	l := &lab{bin: filepath.Join(cache, "vm-bin"), cache: filepath.Join(cache, "vm")}
	if err := os.MkdirAll(l.cache, 0o755); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(l.cache, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, err
	}
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", l.bin+"/",
		"../../../cmd/berth-agent", "../../../cmd/berth-qemu", "../../../cmd/berth-keeper")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build: %w: %s", err, out)
	}
	if l.host, err = hostFacts(); err != nil {
		return nil, err
	}
	if l.kernel, err = l.makeKernel("linux-image-cloud-amd64"); err != nil {
		return nil, err
	}
	if l.standard, err = l.makeKernel("linux-image-amd64"); err != nil {
		return nil, err
	}
	return l, l.makeLayer()
}

// hostFacts are those of a host that emulates.
func hostFacts() (instance.Host, error) {
	path, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return instance.Host{}, err
	}
	cpu, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return instance.Host{}, err
	}
	var mhz float64
	if _, rest, found := strings.Cut(string(cpu), "cpu MHz\t\t: "); found {
		fmt.Sscan(rest, &mhz)
	}
	return instance.Host{
		Arch: "amd64", CPUs: 2, Memory: 16 << 30, TSCKHz: int(mhz * 1000), QEMU: map[string]string{"amd64": path},
		Virtiofsd: "/usr/lib/qemu/virtiofsd", KVMReason: "this is a test",
	}, nil
}

// makeKernel unpacks the kernel that a metapackage of Debian's stands for.
func (l *lab) makeKernel(meta string) (instance.Kernel, error) {
	fail := func(err error) (instance.Kernel, error) { return instance.Kernel{}, err }
	out, err := exec.Command("apt-cache", "depends", meta).Output()
	if err != nil {
		return fail(err)
	}
	_, rest, _ := strings.Cut(string(out), "Depends: linux-image-")
	release, _, _ := strings.Cut(rest, "\n")
	release = strings.TrimSpace(release)
	dir := filepath.Join(l.cache, release)
	k := instance.Kernel{Release: release, Vmlinux: dir + "/vmlinux", Modules: dir + "/lib/modules/" + release, Config: dir + "/boot/config-" + release}
	if _, err := os.Stat(k.Vmlinux); err == nil {
		return k, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fail(err)
	}
	get := exec.Command("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", "linux-image-"+release)
	get.Dir = dir
	if out, err := get.CombinedOutput(); err != nil {
		return fail(fmt.Errorf("apt-get download: %w: %s", err, out))
	}
	debs, _ := filepath.Glob(dir + "/*.deb")
	if len(debs) != 1 {
		return fail(fmt.Errorf("%d packages in %s", len(debs), dir))
	}
	if out, err := exec.Command("dpkg-deb", "-x", debs[0], dir).CombinedOutput(); err != nil {
		return fail(fmt.Errorf("dpkg-deb: %w: %s", err, out))
	}
	bz, err := os.Open(dir + "/boot/vmlinuz-" + release)
	if err != nil {
		return fail(err)
	}
	defer bz.Close()
	part, err := os.Create(k.Vmlinux + ".part")
	if err != nil {
		return fail(err)
	}
	if err := errors.Join(disk.ExtractVmlinux(part, bz), part.Close()); err != nil {
		return fail(err)
	}
	return k, os.Rename(part.Name(), k.Vmlinux)
}

// makeLayer makes a layer with busybox.
func (l *lab) makeLayer() error {
	l.layer = filepath.Join(l.cache, "base.erofs")
	if _, err := os.Stat(l.layer); err == nil {
		return nil
	}
	tree, err := os.MkdirTemp("", "berth-vm-base-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tree)
	for _, dir := range []string{"bin", "etc", "tmp", "root", "proc", "sys", "dev", "var"} {
		if err := os.Mkdir(filepath.Join(tree, dir), 0o755); err != nil {
			return err
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return err
	}
	applets, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return err
	}
	errs := []error{
		os.WriteFile(tree+"/bin/busybox", busybox, 0o755),
		os.WriteFile(tree+"/etc/passwd", []byte("root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/var:/bin/sh\n"), 0o644),
		os.WriteFile(tree+"/etc/group", []byte("root:x:0:\nweb:x:33:\nextra:x:44:web\n"), 0o644),
	}
	for name := range strings.FieldsSeq(string(applets)) {
		if name != "busybox" {
			errs = append(errs, os.Symlink("busybox", tree+"/bin/"+name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return mkErofs(l.layer, tree)
}

// mkErofs makes an EROFS image of a tree.
func mkErofs(path, tree string) error {
	if out, err := exec.Command("mkfs.erofs", "-d0", "--all-root", path+".part", tree).CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.erofs: %w: %s", err, out)
	}
	return os.Rename(path+".part", path)
}

// harness is a keeper and drivers on it.
type harness struct {
	*lab
	keeper *keeper.Client
}

func newHarness(t *testing.T) *harness {
	l := newLab(t)
	// The library keeps a descriptor of the cgroup root from its first use on.
	_, _ = cgroups.ReadFile("/sys/fs/cgroup", "cgroup.procs")
	testenv.Check(t)
	run, err := os.MkdirTemp("", "bvm") // short: sockets live below
	if err != nil {
		t.Fatal(err)
	}
	h := &harness{lab: l, keeper: keeper.New(keeper.Config{Run: run, Binary: l.bin + "/berth-keeper"})}
	t.Cleanup(func() {
		if err := h.keeper.Shutdown(t.Context()); err != nil && t.Context().Err() == nil {
			t.Errorf("keeper: %v", err)
		}
		os.RemoveAll(run)
	})
	return h
}

func (h *harness) driver() *vm.Driver {
	return vm.New(vm.Config{
		Keeper: h.keeper, Launcher: h.bin + "/berth-qemu", Agents: map[string]string{"amd64": h.bin + "/berth-agent"}, Cache: h.cache, Host: h.host,
		Log: slog.New(slog.DiscardHandler),
	})
}

// prepare completes a Prepared.
func (h *harness) prepare(t *testing.T, process instance.Process) *instance.Prepared {
	p := instancetest.Prepare(t, process)
	p.Rootfs = instance.Rootfs{Layers: []string{h.layer}, Disk: filepath.Join(p.Dir, "root.raw"), DiskSize: 1 << 30}
	p.Kernel = h.kernel
	p.Users = instance.IDRange{First: 0x7fff0000, Size: 1 << 16}
	return p
}

func TestSuite(t *testing.T) {
	h := newHarness(t)
	instancetest.Run(t, instancetest.Harness{
		Driver:  func(*testing.T) instance.Driver { return h.driver() },
		Prepare: h.prepare,
		Host:    h.host,
	})
}

// BenchmarkRun is a whole run of true: what "berth run --rm --vm base true"
// costs beside the daemon and its client.
func BenchmarkRun(b *testing.B) {
	h, shut := benchHarness(b)
	defer shut()
	d := h.driver()
	for i := 0; b.Loop(); i++ {
		h.benchRun(b, d, i)
	}
}
