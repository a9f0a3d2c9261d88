package engine

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/instance/fake"
	"github.com/berthcloud/berth/internal/network/fakenet"
	"github.com/berthcloud/berth/internal/storage"
	"github.com/berthcloud/berth/internal/store/bolt"
)

// world is a host on which engines come and go.
type world struct {
	root, run string
	runs      *fake.World
	*Engine
	closers []io.Closer
}

// newWorld returns a host with an engine and the image base. Instances are
// plain processes; images, layers and records are real.
func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting layers needs root")
	}
	w := &world{root: t.TempDir(), run: t.TempDir(), runs: fake.NewWorld()}
	w.open(t)
	t.Cleanup(func() {
		for _, inst := range w.all(t) {
			if err := w.Remove(context.Background(), inst.ID, RemoveOptions{Force: true, Volumes: true}); err != nil {
				t.Error(err)
			}
		}
		w.close(t)
	})
	if _, err := w.images.Base(t.Context(), "", nil); err != nil {
		t.Fatal(err)
	}
	return w
}

// open opens the engine, whose drivers of containers each of the functions wraps.
func (w *world) open(t *testing.T, wrap ...func(instance.Driver) instance.Driver) {
	t.Helper()
	containers := instance.Driver(fake.New(w.runs, api.Container))
	for _, f := range wrap {
		containers = f(containers)
	}
	images, err := image.Open(w.root, image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	state, err := bolt.Open(filepath.Join(w.root, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	disks, err := storage.Open(w.root, w.run)
	if err != nil {
		t.Fatal(err)
	}
	w.closers = []io.Closer{state, images}
	w.Engine, err = New(t.Context(), Config{
		Root: w.root, Run: w.run, Cgroup: "/berth-test", Store: state, Images: images, Storage: disks,
		Networks: fakenet.NewSet(),
		Drivers:  []instance.Driver{containers, fake.New(w.runs, api.VM)},
		Host:     instance.Host{Arch: "amd64", CPUs: 2, Memory: 8 << 30},
		Log:      slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
}

// close ends the engine as an orderly shutdown, or kill -9, would: runs go on.
func (w *world) close(t *testing.T) {
	t.Helper()
	err := w.Close()
	for _, c := range w.closers {
		err = errors.Join(err, c.Close())
	}
	if err != nil {
		t.Error(err)
	}
}

func (w *world) all(t *testing.T) []api.Instance {
	t.Helper()
	list, err := w.List(context.Background(), ListOptions{All: true})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func shell(name, script string) api.Spec {
	return api.Spec{Name: name, Image: "base", Command: []string{"/bin/sh", "-c", script}, Network: api.NetworkSpec{Name: api.NetworkNone}}
}

// start creates and starts an instance.
func (w *world) start(t *testing.T, spec api.Spec) api.Instance {
	t.Helper()
	if _, err := w.Create(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	inst, err := w.Start(t.Context(), spec.Name)
	if err != nil {
		t.Fatal(err)
	}
	return inst
}

// await waits until the instance is as wanted.
func (w *world) await(t *testing.T, ref, what string, ok func(api.Instance) bool) api.Instance {
	t.Helper()
	en, err := w.find(ref)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := en.await(ctx, func() bool { return ok(en.rec.public()) }); err != nil {
		t.Fatalf("%s: not %s in time: %+v", ref, what, en.snapshot())
	}
	return en.instance()
}

func (w *world) awaitState(t *testing.T, ref string, s api.State) api.Instance {
	t.Helper()
	return w.await(t, ref, string(s), func(i api.Instance) bool { return i.Status.State == s })
}

const forever = "while :; do sleep 0.05; done"

func TestLife(t *testing.T) {
	w := newWorld(t)
	inst := w.start(t, shell("web", "exec sleep 1000"))
	if inst.Status.State != api.Running || inst.Status.PID == 0 || inst.Spec.Hostname != inst.ID[:12] {
		t.Errorf("started: %+v", inst)
	}
	again, err := w.Start(t.Context(), inst.ID[:10])
	if err != nil || again.Status.PID != inst.Status.PID {
		t.Errorf("a second start: %+v, %v", again.Status, err)
	}
	if err := w.Remove(t.Context(), "web", RemoveOptions{}); !api.IsKind(err, api.Conflict) {
		t.Errorf("removing a running instance: %v", err)
	}
	if err := w.Pause(t.Context(), "web"); err != nil {
		t.Error(err)
	}
	if err := w.Pause(t.Context(), "web"); !api.IsKind(err, api.Conflict) {
		t.Errorf("a second pause: %v", err)
	}
	// Stopping a paused instance thaws it.
	if err := w.Stop(t.Context(), "web", StopOptions{}); err != nil {
		t.Error(err)
	}
	inst, _ = w.Get(t.Context(), "web")
	if inst.Status.State != api.Exited || *inst.Status.ExitCode != 143 || inst.Status.PID != 0 {
		t.Errorf("stopped: %+v", inst.Status)
	}
	if err := w.Stop(t.Context(), "web", StopOptions{}); err != nil {
		t.Errorf("a second stop: %v", err)
	}
	if err := w.Kill(t.Context(), "web", ""); !api.IsKind(err, api.Conflict) {
		t.Errorf("killing a stopped instance: %v", err)
	}
	if err := w.Restart(t.Context(), "web", StopOptions{}); err != nil {
		t.Error(err)
	}
	if err := w.Rename(t.Context(), "web", "shop"); err != nil {
		t.Error(err)
	}
	if _, err := w.Get(t.Context(), "web"); !api.IsKind(err, api.NotFound) {
		t.Errorf("the old name: %v", err)
	}
	if err := w.Remove(t.Context(), "shop", RemoveOptions{Force: true}); err != nil {
		t.Error(err)
	}
	w.nothingLeft(t)
}

// nothingLeft expects that no instance left anything on disk.
func (w *world) nothingLeft(t *testing.T) {
	t.Helper()
	for _, dir := range []string{"instances"} {
		for _, base := range []string{w.root, w.run} {
			left, err := os.ReadDir(filepath.Join(base, dir))
			if err == nil && len(left) > 0 {
				t.Errorf("left in %s: %v", filepath.Join(base, dir), left)
			}
		}
	}
	if err := w.storage.Sweep(); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(filepath.Join(w.run, "layers")); len(left) > 0 {
		t.Errorf("mounted layers are left: %v", left)
	}
	if img, err := w.images.Inspect(t.Context(), "base"); err != nil || len(img.Users) > 0 {
		t.Errorf("the image is held by %v, %v", img.Users, err)
	}
}

func TestAttachMissesNothing(t *testing.T) {
	w := newWorld(t)
	spec := shell("quick", "echo out; echo err >&2; exit 4")
	spec.AutoRemove = true
	if _, err := w.Create(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	var out, errs strings.Builder
	type result struct {
		exit api.Exit
		err  error
	}
	ready, done := make(chan struct{}), make(chan result, 1)
	go func() {
		exit, err := w.Attach(t.Context(), "quick", instance.Streams{Stdout: &out, Stderr: &errs}, func() { close(ready) })
		done <- result{exit, err}
	}()
	<-ready
	if _, err := w.Start(t.Context(), "quick"); err != nil {
		t.Fatal(err)
	}
	r := <-done
	if r.err != nil || r.exit.Code != 4 || out.String() != "out\n" || errs.String() != "err\n" {
		t.Errorf("%+v; out %q, err %q", r, out.String(), errs.String())
	}
	if _, err := w.Get(t.Context(), "quick"); !api.IsKind(err, api.NotFound) {
		t.Errorf("attach returned before the removal: %v", err)
	}
	w.nothingLeft(t)
}

func TestFailedStart(t *testing.T) {
	w := newWorld(t)
	spec := shell("bad", "")
	spec.Command = []string{"no-such-command"}
	if _, err := w.Create(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	ready, attached := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := w.Attach(t.Context(), "bad", instance.Streams{}, func() { close(ready) })
		attached <- err
	}()
	<-ready
	_, err := w.Start(t.Context(), "bad")
	if !api.IsKind(err, api.NoCommand) || !strings.Contains(err.Error(), "start bad: no-such-command: no such command") {
		t.Errorf("start: %v", err)
	}
	if err := <-attached; !api.IsKind(err, api.NoCommand) {
		t.Errorf("attach: %v", err)
	}
	inst, _ := w.Get(t.Context(), "bad")
	if inst.Status.State != api.Created || inst.Status.ExitCode == nil || *inst.Status.ExitCode != 127 || inst.Status.Error == "" {
		t.Errorf("after it: %+v", inst.Status)
	}
	if left, _ := os.ReadDir(filepath.Join(w.run, "instances")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}

	spec.Name, spec.AutoRemove = "gone", true
	if _, err := w.Create(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Start(t.Context(), "gone"); !api.IsKind(err, api.NoCommand) {
		t.Errorf("start with --rm: %v", err)
	}
	if _, err := w.Get(t.Context(), "gone"); !api.IsKind(err, api.NotFound) {
		t.Errorf("a failed start with --rm left its instance: %v", err)
	}
}

func TestCreateRefuses(t *testing.T) {
	w := newWorld(t)
	w.start(t, shell("taken", forever))
	with := func(f func(*api.Spec)) api.Spec {
		s := shell("x", "true")
		f(&s)
		return s
	}
	cases := map[string]struct {
		spec api.Spec
		kind api.ErrorKind
		says string
	}{
		"image":      {with(func(s *api.Spec) { s.Image = "nowhere" }), api.NotFound, "nowhere"},
		"name":       {with(func(s *api.Spec) { s.Name = "taken" }), api.Exists, "taken"},
		"bad name":   {with(func(s *api.Spec) { s.Name = "../x" }), api.Invalid, "a name has"},
		"kind":       {with(func(s *api.Spec) { s.Kind = "zone" }), api.Invalid, "zone"},
		"vm memory":  {with(func(s *api.Spec) { s.Kind = api.VM; s.Limits.Memory = 1 << 20 }), api.Invalid, "minimum"},
		"memory":     {with(func(s *api.Spec) { s.Limits.Memory = 1 << 50 }), api.Invalid, "more than the host's"},
		"cpus":       {with(func(s *api.Spec) { s.Limits.CPUs = 99 }), api.Invalid, "more than the host's 2"},
		"cpuset":     {with(func(s *api.Spec) { s.Limits.CPUSet = "0,2-3" }), api.Invalid, "processors 0 to 1"},
		"cpu list":   {with(func(s *api.Spec) { s.Limits.CPUSet = "1-0" }), api.Invalid, "list"},
		"mount":      {with(func(s *api.Spec) { s.Mounts = []api.Mount{{Type: api.MountBind, Source: "rel", Target: "/x"}} }), api.Invalid, "rel"},
		"root mount": {with(func(s *api.Spec) { s.Mounts = []api.Mount{{Type: api.MountTmpfs, Target: "/x/.."}} }), api.Invalid, "root filesystem"},
		"signal":     {with(func(s *api.Spec) { s.StopSignal = "BOOM" }), api.Invalid, "BOOM"},
		"restart":    {with(func(s *api.Spec) { s.AutoRemove = true; s.Restart.Mode = api.RestartAlways }), api.Invalid, "--rm"},
		"network":    {with(func(s *api.Spec) { s.Network.Name = "moon" }), api.NotFound, "moon"},
		"further":    {with(func(s *api.Spec) { s.Network = api.NetworkSpec{NICs: []api.NIC{{Network: "moon"}}} }), api.NotFound, "moon"},
		"none and":   {with(func(s *api.Spec) { s.Network.Name = api.NetworkNone; s.Network.NICs = []api.NIC{{Network: "default"}} }), api.Invalid, "stands alone"},
		"twice":      {with(func(s *api.Spec) { s.Network = api.NetworkSpec{NICs: []api.NIC{{Network: "default"}}} }), api.Invalid, "once"},
		"and host":   {with(func(s *api.Spec) { s.Network = api.NetworkSpec{NICs: []api.NIC{{Network: "host"}}} }), api.Invalid, "cannot be a further one"},
		"address":    {with(func(s *api.Spec) { s.Network = api.NetworkSpec{NICs: []api.NIC{{Network: "lan", Address: "x"}}} }), api.Invalid, "not an IP address"},
		"nine":       {with(func(s *api.Spec) { s.Network.NICs = make([]api.NIC, 8) }), api.Invalid, "more than the 8"},
		"vm on host": {with(func(s *api.Spec) { s.Kind = api.VM; s.Network.Name = api.NetworkHost }), api.Invalid, "cannot share"},
		"init":       {with(func(s *api.Spec) { s.Init = "launchd" }), api.Invalid, "launchd"},
		"init in VM": {with(func(s *api.Spec) { s.Init, s.Kind = api.InitSystem, api.VM }), api.Invalid, "leave out --vm"},
		"init, host": {with(func(s *api.Spec) { s.Init, s.Security.HostUsers = api.InitSystem, true }), api.Invalid, "--userns"},
		"init, user": {with(func(s *api.Spec) { s.Init, s.User = api.InitSystem, "bob" }), api.Invalid, "--user"},
		"init path":  {with(func(s *api.Spec) { s.Init, s.Entrypoint = api.InitSystem, []string{"init"} }), api.Invalid, "--entrypoint"},
		"env":        {with(func(s *api.Spec) { s.Env = []string{"NOPE"} }), api.Invalid, "NAME=VALUE"},
	}
	for name, c := range cases {
		_, err := w.Create(t.Context(), c.spec)
		if !api.IsKind(err, c.kind) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v; want kind %s with %q", name, err, c.kind, c.says)
		}
	}
	if n := len(w.all(t)); n != 1 {
		t.Errorf("%d instances; want the one that was made", n)
	}
	left, _ := os.ReadDir(filepath.Join(w.root, "instances"))
	if len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

func TestRestartPolicy(t *testing.T) {
	w := newWorld(t)
	spec := shell("flaky", "exit 3")
	spec.Restart = api.RestartPolicy{Mode: api.RestartOnFailure, MaxRetries: 2}
	w.start(t, spec)
	inst := w.awaitState(t, "flaky", api.Exited)
	if inst.Status.Restarts != 2 || *inst.Status.ExitCode != 3 {
		t.Errorf("after two retries: %+v", inst.Status)
	}

	spec = shell("fine", "exit 0")
	spec.Restart = api.RestartPolicy{Mode: api.RestartOnFailure}
	w.start(t, spec)
	if inst := w.awaitState(t, "fine", api.Exited); inst.Status.Restarts != 0 {
		t.Errorf("a success was restarted: %+v", inst.Status)
	}

	spec = shell("eager", "exit 0")
	spec.Restart = api.RestartPolicy{Mode: api.RestartAlways}
	w.start(t, spec)
	w.await(t, "eager", "restarted", func(i api.Instance) bool { return i.Status.Restarts > 0 })
	if err := w.Stop(t.Context(), "eager", StopOptions{}); err != nil {
		t.Error(err)
	}
	if inst := w.awaitState(t, "eager", api.Exited); !inst.Status.Stopped {
		t.Errorf("a stopped instance: %+v", inst.Status)
	}
}

func TestHealth(t *testing.T) {
	w := newWorld(t)
	flag := filepath.Join(t.TempDir(), "healthy")
	spec := shell("h", forever)
	spec.Health = &api.HealthCheck{Test: []string{"CMD", "test", "-e", flag}, Interval: api.Duration(20 * time.Millisecond), Retries: 2}
	inst := w.start(t, spec)
	if inst.Status.Health != api.HealthStarting {
		t.Errorf("at first: %q", inst.Status.Health)
	}
	health := func(h api.Health) {
		w.await(t, "h", string(h), func(i api.Instance) bool { return i.Status.Health == h })
	}
	health(api.HealthUnhealthy)
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	health(api.HealthHealthy)
}

func TestNextEngineAdopts(t *testing.T) {
	w := newWorld(t)
	stays := w.start(t, shell("stays", forever))
	spec := shell("ends", "read line; exit 6")
	spec.OpenStdin = true
	ends := w.start(t, spec)
	w.close(t)
	// It ends while no engine is there to see it.
	h, err := fake.New(w.runs, api.Container).Adopt(t.Context(), &instance.Prepared{ID: ends.ID})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Signal(t.Context(), 15); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.open(t)
	inst := w.awaitState(t, "ends", api.Exited)
	if *inst.Status.ExitCode != 143 {
		t.Errorf("ended meanwhile: %+v", inst.Status)
	}
	inst, err = w.Get(t.Context(), "stays")
	if err != nil || inst.Status.State != api.Running || inst.Status.PID != stays.Status.PID {
		t.Errorf("adopted: %+v, %v; want pid %d", inst.Status, err, stays.Status.PID)
	}
	// The record has only the beginning of the start; the run knows when it was made.
	if d := stays.Status.Started.Sub(inst.Status.Started); d < 0 || d > time.Minute {
		t.Errorf("started %v, after the adoption %v", stays.Status.Started, inst.Status.Started)
	}
	if err := w.Stop(t.Context(), "stays", StopOptions{}); err != nil {
		t.Error(err)
	}
}

// TestRun makes and starts an instance in one: the record says from the beginning that
// it starts, and of a start that fails nothing is left.
func TestRun(t *testing.T) {
	w := newWorld(t)
	made := make(chan api.State, 1)
	inst, err := w.Run(t.Context(), shell("both", forever), func(i api.Instance) { made <- i.Status.State })
	if err != nil || inst.Status.State != api.Running || <-made != api.Starting {
		t.Errorf("%+v, %v", inst.Status, err)
	}
	records, err := w.loadAll(t.Context())
	if err != nil || len(records) != 1 || records[0].Status.State != api.Starting {
		t.Errorf("%+v, %v", records, err)
	}
	if _, err := w.Run(t.Context(), shell("both", forever), nil); !api.IsKind(err, api.Exists) {
		t.Errorf("a name that is taken: %v", err)
	}
	if err := w.Remove(t.Context(), "both", RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	spec := shell("bad", "")
	spec.Command = []string{"/no/such/command"}
	if _, err := w.Run(t.Context(), spec, nil); !api.IsKind(err, api.NoCommand) || !strings.Contains(err.Error(), "/no/such/command") {
		t.Errorf("a command that is not there: %v", err)
	}
	w.nothingLeft(t)
}

// TestNextEngineRemoves kills an engine between the end of an instance that is
// removed then, of which nothing is recorded, and the removal.
func TestNextEngineRemoves(t *testing.T) {
	w := newWorld(t)
	spec := shell("passing", forever)
	spec.AutoRemove = true
	inst := w.start(t, spec)
	w.close(t)
	w.runs.KillAll()
	if err := os.RemoveAll(w.runDir(inst.ID)); err != nil {
		t.Fatal(err)
	}
	w.open(t)
	if _, err := w.Wait(t.Context(), "passing", "removed"); err != nil && !api.IsKind(err, api.NotFound) {
		t.Error(err)
	}
	w.nothingLeft(t)
}

func TestReboot(t *testing.T) {
	w := newWorld(t)
	for name, mode := range map[string]api.RestartMode{"no": api.RestartNo, "always": api.RestartAlways, "unless": api.RestartUnlessStopped, "stopped": api.RestartUnlessStopped, "onfail": api.RestartOnFailure} {
		spec := shell(name, forever)
		spec.Restart.Mode = mode
		w.start(t, spec)
	}
	if err := w.Stop(t.Context(), "stopped", StopOptions{}); err != nil {
		t.Fatal(err)
	}
	w.close(t)
	// A reboot ends all processes and empties /run, or at least changes the
	// boot id.
	w.runs.KillAll()
	if err := os.WriteFile(filepath.Join(w.run, "boot_id"), []byte("another boot"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.open(t)
	for name, want := range map[string]api.State{"no": api.Exited, "always": api.Running, "unless": api.Running, "stopped": api.Exited, "onfail": api.Exited} {
		w.awaitState(t, name, want)
	}
	inst, _ := w.Get(t.Context(), "no")
	if inst.Status.Error != "the host was rebooted" || inst.Status.ExitCode != nil {
		t.Errorf("ended by the reboot: %+v", inst.Status)
	}
}

func TestKilledBetweenRecordAndRun(t *testing.T) {
	w := newWorld(t)
	if _, err := w.Create(t.Context(), shell("half", forever)); err != nil {
		t.Fatal(err)
	}
	en, _ := w.find("half")
	if err := w.change(t.Context(), en, func(r *record) { r.Status.State = api.Starting }); err != nil {
		t.Fatal(err)
	}
	// What an instance without a record left behind.
	if err := os.MkdirAll(filepath.Join(w.root, "instances", "gone", "upper"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.close(t)
	w.open(t)
	inst, _ := w.Get(t.Context(), "half")
	if inst.Status.State != api.Failed || !strings.Contains(inst.Status.Error, "berthd") {
		t.Errorf("%+v", inst.Status)
	}
	if _, err := os.Stat(filepath.Join(w.root, "instances", "gone")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the remnant: %v", err)
	}
	if _, err := w.Start(t.Context(), "half"); err != nil {
		t.Errorf("starting it again: %v", err)
	}
}

func TestConcurrentLife(t *testing.T) {
	w := newWorld(t)
	w.start(t, shell("busy", forever))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			switch i % 4 {
			case 0:
				_ = w.Stop(t.Context(), "busy", StopOptions{})
			case 1:
				_, _ = w.Start(t.Context(), "busy")
			case 2:
				_ = w.Restart(t.Context(), "busy", StopOptions{})
			case 3:
				_, _ = w.Exec(t.Context(), "busy", api.Exec{Command: []string{"true"}}, instance.Streams{})
			}
		})
	}
	wg.Wait()
	inst, err := w.Get(t.Context(), "busy")
	if err != nil || inst.Status.State != api.Running && inst.Status.State != api.Exited {
		t.Errorf("%+v, %v", inst.Status, err)
	}
}

func TestLogsAndEvents(t *testing.T) {
	w := newWorld(t)
	since := time.Now()
	w.start(t, shell("talk", "echo one; echo two >&2; echo three"))
	w.awaitState(t, "talk", api.Exited)
	var got []string
	err := w.Logs(t.Context(), "talk", LogOptions{Tail: 2}, func(l api.LogLine) error { got = append(got, l.Stream+":"+l.Text); return nil })
	if err != nil || len(got) != 2 {
		t.Errorf("logs %v, %v", got, err)
	}
	var actions []string
	err = w.Events(t.Context(), EventOptions{Since: since, Until: time.Now(), Filters: map[string][]string{"name": {"talk"}}}, func(ev api.Event) error {
		actions = append(actions, ev.Action)
		return nil
	})
	if want := "create start exit"; err != nil || strings.Join(actions, " ") != want {
		t.Errorf("events %v, %v; want %s", actions, err, want)
	}
}

func TestVolumesAndImagesInUse(t *testing.T) {
	w := newWorld(t)
	spec := shell("v", forever)
	spec.Mounts = []api.Mount{{Type: api.MountVolume, Source: "data", Target: "/etc"}}
	w.start(t, spec)
	v, err := w.Volume(t.Context(), "data")
	if err != nil || len(v.Users) != 1 || v.Users[0] != "v" {
		t.Errorf("volume %+v, %v", v, err)
	}
	if _, err := os.Stat(filepath.Join(v.Path, "passwd")); err != nil {
		t.Errorf("a new volume was not filled from the image: %v", err)
	}
	if err := w.RemoveVolume(t.Context(), "data", false); !api.IsKind(err, api.InUse) || !strings.Contains(err.Error(), "mounted by v") {
		t.Errorf("removing a volume in use: %v", err)
	}
	if err := w.RemoveImage(t.Context(), "base", false); !api.IsKind(err, api.InUse) || !strings.Contains(err.Error(), "in use by v;") {
		t.Errorf("removing an image in use: %v", err)
	}
}
