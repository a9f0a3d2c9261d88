package testenv

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthcloud/berth/internal/testenv/rackwire"
)

// bootTime is more than a host takes to boot on a busy machine without
// hardware virtualization; a quiet one takes five seconds.
const bootTime = 2 * time.Minute

// Rack is a number of Debian hosts on one Ethernet segment. Each is a QEMU
// guest with an emulated AMD processor that has SVM, so that KVM works inside
// it whatever this machine can do; cgroup v2 alone; Debian's kernel with its
// security modules; Berth's programs in /opt/berth, on its PATH.
type Rack struct {
	Hosts   []*Host
	edition edition
	images  rackImages
	bin     string // EROFS of Berth's programs
	dir     string
	wire    *ethernetSwitch
}

// NewRack boots hosts "host1" to "hostN" with addresses 10.77.0.1 to N. They
// are gone with the test. The files (local path by name) are in /opt/berth
// beside the programs. Tests share a rack between subtests: a host takes
// seconds to boot and 1.5 GiB.
func NewRack(t testing.TB, n int, files map[string]string) *Rack {
	t.Helper()
	return newRack(t, n, files, plainHosts())
}

// NewSystemdRack is NewRack with hosts that systemd and D-Bus run, and that have
// CRIU. They take some seconds more to boot, and run no VMs.
func NewSystemdRack(t testing.TB, n int, files map[string]string) *Rack {
	t.Helper()
	return newRack(t, n, files, systemdHosts())
}

func newRack(t testing.TB, n int, files map[string]string, e edition) *Rack {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a rack needs root")
	}
	r := &Rack{dir: Dir(t), edition: e, images: buildRackImages(t, e)}
	r.bin = packPrograms(t, r.dir, files)
	var err error
	if r.wire, err = newSwitch(filepath.Join(r.dir, "wire")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.wire.close)
	for i := range n {
		h := &Host{Name: fmt.Sprintf("host%d", i+1), address: fmt.Sprintf("10.77.0.%d", i+1), rack: r, number: i + 1}
		r.Hosts = append(r.Hosts, h)
		if err := h.makeDisk(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(h.powerOff)
	}
	var wg sync.WaitGroup
	failed := make([]error, n)
	for i, h := range r.Hosts {
		wg.Go(func() { failed[i] = h.powerOn(t.Context()) })
	}
	wg.Wait()
	if err := errors.Join(failed...); err != nil {
		t.Fatal(err)
	}
	return r
}

