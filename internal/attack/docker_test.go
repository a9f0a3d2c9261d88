package attack

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/berthcloud/berth/internal/testenv"
)

// docker is a dockerd of the test's own.
type docker struct {
	t      *testing.T
	socket string
}

// newDocker starts a dockerd with an image "base" of one busybox, in a mount
// namespace of its own. It has no network: none of what it is asked needs one.
func newDocker(t *testing.T) *docker {
	t.Helper()
	for _, program := range []string{"dockerd", "containerd", "docker"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed", program)
		}
	}
	dir := testenv.Dir(t)
	d := &docker{t: t, socket: "unix://" + dir + "/sock"}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	daemon := exec.Command("unshare", "--mount", "--net", "dockerd", "--data-root", dir+"/root", "--exec-root", dir+"/run",
		"-H", d.socket, "--pidfile", dir+"/pid", "--cgroup-parent", "/"+testenv.Name(t), "--bridge", "none", "--iptables=false")
	daemon.Stdout, daemon.Stderr = log, log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = daemon.Process.Signal(syscall.SIGTERM)
		_ = daemon.Wait()
		// It leaves the parent of its containers' cgroups.
		parents, _ := filepath.Glob("/sys/fs/cgroup/*/" + testenv.Name(t))
		for _, parent := range append(parents, filepath.Join("/sys/fs/cgroup", testenv.Name(t))) {
			_ = os.Remove(parent)
		}
	})
	testenv.Eventually(t, time.Minute, func() error {
		if r := d.try(nil, "version"); r.Exit != 0 {
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("dockerd does not answer: %s", text[max(0, len(text)-1000):])
		}
		return nil
	})
	if r := d.try(busyboxArchive(t), "import", "-", "base"); r.Exit != 0 {
		t.Fatalf("docker import: %s", r)
	}
	return d
}

// try runs a docker command.
func (d *docker) try(stdin io.Reader, args ...string) testenv.Result {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.t.Context()), time.Minute)
	defer cancel()
	// The distribution's own client: another that comes first may not fit its daemon.
	cli := "/usr/bin/docker"
	if _, err := os.Stat(cli); err != nil {
		cli = "docker"
	}
	cmd := exec.CommandContext(ctx, cli, append([]string{"-H", d.socket}, args...)...)
	cmd.Stdin = stdin
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	r := testenv.Result{Stdout: out.String(), Stderr: errs.String(), Exit: cmd.ProcessState.ExitCode()}
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		r.Err = err
	}
	return r
}

// busyboxArchive is a root filesystem of one program.
func busyboxArchive(t *testing.T) io.Reader {
	t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs busybox-static")
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, err := range []error{
		w.WriteHeader(&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}),
		w.WriteHeader(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(busybox))}),
		func() error { _, err := w.Write(busybox); return err }(),
		w.WriteHeader(&tar.Header{Name: "bin/sh", Typeflag: tar.TypeSymlink, Linkname: "busybox"}),
		w.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return &b
}
