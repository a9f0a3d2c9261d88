package e2e

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/engine"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/instance/fake"
	"github.com/berthcloud/berth/internal/network/fakenet"
	"github.com/berthcloud/berth/internal/rest"
	"github.com/berthcloud/berth/internal/storage"
	"github.com/berthcloud/berth/internal/store/mem"
	"github.com/berthcloud/berth/internal/testenv"
)

// TestFakes plays the scenarios that need no isolation against an engine in
// this process, through the same socket, client and command.
func TestFakes(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("the storage below the fakes mounts layers, which needs root")
	}
	t.Parallel()
	testenv.CheckOwn(t)
	here := testenv.Here(t)
	d := &testenv.Daemon{Machine: here, Dir: here.Temp()}
	serveFakes(t, d)
	w := &world{Daemon: d, place: fakes}
	w.Berth(t, "image", "bootstrap", "base")
	if !testing.Short() {
		w.Berth(t, "kernel", "bootstrap", "cloud") // the engine wants one before it asks the driver
	}
	play(t, w)
}

// serveFakes builds what package daemon builds, on drivers that isolate
// nothing, a network that touches no host and a store in memory.
func serveFakes(t *testing.T, d *testenv.Daemon) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	root, run := filepath.Join(d.Dir, "root"), filepath.Join(d.Dir, "run")
	must(os.Mkdir(root, 0o700))
	must(os.Mkdir(run, 0o711))
	images, err := image.Open(root, image.Options{})
	must(err)
	t.Cleanup(func() { images.Close() })
	disks, err := storage.Open(root, run)
	must(err)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	kernel := fake.NewWorld()
	e, err := engine.New(t.Context(), engine.Config{
		Root: root, Run: run, Cgroup: "/" + testenv.Name(t), Store: mem.New(), Images: images, Storage: disks, Networks: fakenet.NewSet(),
		Drivers: []instance.Driver{fake.New(kernel, api.Container), fake.New(kernel, api.VM)},
		Host:    instance.Host{Arch: "amd64", CPUs: 2, Memory: 4 << 30},
		Version: api.VersionInfo{Version: "fake", API: api.Version}, Log: log,
	})
	must(err)
	t.Cleanup(func() { e.Close() })
	listener, err := rest.Listen(d.Socket())
	must(err)
	server := rest.New(rest.Engine(e), log)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		if err := server.Shutdown(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}
