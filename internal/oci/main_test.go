package oci_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthcloud/berth/internal/oci"
	"github.com/berthcloud/berth/internal/testenv"
)

// binary is the berth-oci under test, built once.
var binary string

// prebuilt names a binary that was built before: a host of a rack has no Go.
const prebuilt = "BERTH_TEST_OCI"

func TestMain(m *testing.M) {
	flag.Parse()
	if binary = os.Getenv(prebuilt); binary != "" {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "berth-oci")
	if err == nil {
		err = os.Chmod(dir, 0o755) // for ordinary users
	}
	if err == nil {
		binary = filepath.Join(dir, "berth-oci")
		var out []byte
		build := exec.Command("go", "build", "-o", binary, "../../cmd/berth-oci")
		build.Env = append(os.Environ(), "CGO_ENABLED=0") // the reaping init runs where no dynamic linker is
		out, err = build.CombinedOutput()
		os.Stderr.Write(out)
	}
	code := 1
	if err == nil {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// patience bounds every command.
const patience = 30 * time.Second

// box is one bundle and the runtime's state directory of one test.
type box struct {
	t      *testing.T
	id     string
	root   string // --root
	bundle string
	spec   *specs.Spec
}

// newBox makes a bundle of busybox with the default specification and the script
// as its command. What a test leaves behind fails it.
func newBox(t *testing.T, script string) *box {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	testenv.Check(t)
	b := &box{t: t, id: testenv.Name(t), root: filepath.Join(t.TempDir(), "state"), bundle: t.TempDir()}
	makeRootfs(t, b.rootfs())
	b.spec = oci.ExampleSpec()
	b.spec.Process.Terminal = false
	b.spec.Process.Args = []string{"sh", "-c", script}
	b.spec.Linux.CgroupsPath = "/" + b.id
	t.Cleanup(func() {
		if out := b.oci("delete", "--force", b.id); out.code != 0 {
			t.Errorf("delete: %s", out.stderr)
		}
	})
	return b
}

func (b *box) rootfs() string { return filepath.Join(b.bundle, "rootfs") }

// makeRootfs fills dir with busybox.
func makeRootfs(t *testing.T, dir string) {
	t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs busybox-static")
	}
	must(t, os.MkdirAll(filepath.Join(dir, "bin"), 0o755))
	must(t, os.MkdirAll(filepath.Join(dir, "etc"), 0o755))
	must(t, os.Mkdir(filepath.Join(dir, "tmp"), 0o777))
	must(t, os.WriteFile(filepath.Join(dir, "bin/busybox"), busybox, 0o755))
	for name := range strings.FieldsSeq("sh cat head sleep true id ls echo touch mkdir ps grep mount hostname stat kill ln rm mv mkfifo readlink chmod dd wc env umount pwd") {
		must(t, os.Symlink("busybox", filepath.Join(dir, "bin", name)))
	}
	must(t, os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\nbob:x:1000:1001::/home/bob:/bin/sh\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "etc/group"), []byte("root:x:0:\nbob:x:1001:\nwheel:x:10:bob\n"), 0o644))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// userNamespace gives the container one of its own, and it its root filesystem.
func (b *box) userNamespace() {
	b.t.Helper()
	must(b.t, filepath.WalkDir(b.rootfs(), func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, 1<<20, 1<<20))
	}))
	b.userNamespaceOf()
}

// userNamespaceOf gives the container one of its own.
func (b *box) userNamespaceOf() {
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1 << 20, Size: 1 << 16}}
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = ids, ids
}

// output is what a command did.
type output struct {
	stdout, stderr string
	code           int
}

// write writes config.json.
func (b *box) write() {
	b.t.Helper()
	raw, err := json.MarshalIndent(b.spec, "", " ")
	must(b.t, err)
	must(b.t, os.WriteFile(filepath.Join(b.bundle, "config.json"), raw, 0o600))
}

// oci runs berth-oci to its end.
func (b *box) oci(args ...string) output {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return carryOut(b.t, exec.CommandContext(ctx, binary, append([]string{"--root", b.root}, args...)...))
}

// carryOut runs a command until it ends. Its output goes to files: a container that it
// leaves keeps the output open.
func carryOut(t *testing.T, cmd *exec.Cmd) output {
	t.Helper()
	stdout, stderr := outputFile(t), outputFile(t)
	defer stdout.Close()
	defer stderr.Close()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err := cmd.Run()
	out := output{content(t, stdout), content(t, stderr), cmd.ProcessState.ExitCode()}
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || out.code < 0) {
		t.Fatalf("%v: %v (ended after %v at the latest); %s", cmd.Args, err, patience, out.stderr)
	}
	return out
}

// outputFile makes a file without a name.
func outputFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "output")
	if err == nil {
		err = os.Remove(f.Name())
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// content is what has been written to a file.
func content(t *testing.T, f *os.File) string {
	t.Helper()
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<30))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// run writes the bundle and runs it in the foreground.
func (b *box) run() output {
	b.t.Helper()
	b.write()
	return b.oci("run", "--bundle", b.bundle, b.id)
}

// start writes the bundle and runs it in the background, its output going to a file.
func (b *box) start() {
	b.t.Helper()
	b.write()
	out, err := os.OpenFile(b.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	must(b.t, err)
	defer out.Close()
	cmd := exec.Command(binary, "--root", b.root, "run", "--detach", "--bundle", b.bundle, b.id)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(b.log())
		b.t.Fatalf("run: %v: %s", err, text)
	}
}

func (b *box) log() string { return filepath.Join(b.bundle, "log") }

// eventually polls until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) { //nolint:forbidigo // the poll itself
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// status returns the container's state.
func (b *box) status() string {
	b.t.Helper()
	var s oci.State
	out := b.oci("state", b.id)
	if out.code != 0 {
		return out.stderr
	}
	must(b.t, json.Unmarshal([]byte(out.stdout), &s))
	return string(s.Status)
}

// nothing fails the test if the runtime has kept anything of the container.
func (b *box) nothing() {
	b.t.Helper()
	if entries, err := os.ReadDir(b.root); err == nil && len(entries) > 0 {
		b.t.Errorf("left behind in --root: %v", entries)
	}
	if left, _ := filepath.Glob("/sys/fs/cgroup/*/" + b.id); len(left) > 0 {
		b.t.Errorf("cgroups left behind: %v", left)
	}
}
