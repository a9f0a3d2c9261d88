package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/berthcloud/berth/internal/disk"
)

// busyboxImage makes a root filesystem as a tar archive, for the peers.
func busyboxImage(ctx context.Context, dir string) (string, error) {
	root := filepath.Join(dir, "base")
	line := fmt.Sprintf(`mkdir -p %[1]s/bin %[1]s/dev %[1]s/proc %[1]s/sys %[1]s/tmp %[1]s/etc && cp $(command -v busybox) %[1]s/bin/busybox &&
		for a in sh true sleep; do ln -sf busybox %[1]s/bin/$a; done && tar cf %[1]s.tar -C %[1]s .`, root)
	return root + ".tar", quiet(ctx, "sh", "-c", line)
}

// startDocker starts a dockerd of its own, so that one that is in use is not
// touched.
func (b *bench) startDocker(ctx context.Context, image string) {
	dir := filepath.Join(b.dir, "docker")
	b.dockerd = &server{label: "docker", netns: filepath.Base(b.dir) + "d", dir: dir,
		cli: []string{distribution("docker"), "-H", "unix://" + dir + "/docker.sock"}}
	if b.dockerd.why = b.wanted("docker", "dockerd", "containerd"); b.dockerd.why != "" {
		return
	}
	err := os.Mkdir(dir, 0o711)
	if err == nil {
		err = b.dockerd.start(ctx, []string{"version"}, "dockerd", "--data-root", dir+"/root", "--exec-root", dir+"/run",
			"-H", "unix://"+dir+"/docker.sock", "--pidfile", dir+"/pid", "--cgroup-parent", "/"+filepath.Base(b.dir))
	}
	if err == nil {
		err = b.dockerd.command(ctx, "import", "-c", "CMD [\"sh\"]", image, "base")
	}
	if err != nil {
		b.dockerd.why = "does not start here"
		fmt.Fprintln(os.Stderr, "bench: docker:", err)
	}
}

func (b *bench) preparePodman(ctx context.Context, image string) {
	dir := filepath.Join(b.dir, "podman")
	b.podmanEngine = &server{label: "podman with runc", dir: dir, cli: []string{"podman", "--runtime", "runc", "--root", dir + "/root", "--runroot", dir + "/run",
		"--tmpdir", dir + "/tmp", "--cgroup-manager", "cgroupfs", "--events-backend", "none"},
		run: []string{"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"}} // raising limits needs CAP_SYS_RESOURCE
	if b.podmanEngine.why = b.wanted("podman", "runc"); b.podmanEngine.why != "" {
		return
	}
	if err := b.podmanEngine.command(ctx, "import", image, "base"); err != nil {
		b.podmanEngine.why = "does not work here"
		fmt.Fprintln(os.Stderr, "bench: podman:", err)
	}
}

// distribution prefers the distribution's own program to another of its name
// that happens to come first: client and daemon must fit each other.
func distribution(program string) string {
	if path := "/usr/bin/" + program; installed(path) == "" {
		return path
	}
	return program
}

// wanted says why a peer is not measured, "" where it is.
func (b *bench) wanted(programs ...string) string {
	if !b.peers {
		return "not asked for"
	}
	return installed(programs...)
}

// bareQEMU boots the kernel that Berth's VMs boot, on the machine and with the
// options that Berth gives them, to the first output of a busybox shell. It
// learns them from a running VM.
func (b *bench) bareQEMU(ctx context.Context) contender {
	c := contender{name: "bare QEMU to a shell", missing: installed("qemu-system-x86_64")}
	if c.missing != "" {
		return c
	}
	argv, err := b.bareArguments(ctx)
	if err != nil {
		c.missing = err.Error()
		return c
	}
	c.run = func(ctx context.Context) (float64, error) {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			return 0, err
		}
		start := time.Now()
		if err := cmd.Start(); err != nil {
			return 0, err
		}
		defer cmd.Wait()
		defer cmd.Process.Kill()
		err = shellIsUp(out)
		return milliseconds(time.Since(start)), err
	}
	return c
}

// shellIsUp waits for what the shell of bareInitrd says.
func shellIsUp(console io.Reader) error {
	for scan := bufio.NewScanner(console); scan.Scan(); {
		if strings.Contains(scan.Text(), "shell is up") {
			return nil
		}
	}
	return errors.New("no shell")
}

// bareArguments makes a QEMU command of a running VM's.
func (b *bench) bareArguments(ctx context.Context) ([]string, error) {
	if err := b.daemon.command(ctx, with(coldVM, "-d", "--network", "none", "--name", "model", "base", "sleep", "100")...); err != nil {
		return nil, err
	}
	defer b.daemon.command(ctx, "rm", "-f", "model")
	pid, err := output(ctx, append(b.daemon.cli, "inspect", "--format", "{{.Status.PID}}", "model")...)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile("/proc/" + pid + "/cmdline")
	if err != nil {
		return nil, err
	}
	initrd := filepath.Join(b.dir, "bare.initrd")
	if err := bareInitrd(initrd); err != nil {
		return nil, err
	}
	model := strings.Split(string(text), "\x00")
	argv := []string{"qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-initrd", initrd, "-m", "256"}
	for i := 0; i+1 < len(model); i++ {
		value := model[i+1]
		switch model[i] {
		case "-machine":
			value = strings.Replace(value, "memory-backend=ram,", "", 1)
		case "-kernel":
			shown := "/proc/" + pid + "/root" + value // QEMU has a root of its own
			value = filepath.Join(b.dir, "bare.vmlinux")
			if err := quiet(ctx, "cp", shown, value); err != nil {
				return nil, err
			}
		case "-bios", "-accel", "-cpu", "-append":
		default:
			continue
		}
		argv = append(argv, model[i], value)
	}
	return argv, nil
}

// bareInitrd is a busybox whose shell speaks once.
func bareInitrd(path string) error {
	program, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	busybox, err := os.Open(program)
	if err != nil {
		return err
	}
	defer busybox.Close()
	info, err := busybox.Stat()
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	const script = "#!/bin/busybox sh\necho shell is up\nexec /bin/busybox sleep 100\n"
	cpio := disk.NewCpio(f)
	cpio.Dir("bin", 0o755)
	cpio.Dir("dev", 0o755)
	cpio.Char("dev/console", 0o600, 5, 1)
	cpio.File("bin/busybox", 0o755, busybox, info.Size())
	cpio.File("init", 0o755, strings.NewReader(script), int64(len(script)))
	return cpio.Close()
}
