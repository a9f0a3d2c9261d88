package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/berthcloud/berth/internal/image"
)

// bench holds what the measurements share.
type bench struct {
	options
	dir          string // of everything that is started
	daemon       *server
	kvm          bool // VMs run on it
	dockerd      *server
	podmanEngine *server
	oci          *runtimes
}

// engines are the programs that run containers from images.
func (b *bench) engines() []*server { return []*server{b.daemon, b.dockerd, b.podmanEngine} }

// server is a program that runs containers, with its daemon, where it has
// one, in a network namespace of its own.
type server struct {
	label  string
	why    string    // it is missing
	netns  string    // "" for none
	cli    []string  // command line up to the subcommand
	run    []string  // flags that its run needs on some hosts
	dir    string    // names its processes
	daemon *exec.Cmd // nil for none
}

func (s *server) command(ctx context.Context, args ...string) error {
	if args[0] == "run" {
		args = slices.Concat(args[:1], s.run, args[1:])
	}
	return quiet(ctx, slices.Concat(s.cli, args)...)
}

func (s *server) processes() []int {
	return family(s.dir, func(argv []string) bool { return strings.HasSuffix(argv[0], "sleep") })
}

// runIdle starts a container that does nothing.
func (s *server) runIdle(ctx context.Context, name string) error {
	return s.command(ctx, "run", "-d", "--name", name, "--network", "none", "base", "sleep", "1000")
}

// remove removes containers, whatever they do.
func (s *server) remove(ctx context.Context, names ...string) error {
	return s.command(ctx, append([]string{"rm", "-f"}, names...)...)
}

// contender times a command of the engine.
func (s *server) contender(args ...string) contender {
	return contender{name: s.label, missing: s.why, run: func(ctx context.Context) (float64, error) {
		return timed(func() error { return s.command(ctx, args...) })
	}}
}

// start starts a daemon in a namespace and waits until a command succeeds.
func (s *server) start(ctx context.Context, ready []string, argv ...string) error {
	if err := quiet(ctx, "ip", "netns", "add", s.netns); err != nil {
		return err
	}
	enter := []string{"nsenter", "--net=/run/netns/" + s.netns}
	if err := quiet(ctx, append(enter, "ip", "link", "set", "lo", "up")...); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	argv = append(enter, argv...)
	s.daemon = exec.Command(argv[0], argv[1:]...)
	s.daemon.Stdout, s.daemon.Stderr = log, log
	s.daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the terminal's Ctrl-C is ours
	if err := s.daemon.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for s.command(ctx, ready...) != nil {
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("%s does not answer: %s", s.label, text[max(0, len(text)-1000):])
		}
	}
	return nil
}

// stop ends the daemon and what belongs to it.
func (s *server) stop() error {
	if s == nil || s.daemon == nil {
		return nil
	}
	s.daemon.Process.Signal(syscall.SIGTERM)
	s.daemon.Wait()
	for range 50 {
		rest := s.processes()
		if len(rest) == 0 {
			break
		}
		for _, pid := range rest { // berth-keeper outlives its berthd, and so does a shim
			syscall.Kill(pid, syscall.SIGTERM)
		}
		pause(context.Background(), 100*time.Millisecond)
	}
	return quiet(context.Background(), "ip", "netns", "del", s.netns)
}

// newBench starts Berth and, where they are installed, its peers, each with
// the image "base" of one busybox.
func newBench(ctx context.Context, o options) (b *bench, err error) {
	dir, err := os.MkdirTemp("/var/tmp", "berth-bench")
	if err != nil {
		return nil, err
	}
	b = &bench{options: o, dir: dir}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if err := b.startBerth(ctx); err != nil {
		return nil, err
	}
	image, err := busyboxImage(ctx, dir)
	if err != nil {
		return nil, err
	}
	if b.oci, err = b.newRuntimes(strings.TrimSuffix(image, ".tar")); err != nil {
		return nil, err
	}
	b.startDocker(ctx, image)
	b.preparePodman(ctx, image)
	return b, nil
}

