package engine

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

func TestSystemProcess(t *testing.T) {
	image := api.ImageConfig{Entrypoint: []string{"/entry"}, Command: []string{"bash"}, Env: []string{"A=image"}, User: "bob", WorkingDir: "/srv"}
	for _, c := range []struct {
		name string
		spec api.Spec
		args []string
		term string
	}{
		{"the image's init", api.Spec{}, []string{"/sbin/init"}, "TERM=dumb"},
		{"with arguments", api.Spec{Command: []string{"single"}}, []string{"/sbin/init", "single"}, "TERM=dumb"},
		{"another one", api.Spec{Entrypoint: []string{"/lib/init"}, Command: []string{"x"}, TTY: true}, []string{"/lib/init", "x"}, "TERM=xterm"},
	} {
		c.spec.Init = api.InitSystem
		p, err := process(c.spec, image, "id")
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c.args, p.Args); d != "" || p.User != "0" || p.WorkingDir != "/" || !p.TTY {
			t.Errorf("%s: %+v", c.name, p)
		}
		for _, want := range []string{"container=berth", "A=image", c.term} {
			if !slices.Contains(p.Env, want) {
				t.Errorf("%s: no %s in %v", c.name, want, p.Env)
			}
		}
		uuid := slices.IndexFunc(p.Env, func(e string) bool { return strings.HasPrefix(e, "container_uuid=") })
		if uuid < 0 || strings.ReplaceAll(strings.TrimPrefix(p.Env[uuid], "container_uuid="), "-", "") != instance.MachineID("id") {
			t.Errorf("%s: its uuid is not its machine id: %v", c.name, p.Env)
		}
	}
}

func TestShutdownSignals(t *testing.T) {
	for program, want := range map[string]int{
		"systemd": 37, "busybox": int(syscall.SIGUSR2), "busybox.static": int(syscall.SIGUSR2), "init": int(syscall.SIGINT), "other": int(syscall.SIGTERM),
	} {
		if got := shutdownSignal(program); got != want {
			t.Errorf("%s shuts down at %d, want %d", program, got, want)
		}
	}
}

func TestInitMounts(t *testing.T) {
	s := api.Spec{Init: api.InitSystem, Mounts: []api.Mount{{Type: api.MountVolume, Source: "v", Target: "/tmp/"}}}
	var targets []string
	for _, m := range initMounts(s) {
		targets = append(targets, m.Target)
	}
	if d := cmp.Diff([]string{"/run", "/run/lock"}, targets); d != "" {
		t.Error(d)
	}
	if list := initMounts(api.Spec{Init: api.InitReap}); len(list) > 0 {
		t.Errorf("without an init: %v", list)
	}
}

// TestInitIsFound takes the stop signal from the image's init, unless somebody
// names one, and refuses an image without.
func TestInitIsFound(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		edit   func(*record)
		signal int
		kind   api.ErrorKind
	}{
		"busybox":     {func(*record) {}, int(syscall.SIGUSR2), ""},
		"the user's":  {func(r *record) { r.Spec.StopSignal = "PWR" }, int(syscall.SIGPWR), ""},
		"the image's": {func(r *record) { r.Config.StopSignal = "RTMIN+4" }, 38, ""},
		"none":        {func(r *record) { r.Spec.Entrypoint = []string{"/lib/nothing"} }, 0, api.NoCommand},
		"a directory": {func(r *record) { r.Spec.Entrypoint = []string{"/etc"} }, 0, api.NoCommand},
	} {
		img, err := w.images.Resolve(t.Context(), "base")
		if err != nil {
			t.Fatal(err)
		}
		layers := layersOf(img)
		rec := record{Config: img.Config}
		rec.ID, rec.Spec = newID(), api.Spec{Name: "m", Kind: api.Container, Image: "base", Init: api.InitSystem}
		c.edit(&rec)
		p, err := w.outline(rec, img)
		if err != nil {
			t.Fatal(err)
		}
		if p.Rootfs.Layers, err = w.storage.Mount(t.Context(), rec.ID, layers); err != nil {
			t.Fatal(err)
		}
		p.Rootfs.Upper = t.TempDir()
		err = w.prepareInit(rec, p)
		w.storage.Release(rec.ID)
		if c.kind != "" {
			if !api.IsKind(err, c.kind) || !strings.Contains(err.Error(), "base") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || p.Process.StopSignal != c.signal {
			t.Errorf("%s: signal %d, %v; want %d", name, p.Process.StopSignal, err, c.signal)
		}
	}
}
