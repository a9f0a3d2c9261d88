package dropin

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/berthcloud/berth/internal/testenv"
)

// Several engines are tested at once; their namespaces, and checks of each engine's
// own, take the place of testenv.Check.
//
// In a container this program lists the root filesystem.
func TestMain(m *testing.M) {
	if os.Args[0] == lister {
		os.Exit(list("/", os.Stdout))
	}
	os.Exit(testenv.Main(m))
}

// patience bounds every command.
const patience = 60 * time.Second

// engine is a container engine that runs its containers with berth-oci.
//
// It lives in a network and a mount namespace of its own, with a /run of its own: its
// bridge, firewall rules, mounts and sockets meet nobody else's and end with it.
type engine struct {
	t       *testing.T
	cell    int      // pid of the process that holds the namespaces
	dir     string   // everything the engine writes
	parent  string   // cgroup of all its containers, from the root
	runtime string   // berth-oci
	cli     []string // its command line up to the subcommand
	flags   []string // what every run needs
	env     []string // what every command line of it needs
	image   string
	names   *atomic.Int32
	state   string // pattern of the directories that berth-oci keeps for its containers
	group   string // pattern of the names of containers' cgroups
	outside bool   // it has the host's network, and leaves it as it is
}

// newEngine makes the namespaces of an engine. setup is a line of shell that runs
// in them first; $1 is the engine's directory.
func newEngine(t *testing.T, setup string, programs ...string) *engine {
	t.Helper()
	t.Parallel()
	if testing.Short() {
		t.Skip("starts a container engine")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	for _, p := range append(programs, "busybox", "nsenter", "unshare", "ip") {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed; packages.txt names its package, make packages installs it", p)
		}
	}
	e := &engine{t: t, dir: testenv.Dir(t), parent: testenv.Name(t), runtime: filepath.Join(testenv.Programs(t), "berth-oci"), image: "base", names: new(atomic.Int32)}
	must(t, os.Chmod(e.dir, 0o711)) // mapped users must get to the root filesystems
	t.Cleanup(e.removeCgroups)
	holder := exec.CommandContext(context.WithoutCancel(t.Context()), "unshare", "--mount", "--net",
		"sh", "-c", "mount -t tmpfs -o mode=755 none /run && ip link set lo up && "+setup+" && echo ready && exec sleep infinity", "sh", e.dir)
	var errs bytes.Buffer
	holder.Stderr = &errs
	out, err := holder.StdoutPipe()
	must(t, err)
	must(t, holder.Start())
	t.Cleanup(func() {
		_ = holder.Process.Kill()
		_ = holder.Wait()
	})
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("namespaces for the engine: %s", errs.String())
	}
	e.cell = holder.Process.Pid
	return e
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// removeCgroups removes the parent of the containers' cgroups, which the engines
// leave, and fails the test if a container's own is still there.
func (e *engine) removeCgroups() {
	for _, pattern := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/"} {
		tops, _ := filepath.Glob(pattern + e.parent)
		for _, top := range tops {
			_ = filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
				if err == nil && d.IsDir() && regexp.MustCompile(e.group).MatchString(d.Name()) {
					e.t.Errorf("the runtime left the cgroup %s", path)
				}
				return nil
			})
			_ = exec.Command("find", top, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+").Run()
		}
	}
}

// command prepares a command in the engine's namespaces.
func (e *engine) command(ctx context.Context, argv ...string) *exec.Cmd {
	enter := []string{fmt.Sprintf("--mount=/proc/%d/ns/mnt", e.cell)}
	if !e.outside {
		enter = append(enter, fmt.Sprintf("--net=/proc/%d/ns/net", e.cell))
	}
	return exec.CommandContext(ctx, "nsenter", append(enter, argv...)...)
}

