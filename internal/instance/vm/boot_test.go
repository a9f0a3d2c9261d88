package vm_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/instance/vm"
	"github.com/berthcloud/berth/internal/link"
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
	return h.bootBy(t, h.driver(), p)
}

// bootBy is boot by a driver.
func (h *harness) bootBy(t *testing.T, d *vm.Driver, p *instance.Prepared) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	run, err := d.Create(ctx, p)
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
	if _, err := run.Start(ctx); err != nil {
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
	p.Spec.Security.CapAdd = []string{"SYS_ADMIN"} // it will mount
	p.Mounts = []instance.Mount{
		{Type: api.MountBind, Source: dir + "/rw", Target: "/mnt/rw"},
		{Type: api.MountBind, Source: dir + "/ro", Target: "/mnt/ro", ReadOnly: true},
		{Type: api.MountBind, Source: dir + "/single", Target: "/etc/single"},
		{Type: api.MountTmpfs, Target: "/mnt/tmp", Size: 1 << 20, Mode: 0o700},
	}
	r := h.boot(t, p)
	t.Logf("%+v", r)
	if written, err := os.ReadFile(dir + "/rw/new"); err != nil || string(written) != "new\n" {
		t.Errorf("the guest's file: %q, %v", written, err)
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

// TestTransient boots an instance that is removed when it ends: its disk has no
// journal, and is not brought to rest; what it wrote to a share arrives.
func TestTransient(t *testing.T) {
	h := newHarness(t)
	p := h.prepare(t, sh("echo a > /a; cat /a; cp /a /share/a"))
	p.Spec.AutoRemove = true
	dir := t.TempDir()
	p.Mounts = []instance.Mount{{Type: api.MountBind, Source: dir, Target: "/share"}}
	h.boot(t, p).want(t, "a\n")
	if shared, err := os.ReadFile(dir + "/a"); err != nil || string(shared) != "a\n" {
		t.Errorf("the share: %q, %v", shared, err)
	}
	header, err := exec.Command("dumpe2fs", "-h", p.Rootfs.Disk).Output()
	if err != nil || strings.Contains(string(header), "has_journal") {
		t.Errorf("%v: the disk has a journal:\n%s", err, header)
	}
}

// TestMachine looks at everything a guest is told to be, in one boot: sixty
// layers, network, names, environment, user, directory, limits.
func TestMachine(t *testing.T) {
	h := newHarness(t)
	const layers = 60
	p := h.prepare(t, sh(`
		cat /layers/* | sort -n | wc -l; cat /top; ls /layers | wc -l
		hostname; cat /etc/hostname; grep web /etc/hosts; cat /etc/resolv.conf
		echo $GREETING $HOME; id; pwd; ulimit -n
		ip -4 addr show eth0 | grep -o "inet .*"; ip route; cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6
		nc 10.99.0.1 8099
		cat /sys/fs/cgroup/workload/pids.max
		grep -E "CapBnd|NoNewPrivs" /proc/self/status
		touch /file || echo not mine
	`))
	for i := range layers {
		p.Rootfs.Layers = append(p.Rootfs.Layers, h.numberedLayer(t, i))
	}
	p.Process.Env = append(p.Process.Env, "GREETING=hello")
	p.Process.User, p.Process.WorkingDir = "web", "/var/new"
	p.Spec.Ulimits = []api.Ulimit{{Name: "nofile", Soft: 100, Hard: 200}}
	p.Spec.Limits.PIDs = 50
	p.Hostname, p.DNS = "guest", []string{"10.99.0.1"}
	p.Hosts = []instance.HostsEntry{{Address: "10.99.0.7", Names: []string{"web", "www"}}}
	bridge := link.Bridge{Name: "bvm0", MAC: "52:54:00:00:00:01", Address: netip.MustParsePrefix("10.99.0.1/24")}
	if err := link.EnsureBridge(bridge); err != nil {
		t.Fatal(err)
	}
	defer link.Delete("bvm0")
	listener, err := net.Listen("tcp", "10.99.0.1:8099")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		if conn, err := listener.Accept(); err == nil {
			fmt.Fprintln(conn, "reached by", conn.RemoteAddr().(*net.TCPAddr).IP)
			conn.Close()
		}
	}()
	p.Interfaces = []instance.Interface{{Name: "eth0", HostName: "bvmtap0", Bridge: "bvm0", MAC: "52:54:00:12:34:56",
		Address: []string{"10.99.0.2/24"}, Gateway: "10.99.0.1"}}
	defer link.Delete("bvmtap0") // as the network would
	h.boot(t, p).want(t, strings.Join([]string{
		"60", "59", "60",
		"guest", "guest", "10.99.0.7\tweb www", "nameserver 10.99.0.1",
		"hello /var", "uid=33(web) gid=33(web) groups=33(web),44(extra)", "/var/new", "100",
		"inet 10.99.0.2/24 brd 10.99.0.255 scope global eth0",
		"default via 10.99.0.1 dev eth0 ", "10.99.0.0/24 dev eth0 scope link  src 10.99.0.2 ", "1",
		"reached by 10.99.0.2", "50", "CapBnd:\t00000000a80425fb", "NoNewPrivs:\t1", "not mine", "",
	}, "\n"))
}

// numberedLayer makes a layer with its number in /layers/N and in /top.
func (h *harness) numberedLayer(t *testing.T, i int) string {
	t.Helper()
	tree := t.TempDir()
	number := fmt.Appendf(nil, "%d\n", i)
	if err := os.Mkdir(tree+"/layers", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{fmt.Sprintf("/layers/%d", i), "/top"} {
		if err := os.WriteFile(tree+name, number, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "layer.erofs")
	if err := mkErofs(path, tree); err != nil {
		t.Fatal(err)
	}
	return path
}

// syncBuffer is written by an attachment while the test reads.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// await returns once the buffer holds text.
func (b *syncBuffer) await(t *testing.T, text string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		b.mu.Lock()
		got := b.b.String()
		b.mu.Unlock()
		if strings.Contains(got, text) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %q in %q", text, got)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// TestTerminal types into a shell on the guest's terminal and resizes it; it
// does the same to an exec beside it.
func TestTerminal(t *testing.T) {
	h := newHarness(t)
	p := h.prepare(t, sh(`stty size; trap 'stty size' WINCH; while ! read line; do :; done; echo "got $line"; stty size; exit 3`))
	p.Process.TTY, p.Process.OpenStdin, p.Process.InitialSize = true, true, api.Size{Rows: 30, Cols: 100}
	run, err := h.driver().Create(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	defer run.Delete(context.WithoutCancel(t.Context()))
	var out syncBuffer
	keys, typed := io.Pipe()
	sizes := make(chan api.Size)
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- run.(instance.Attacher).Attach(t.Context(), instance.Streams{Stdin: keys, Stdout: &out, Resize: sizes}, func() { close(ready) })
	}()
	<-ready
	if _, err := run.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	out.await(t, "30 100\r\n")

	var second syncBuffer
	exit, err := run.(instance.Execer).Exec(t.Context(), api.Exec{
		Command: []string{"sh", "-c", "stty size; tty; exit 4"}, TTY: true, Size: api.Size{Rows: 11, Cols: 22},
	}, instance.Streams{Stdout: &second})
	if err != nil || exit.Code != 4 {
		t.Errorf("exec: %+v, %v", exit, err)
	}
	second.await(t, "11 22\r\n/dev/pts/1\r\n")

	sizes <- api.Size{Rows: 40, Cols: 120}
	out.await(t, "40 120\r\n")
	fmt.Fprint(typed, "hello\n")
	if err := <-done; err != nil {
		t.Error(err)
	}
	if exit, err := run.Wait(t.Context()); err != nil || exit.Code != 3 {
		t.Errorf("exit %+v, %v", exit, err)
	}
	out.await(t, "got hello\r\n")
	typed.Close()
}

// TestClass15RawDiskStaysRaw is the attack of Cloud Hypervisor
// GHSA-jmr4-g2hv-mjj6: a guest writes the header of a qcow2 image with a
// backing file of the host into its raw disk, and boots again. The disk is
// read as raw both times, and no layer has changed.
func TestClass15RawDiskStaysRaw(t *testing.T) {
	h := newHarness(t)
	before := hash(t, h.layer)
	write := h.prepare(t, sh(`
		disk=/dev/$(grep -l berth-disk /sys/block/*/serial | cut -d/ -f4)
		printf 'QFI\373\0\0\0\3\0\0\0\0\0\0\0\200\0\0\0\013\0\0\0\20\0\0\0\0\100\0\0\0' > /tmp/header
		dd if=/tmp/header of=$disk bs=512 conv=sync,notrunc 2>/dev/null
		printf /etc/shadow | dd of=$disk bs=1 seek=128 conv=notrunc 2>/dev/null
		layers=/dev/$(grep -l berth-layers /sys/block/*/serial | cut -d/ -f4)
		dd if=/tmp/header of=$layers 2>/dev/null && echo layers written
		sync; cat /sys/block/${disk##*/}/size
	`))
	h.boot(t, write).want(t, "2097152\n")
	read := h.prepare(t, sh(`
		disk=/dev/$(grep -l berth-disk /sys/block/*/serial | cut -d/ -f4)
		cat /sys/block/${disk##*/}/size
		dd if=$disk bs=4 count=1 2>/dev/null | od -An -tx1
		dd if=$disk bs=1 skip=128 count=11 2>/dev/null; echo
	`))
	read.Rootfs.Disk = write.Rootfs.Disk
	h.boot(t, read).want(t, "2097152\n 51 46 49 fb\n/etc/shadow\n")
	if hash(t, h.layer) != before {
		t.Error("the guest has changed a layer")
	}
}

func hash(t *testing.T, path string) [32]byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(data)
}