func (b *bench) close() {
	if b.oci != nil {
		b.oci.close()
	}
	err := errors.Join(b.daemon.stop(), b.dockerd.stop())
	// Mounts of an engine that did not end well would be in the way.
	if mounts, e := output(context.Background(), "awk", "-v", "d="+b.dir, `index($2, d) == 1 {print $2}`, "/proc/self/mounts"); e == nil {
		for m := range strings.FieldsSeq(mounts) {
			syscall.Unmount(m, syscall.MNT_DETACH)
		}
	}
	b.removeCgroups()
	if err = errors.Join(err, os.RemoveAll(b.dir)); err != nil {
		fmt.Fprintln(os.Stderr, "bench: clean up:", err)
	}
}

// removeCgroups removes what dockerd and podman leave: parents that are named
// after us, and podman's, which nobody uses any more if they can be removed.
func (b *bench) removeCgroups() {
	for _, name := range []string{filepath.Base(b.dir), "libpod_parent"} {
		dirs, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
		for _, dir := range append(dirs, "/sys/fs/cgroup/"+name) {
			if _, err := os.Stat(dir); err == nil {
				quiet(context.Background(), "find", dir, "-depth", "-type", "d", "-exec", "rmdir", "--ignore-fail-on-non-empty", "{}", "+")
			}
		}
	}
}

func (b *bench) startBerth(ctx context.Context) error {
	dir := filepath.Join(b.dir, "berth")
	socket := filepath.Join(dir, "run/berthd.sock")
	b.daemon = &server{label: "berth", netns: filepath.Base(b.dir) + "b", dir: dir,
		cli: []string{filepath.Join(b.bin, "berth"), "-H", "unix://" + socket}}
	if err := fillStore(ctx, filepath.Join(dir, "root"), b.kernels()); err != nil {
		return err
	}
	err := b.daemon.start(ctx, []string{"version"}, filepath.Join(b.bin, "berthd"),
		"--root", filepath.Join(dir, "root"), "--run", filepath.Join(dir, "run"), "--socket", socket)
	if err != nil {
		return err
	}
	b.kvm, err = b.usesKVM(ctx)
	return err
}

// usesKVM asks on what a VM would run here.
func (b *bench) usesKVM(ctx context.Context) (bool, error) {
	const machine = "machine"
	if err := b.daemon.command(ctx, "create", "--vm", "--name", machine, "base", "true"); err != nil {
		return false, err
	}
	class, err := output(ctx, append(b.daemon.cli, "explain", "--format", "{{.Machine.Virtualization}}", machine)...)
	return strings.TrimSpace(class) == "hardware", errors.Join(err, b.daemon.remove(ctx, machine))
}

// support says in a row's name what VMs run on.
func (b *bench) support() string {
	if b.kvm {
		return "with KVM"
	}
	return "no hardware support"
}

// kernels are the guest kernels that the wanted rows need.
func (b *bench) kernels() []string {
	if b.match.MatchString(b.devices(0).name) {
		return []string{"cloud", "standard"}
	}
	return []string{"cloud"}
}

// fillStore makes the image and the guest kernels before the daemon starts:
// from its network namespace it reaches no mirror.
func fillStore(ctx context.Context, root string, kernels []string) (err error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	images, err := image.Open(root, image.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, images.Close()) }()
	if _, err := images.Base(ctx, "", nil); err != nil {
		return err
	}
	for _, kernel := range kernels {
		if _, err := images.BootstrapKernel(ctx, kernel, "", nil); err != nil {
			return err
		}
	}
	return nil
}

// version returns Berth's version.
func (b *bench) version(ctx context.Context) string {
	v, err := output(ctx, append(b.daemon.cli, "version", "--format", "{{.Client.Version}}")...)
	if err != nil {
		return "of unknown version"
	}
	return v
}

func (b *bench) berth(args ...string) contender  { return b.daemon.contender(args...) }
func (b *bench) docker(args ...string) contender { return b.dockerd.contender(args...) }
func (b *bench) podman(args ...string) contender { return b.podmanEngine.contender(args...) }
