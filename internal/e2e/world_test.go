package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/testenv"
)

// place is one of the three worlds.
type place string

const (
	fakes place = "fakes"
	local place = "local"
	rack  place = "rack"
	user  place = "user" // local, and the daemon an ordinary user's
)

// world is a daemon that scenarios share. Each scenario leaves it as it was:
// without instances.
type world struct {
	*testenv.Daemon
	place place
}

// scenario is one test body. It is called once for each kind, unless it deals
// with both at a time.
type scenario struct {
	name   string
	places []place
	kinds  []api.Kind // nil: called once, with kind ""
	test   func(t *testing.T, w *world, kind api.Kind)
}

var (
	both       = []api.Kind{api.Container, api.VM}
	containers = []api.Kind{api.Container}
	vms        = []api.Kind{api.VM}

	everywhere = []place{fakes, local, rack, user}
	realOnly   = []place{local, rack, user}
	localOnly  = []place{local}
	rackOnly   = []place{rack}
)

// nested are the scenarios whose VMs run in a rack too, in nested KVM on an
// emulated processor: each takes ten seconds to boot.
var nested = map[string]bool{"streams and exit code": true, "hardware virtualization": true, "merged memory": true}

// ofUsers are the scenarios that an ordinary user's daemon plays with VMs too: what is
// different for them are processes, limits, disks, shares and the network.
var ofUsers = map[string]bool{
	"vm size": true, "disk size": true, "further disks": true, "bind mount": true, "published port": true, "stats": true,
}

// scenarios is the whole behavior, in the order of a user's first day.
func scenarios() []scenario {
	return slices.Concat(processScenarios, lifeScenarios, badInputScenarios, limitScenarios, storageScenarios,
		networkScenarios, policyScenarios, systemScenarios, commitScenarios, convertScenarios, buildScenarios, buildAttackScenarios, vmBuildScenarios, survivalScenarios, suspendScenarios, cloneScenarios, halfwayScenarios, classScenarios, diskScenarios, consoleScenarios, rackScenarios)
}

// play runs every scenario of the world's place.
func play(t *testing.T, w *world) {
	for _, s := range scenarios() {
		if !slices.Contains(s.places, w.place) {
			continue
		}
		kinds := s.kinds
		if kinds == nil {
			kinds = []api.Kind{""}
		}
		for _, kind := range kinds {
			if w.place == user && notForUsers[s.name] != "" {
				continue
			}
			if kind == api.VM && (testing.Short() || w.place == user && !ofUsers[s.name] || w.place == rack && !nested[s.name]) {
				continue
			}
			t.Run(strings.TrimSuffix(s.name+"/"+string(kind), "/"), func(t *testing.T) {
				t.Cleanup(func() { w.checkEmpty(t) }) // after the scenario's own cleanup
				s.test(t, w, kind)
			})
		}
	}
}

// checkEmpty fails the test where a scenario left instances behind, and
// removes them for the next one.
func (w *world) checkEmpty(t *testing.T) {
	ctx := context.WithoutCancel(t.Context())
	r := w.Try(ctx, "ps", "-a", "--format", "{{.Names}}")
	if r.Exit != 0 || r.Stdout != "" {
		t.Errorf("instances are left: %s", r)
		w.Try(ctx, append([]string{"rm", "-f", "-v"}, strings.Fields(r.Stdout)...)...)
	}
}

// run makes the arguments of "berth run" for a kind.
func run(kind api.Kind, args ...string) []string {
	if kind == api.VM {
		args = append([]string{"--vm"}, args...)
	}
	return append([]string{"run"}, args...)
}

// start starts an instance in the background that is gone with the scenario.
func (w *world) start(t *testing.T, kind api.Kind, name string, args ...string) {
	t.Helper()
	w.Berth(t, run(kind, append([]string{"-d", "--name", name}, args...)...)...)
	t.Cleanup(func() { w.remove(t, name) })
}

// remove removes an instance by force; one that is gone is fine.
func (w *world) remove(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if r := w.Try(context.WithoutCancel(t.Context()), "rm", "-f", "-v", name); r.Exit != 0 && !strings.Contains(r.Stderr, "no such instance") {
			t.Errorf("rm -f %s: %s", name, r)
		}
	}
}