// daemon starts a daemon and waits until a command of the CLI succeeds.
func (e *engine) daemon(ready string, argv ...string) {
	e.t.Helper()
	name := filepath.Join(e.dir, "log")
	log, err := os.Create(name)
	must(e.t, err)
	defer log.Close()
	cmd := e.command(context.WithoutCancel(e.t.Context()), argv...)
	cmd.Stdout, cmd.Stderr = log, log
	must(e.t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	e.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(patience):
			e.t.Errorf("%s does not end", argv[0])
			_ = cmd.Process.Kill()
		}
		if e.t.Failed() {
			text, _ := os.ReadFile(name)
			e.t.Logf("log of %s: …%s", argv[0], text[max(0, len(text)-3000):])
		}
	})
	testenv.Eventually(e.t, patience, func() error {
		select {
		case <-ended:
			e.t.Fatalf("%s has ended", argv[0])
		default:
		}
		if r := e.do(ready); r.code != 0 {
			return fmt.Errorf("%s does not answer: %s", argv[0], r.out)
		}
		return nil
	})
}

// result is what a command line of the engine did; out holds both its streams.
type result struct {
	out  string
	code int
}

// do runs a command line of the engine's CLI.
func (e *engine) do(args ...string) result {
	e.t.Helper()
	return e.feed("", args...)
}

// feed is do with a standard input.
func (e *engine) feed(stdin string, args ...string) result {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.t.Context()), patience)
	defer cancel()
	cmd := e.command(ctx, e.argv(args)...)
	cmd.Dir, cmd.Stdin = e.dir, strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), e.env...)
	cmd.WaitDelay = time.Second // conmon may inherit the output
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) || ctx.Err() != nil {
		e.t.Fatalf("%v: %v\n%s", args, errors.Join(err, ctx.Err()), out)
	}
	return result{string(out), cmd.ProcessState.ExitCode()}
}

// argv completes a command line: "run" gets the engine's flags.
func (e *engine) argv(args []string) []string {
	argv := append([]string{}, e.cli...)
	if args[0] == "run" {
		return append(append(append(argv, "run"), e.flags...), args[1:]...)
	}
	return append(argv, args...)
}

// want runs a command line, and fails the test unless its exit status and its
// output, a regular expression, are as wanted. It returns the output.
func (e *engine) want(code int, pattern string, args ...string) string {
	e.t.Helper()
	r := e.do(args...)
	e.check(r, code, pattern, args)
	return r.out
}

func (e *engine) check(r result, code int, pattern string, args []string) {
	e.t.Helper()
	if r.code != code || !regexp.MustCompile(pattern).MatchString(r.out) {
		e.t.Errorf("%q: exit status %d, wanted %d; output, wanted %q:\n%s", args, r.code, code, pattern, r.out)
	}
}

// shell runs a line of shell in a fresh container.
func (e *engine) shell(code int, pattern, line string, flags ...string) {
	e.t.Helper()
	args := append([]string{"run", "--rm"}, flags...)
	e.want(code, pattern, append(args, e.image, "sh", "-c", line)...)
}

// background starts a container that runs a line of shell, and returns its name.
func (e *engine) background(line string, flags ...string) string {
	e.t.Helper()
	name := e.name()
	args := append([]string{"run", "--detach", "--name", name}, flags...)
	e.want(0, "", append(args, e.image, "sh", "-c", line)...)
	return name
}

// destroy removes a container, whatever it does.
func (e *engine) destroy(name string) {
	e.t.Helper()
	args := []string{"rm", "--force"}
	if e.podman() { // it is polite first, for ten seconds
		args = append(args, "--time", "0")
	}
	e.want(0, "", append(args, name)...)
}

// eventually is want until it holds.
func (e *engine) eventually(pattern string, args ...string) {
	e.t.Helper()
	testenv.Eventually(e.t, patience, func() error {
		if r := e.do(args...); !regexp.MustCompile(pattern).MatchString(r.out) {
			return fmt.Errorf("%v: wanted %q: %s", args, pattern, r.out)
		}
		return nil
	})
}

// name returns a name for a container of this subtest.
func (e *engine) name() string { return testenv.Name(e.t) + "-" + strconv.Itoa(int(e.names.Add(1))) }

// in returns the engine for a subtest.
func (e *engine) in(t *testing.T) *engine {
	sub := *e
	sub.t = t
	return &sub
}

// nothing fails the test if berth-oci still keeps anything of a container.
func (e *engine) nothing() {
	e.t.Helper()
	if left, _ := filepath.Glob(e.state); len(left) > 0 {
		e.t.Errorf("the runtime kept %v", left)
	}
}
