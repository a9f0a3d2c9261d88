package cli_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/cmd/berth/internal/cli"
	"github.com/berthcloud/berth/internal/engine"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/instance/fake"
	"github.com/berthcloud/berth/internal/network/fakenet"
	"github.com/berthcloud/berth/internal/rest"
	"github.com/berthcloud/berth/internal/storage"
	"github.com/berthcloud/berth/internal/store/bolt"
	"github.com/berthcloud/berth/internal/testenv"
)

// TestMain lets the test binary be the command: testscript calls it as
// "berth", other tests with BERTH_TEST_MAIN set.
func TestMain(m *testing.M) {
	if os.Getenv("BERTH_TEST_MAIN") != "" {
		berth()
	}
	testscript.Main(m, map[string]func(){"berth": berth})
}

// berth is the main function of the command.
func berth() {
	os.Exit(cli.Main(os.Args[1:], cli.Std{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.LookupEnv, Build: cli.Build{Version: "test"},
	}))
}

// TestScripts runs the command line against a whole daemon in this process:
// images, layers, records and the API are real, instances are plain processes
// of the host (package fake).
func TestScripts(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting layers needs root")
	}
	testenv.Check(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		Deadline:            time.Now().Add(time.Minute),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			d, err := newDaemon()
			if err != nil {
				return err
			}
			env.Defer(func() {
				if err := d.close(); err != nil {
					t.Errorf("taking the daemon down: %v", err)
				}
			})
			env.Setenv("BERTH_HOST", "unix://"+d.socket)
			return nil
		},
	})
}

// daemon is a berthd in this process.
type daemon struct {
	dir, socket string
	engine      *engine.Engine
	server      *rest.Server
	served      chan error
	stores      []io.Closer
}

func newDaemon() (*daemon, error) {
	dir, err := os.MkdirTemp("", "berth-cli-")
	if err != nil {
		return nil, err
	}
	d := &daemon{dir: dir, socket: filepath.Join(dir, "s"), served: make(chan error, 1)}
	root, run := filepath.Join(dir, "root"), filepath.Join(dir, "run")
	for _, sub := range []string{root, run} {
		if err := os.Mkdir(sub, 0o700); err != nil {
			return nil, err
		}
	}
	images, err := image.Open(root, image.Options{})
	if err != nil {
		return nil, err
	}
	state, err := bolt.Open(filepath.Join(root, "state.db"))
	if err != nil {
		return nil, err
	}
	d.stores = []io.Closer{state, images}
	disks, err := storage.Open(root, run)
	if err != nil {
		return nil, err
	}
	world := fake.NewWorld()
	log := slog.New(slog.DiscardHandler)
	d.engine, err = engine.New(context.Background(), engine.Config{
		Root: root, Run: run, Cgroup: "/berth-test", Store: state, Images: images, Storage: disks, Networks: fakenet.NewSet(),
		Drivers: []instance.Driver{fake.New(world, api.Container), fake.New(world, api.VM)},
		Host:    instance.Host{Arch: "amd64", CPUs: 2, Memory: 8 << 30},
		Version: api.VersionInfo{Version: "test-daemon", API: api.Version}, Log: log,
	})
	if err != nil {
		return nil, err
	}
	if _, err := images.Base(context.Background(), "", nil); err != nil {
		return nil, err
	}
	l, err := rest.Listen(d.socket)
	if err != nil {
		return nil, err
	}
	d.server = rest.New(rest.Engine(d.engine), log)
	go func() { d.served <- d.server.Serve(l) }()
	return d, nil
}

// close removes all instances and takes the daemon down.
func (d *daemon) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	list, err := d.engine.List(ctx, engine.ListOptions{All: true})
	for _, inst := range list {
		if rm := d.engine.Remove(ctx, inst.ID, engine.RemoveOptions{Force: true, Volumes: true}); !api.IsKind(rm, api.NotFound) {
			err = errors.Join(err, rm)
		}
	}
	err = errors.Join(err, d.server.Shutdown(ctx), <-d.served, d.engine.Close())
	for _, s := range d.stores {
		err = errors.Join(err, s.Close())
	}
	return errors.Join(err, os.RemoveAll(d.dir))
}