// packPrograms makes an EROFS image of Berth's programs and the files.
func packPrograms(t testing.TB, dir string, files map[string]string) string {
	t.Helper()
	all := maps.Clone(files)
	if all == nil {
		all = map[string]string{}
	}
	programs, err := filepath.Glob(filepath.Join(Programs(t), "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range programs {
		all[filepath.Base(p)] = p
	}
	tree := filepath.Join(dir, "bin")
	for name, source := range all {
		target := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := run(t.Context(), "/", "cp", "--reflink=auto", source, target); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(dir, "bin.erofs")
	if err := mkfsErofs(t.Context(), image, tree); err != nil {
		t.Fatal(err)
	}
	return image
}

// Host is one host of a rack. Its methods may be called concurrently, except
// for PowerCut.
type Host struct {
	Name string

	rack    *Rack
	number  int    // from 1
	address string // without prefix length; the segment is a /24
	qemu    *exec.Cmd
	port    net.Conn

	mu   sync.Mutex // guards what follows, and writes to port
	next int
	jobs map[int]*Job
}

func (h *Host) path(name string) string { return filepath.Join(h.rack.dir, h.Name+"."+name) }

// makeDisk makes the host's own disk: sparse, ext4.
func (h *Host) makeDisk(ctx context.Context) error {
	_, err := run(ctx, "/", "mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1", h.path("disk"), "8G")
	return err
}

// smp is how many processors a host has: one with systemd, where no guests run in KVM, which
// stood still with one once in five runs, for a reason not found; for two see holdVM.
func (h *Host) smp() string {
	if h.rack.edition.init != "" {
		return "1"
	}
	return "2"
}

// arguments are QEMU's.
func (h *Host) arguments() []string {
	images := h.rack.images
	kernel := "console=ttyS0 loglevel=4 panic=-1 mitigations=off nokaslr no_timer_check cryptomgr.notests raid=noautodetect audit=0 random.trust_cpu=on" +
		fmt.Sprintf(" rack.name=%s rack.addr=%s/24", h.Name, h.address)
	if h.rack.edition.init != "" {
		// Nobody logs in, and without udev systemd would wait for the terminal's device.
		kernel += " systemd.getty_auto=no systemd.show_status=no rack.init=" + h.rack.edition.init
	}
	disk := func(name, file, flags string) []string {
		return []string{
			"-drive", "if=none,format=raw,id=" + name + ",file=" + file + flags,
			"-device", "virtio-blk-pci,drive=" + name + ",serial=" + name,
		}
	}
	return slices.Concat(
		[]string{
			"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-name", h.Name, "-monitor", "unix:" + h.path("monitor") + ",server=on,wait=off",
			"-machine", "q35,accel=tcg", "-cpu", "EPYC,+svm", "-smp", h.smp(), "-m", "1536",
			"-kernel", images.kernel, "-initrd", images.initrd, "-append", kernel,
			"-serial", "file:" + h.path("console"),
		},
		disk("root", images.root, ",readonly=on"),
		disk("bin", h.rack.bin, ",readonly=on"),
		disk("data", h.path("disk"), ",cache=unsafe"), // the power that is cut is QEMU's, not this machine's
		[]string{
			"-device", "virtio-rng-pci",
			"-device", "virtio-serial-pci",
			"-chardev", "socket,id=agent,path=" + h.path("agent"),
			"-device", "virtserialport,chardev=agent,name=" + rackwire.Port,
			"-netdev", "stream,id=net0,server=off,addr.type=unix,addr.path=" + filepath.Join(h.rack.dir, "wire"),
			"-device", fmt.Sprintf("virtio-net-pci,netdev=net0,mac=52:54:00:77:00:%02x", h.number),
		},
	)
}

// powerOn boots the host and waits for its agent.
func (h *Host) powerOn(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	os.Remove(h.path("agent"))
	listener, err := net.Listen("unix", h.path("agent"))
	if err != nil {
		return err
	}
	defer listener.Close()
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()

	var said bytes.Buffer
	h.qemu = exec.Command("qemu-system-x86_64", h.arguments()...)
	h.qemu.Stderr = &said
	if err := h.qemu.Start(); err != nil {
		return err
	}
	if h.port, err = listener.Accept(); err != nil {
		h.powerOff()
		return fmt.Errorf("%s does not start: %w: %s", h.Name, err, said.String())
	}
	dec := json.NewDecoder(h.port)
	var first rackwire.Response
	gaveUp := context.AfterFunc(ctx, func() { h.port.Close() })
	err = dec.Decode(&first)
	if gaveUp(); err != nil || !first.Ready {
		h.powerOff()
		console, _ := os.ReadFile(h.path("console"))
		return fmt.Errorf("%s did not boot: %w; the end of its console:\n%s%s", h.Name, err, tail(string(console), 4000), said.String())
	}
	h.jobs = map[int]*Job{}
	go h.listen(dec)
	return nil
}

// powerOff ends QEMU at once.
func (h *Host) powerOff() {
	if h.qemu == nil {
		return
	}
	h.qemu.Process.Kill()
	h.qemu.Wait()
	h.qemu = nil
	if h.port != nil {
		h.port.Close()
	}
}

// PowerCut takes the host's power and boots it again, with its disk as it was.
func (h *Host) PowerCut(t testing.TB) {
	t.Helper()
	h.powerOff()
	if err := h.powerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Console returns what the host's kernel has printed.
func (h *Host) Console() string {
	text, _ := os.ReadFile(h.path("console"))
	return string(text)
}

// listen hands out responses until the port closes, and then ends all jobs.
func (h *Host) listen(dec *json.Decoder) {
	for {
		var r rackwire.Response
		if err := dec.Decode(&r); err != nil {
			break
		}
		h.mu.Lock()
		j := h.jobs[r.ID]
		if r.Done {
			delete(h.jobs, r.ID)
		}
		h.mu.Unlock()
		if j != nil {
			j.take(r)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, j := range h.jobs {
		j.take(rackwire.Response{Done: true, Exit: -1, Error: h.Name + " has lost its power"})
	}
	h.jobs = map[int]*Job{}
}

// Job is a command that runs on a host.
type Job struct {
	host *Host
	id   int
	done chan struct{}

	mu             sync.Mutex // guards what follows until done is closed
	stdout, stderr bytes.Buffer
	exit           int
	problem        string
}

// Start starts a command on the host; stdin may be nil.
func (h *Host) Start(stdin io.Reader, argv ...string) (*Job, error) {
	h.mu.Lock()
	h.next++
	j := &Job{host: h, id: h.next, done: make(chan struct{})}
	h.jobs[j.id] = j
	h.mu.Unlock()
	if err := h.send(rackwire.Request{ID: j.id, Argv: argv}); err != nil {
		return nil, err
	}
	if stdin != nil {
		buf := make([]byte, 256<<10)
		for {
			n, err := stdin.Read(buf)
			if n > 0 {
				if err := h.send(rackwire.Request{ID: j.id, Stdin: buf[:n]}); err != nil {
					return nil, err
				}
			}
			if err == io.EOF {
				break
			}
			if err != nil {
				return nil, err
			}
		}
	}
	return j, h.send(rackwire.Request{ID: j.id, CloseStdin: true})
}

func (h *Host) send(r rackwire.Request) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err = h.port.Write(append(text, '\n'))
	return err
}

func (j *Job) take(r rackwire.Response) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.stdout.Write(r.Stdout)
	j.stderr.Write(r.Stderr)
	if r.Done {
		j.exit, j.problem = r.Exit, r.Error
		close(j.done)
	}
}

// Kill ends the command and everything in its session.
func (j *Job) Kill() error { return j.host.send(rackwire.Request{ID: j.id, Kill: true}) }

// Output returns what the command has written so far.
func (j *Job) Output() (stdout, stderr string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.stdout.String(), j.stderr.String()
}

// Wait returns the exit code once the command has ended; an error where it
// could not be run or ctx ends first.
func (j *Job) Wait(ctx context.Context) (int, error) {
	select {
	case <-j.done:
	case <-ctx.Done():
		j.Kill()
		if what := j.host.hung(j); what != "" {
			return -1, fmt.Errorf("%w: %s", ctx.Err(), what)
		}
		return -1, ctx.Err()
	}
	if j.problem != "" {
		return j.exit, errors.New(j.problem)
	}
	return j.exit, nil
}

// Try runs a command on the host.
func (h *Host) Try(ctx context.Context, argv ...string) (stdout, stderr string, exit int, err error) {
	j, err := h.Start(nil, argv...)
	if err != nil {
		return "", "", -1, err
	}
	exit, err = j.Wait(ctx)
	stdout, stderr = j.Output()
	return stdout, stderr, exit, err
}

// Run runs a command on the host and returns its output without the last line
// break. A command that fails, or takes more than a minute, fails the test.
func (h *Host) Run(t testing.TB, argv ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stdout, stderr, exit, err := h.Try(ctx, argv...)
	if err != nil || exit != 0 {
		t.Fatalf("%s: %s: exit %d, %v\n%s%s", h.Name, strings.Join(argv, " "), exit, err, stdout, stderr)
	}
	return strings.TrimSuffix(stdout, "\n")
}

// Shell runs a line in the host's shell, as Run does.
func (h *Host) Shell(t testing.TB, line string) string {
	t.Helper()
	return h.Run(t, "sh", "-c", line)
}