// later runs a berth command when the scenario is over.
func (w *world) later(t *testing.T, args ...string) {
	t.Helper()
	t.Cleanup(func() {
		if r := w.Try(context.WithoutCancel(t.Context()), args...); r.Exit != 0 || r.Err != nil {
			t.Errorf("berth %s: %s", strings.Join(args, " "), r)
		}
	})
}

// field returns a field of an instance, by Go template.
func (w *world) field(t *testing.T, name, field string) string {
	t.Helper()
	return w.Berth(t, "inspect", "--format", "{{"+field+"}}", name)
}

// becomes waits until a field of an instance has a value.
func (w *world) becomes(t *testing.T, name, field, want string) {
	t.Helper()
	testenv.Eventually(t, time.Minute, func() error {
		if got := w.field(t, name, field); got != want {
			return fmt.Errorf("%s of %s is %q, not %q", field, name, got, want)
		}
		return nil
	})
}

// logged waits until an instance's log contains a text, and returns the log:
// standard output first.
func (w *world) logged(t *testing.T, name, text string) string {
	t.Helper()
	var out string
	testenv.Eventually(t, time.Minute, func() error {
		r := w.Try(t.Context(), "logs", name)
		out = r.Stdout + r.Stderr
		if !strings.Contains(out, text) {
			return fmt.Errorf("the log of %s does not contain %q but %q", name, text, out)
		}
		return nil
	})
	return out
}

// expect fails the test unless a result is as wanted.
func expect(t *testing.T, what string, r testenv.Result, exit int, stdout string) {
	t.Helper()
	if r.Err != nil || r.Exit != exit || r.Stdout != stdout {
		t.Errorf("%s: %s\nwant exit %d, stdout %q", what, r, exit, stdout)
	}
}

// refused fails the test unless a command ended with the exit status and one
// line on standard error that contains all the words. That an image is being
// pulled may be said before.
func refused(t *testing.T, what string, r testenv.Result, exit int, words ...string) {
	t.Helper()
	line := strings.TrimSuffix(r.Stderr, "\n")
	if before, after, ok := strings.Cut(line, "\n"); ok && strings.HasSuffix(before, "pulling it") {
		line = after
	}
	if r.Err != nil || r.Exit != exit || strings.Contains(line, "\n") || line == "" || strings.Trim(r.Stdout, "[]\n") != "" {
		t.Errorf("%s: %s\nwant exit %d and one line on standard error", what, r, exit)
	}
	for _, word := range words {
		if !strings.Contains(line, word) {
			t.Errorf("%s: %q does not name %q", what, line, word)
		}
	}
}

// kernel is a guest kernel that archives makes; without a flavor only what runs on it.
type kernel struct{ flavor, arch string }

// archives makes the tiny image and guest kernels with the code under test, of
// another architecture with its tiny image, and returns an archive of each by name:
// daemons in a network namespace and hosts of a rack reach no mirror.
func archives(t *testing.T, kernels ...kernel) map[string]string {
	t.Helper()
	dir := testenv.Dir(t)
	images, err := image.Open(filepath.Join(dir, "store"), image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer images.Close()
	base, err := images.Base(t.Context(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{base}
	for _, k := range kernels {
		if k.flavor != "" {
			name, err := images.BootstrapKernel(t.Context(), k.flavor, k.arch, nil)
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, name)
		}
		if k.arch == "" {
			continue
		}
		name, err := images.Base(t.Context(), k.arch, nil)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	files := map[string]string{}
	for _, name := range names {
		files[name] = filepath.Join(dir, strings.NewReplacer("/", "-", ":", "-").Replace(name)+".tar")
		f, err := os.Create(files[name])
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(images.Export(t.Context(), f, name), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

func TestLocal(t *testing.T) {
	if testing.Short() {
		t.Skip("boots VMs")
	}
	t.Parallel()
	testenv.CheckOwn(t)
	files := archives(t, kernel{"cloud", ""}, kernel{"standard", ""}, kernel{"cloud", "arm64"})
	testenv.ForeignAgent(t, "arm64")
	w := &world{Daemon: testenv.NewDaemon(t, testenv.NewLocal(t)), place: local}
	for name, file := range files {
		w.Berth(t, "image", "import", file, name)
	}
	play(t, w)
}
