// Package builder is BuildKit in a process of its own: its solver and its Dockerfile
// frontend, with Berth's store, Berth's runtime and Berth's network.
//
// Package build says what it is part of, and what it gets from its daemon.
package builder

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/log"
	"github.com/moby/buildkit/cache/remotecache"
	"github.com/moby/buildkit/cache/remotecache/inline"
	"github.com/moby/buildkit/cache/remotecache/local"
	"github.com/moby/buildkit/cache/remotecache/registry"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/bboltcachestorage"
	"github.com/moby/buildkit/util/db/boltutil"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/moby/buildkit/worker"
	"github.com/moby/buildkit/worker/base"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/berthcloud/berth/internal/build"
	"github.com/berthcloud/berth/internal/undo"
)

// maxMessage bounds a message of the control protocol, in bytes, as BuildKit's own
// daemon does.
const maxMessage = 16 << 20

// grace is how long builds have to end when their daemon has.
const grace = 10 * time.Second

// Main runs a builder: in begins with its configuration and ends when it shall end; out
// gets build.Ready.
func Main(in io.Reader, out io.Writer) error {
	lines := bufio.NewReader(in)
	text, err := lines.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("no configuration: %w", err)
	}
	var c build.Config
	if err := json.Unmarshal(text, &c); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, lines)
		cancel()
	}()
	return run(ctx, c, out)
}

// run serves builds until ctx ends.
func run(ctx context.Context, c build.Config, out io.Writer) (err error) {
	// BuildKit's libraries log by themselves; what matters they return as well.
	if err := log.SetLevel("error"); err != nil {
		return err
	}
	if err := os.Setenv(ownDiffs, "false"); err != nil {
		return err
	}
	var u undo.Stack
	defer u.Run(ctx, &err)
	if err := alone(ctx, c, &u); err != nil {
		return err
	}
	conn, err := grpc.NewClient("unix:"+c.StoreSocket(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return err
	}
	u.Add(func(context.Context) error { return conn.Close() })
	daemon := build.Daemon{Conn: conn}
	early := newAhead(ctx, &imageMaker{daemon: daemon, dir: c.Tmp()})
	controller, w, err := assemble(ctx, c, daemon, early, &u)
	if err != nil {
		return err
	}
	listener, err := net.Listen("unix", c.Socket())
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		// Errors keep what they say of lines of the Dockerfile.
		grpc.ChainUnaryInterceptor(grpcerrors.UnaryServerInterceptor, early.note), grpc.StreamInterceptor(grpcerrors.StreamServerInterceptor))
	controller.Register(server)
	build.RegisterBuilder(server, func(ctx context.Context) error { return prune(ctx, w) })
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	if _, err := io.WriteString(out, build.Ready); err != nil {
		return err
	}
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	// Builds are canceled, and end their steps; what does not end is left to the daemon.
	kill := time.AfterFunc(grace, func() { os.Exit(1) }) //nolint:forbidigo // nobody is left to return to
	defer kill.Stop()
	server.Stop()
	return <-served
}

// alone waits for a builder before this one to end, and removes what it left.
func alone(ctx context.Context, c build.Config, u *undo.Stack) error {
	lock, err := build.Lock(c)
	if err != nil {
		return err
	}
	u.Add(func(context.Context) error { return lock.Close() })
	if err := os.RemoveAll(c.Tmp()); err != nil {
		return err
	}
	if err := os.MkdirAll(c.Tmp(), 0o711); err != nil {
		return err
	}
	if err := os.Remove(c.Socket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return ctx.Err()
}

// assemble makes BuildKit's parts, lowest first.
func assemble(ctx context.Context, c build.Config, daemon build.Daemon, early *ahead, u *undo.Stack) (*control.Controller, *base.Worker, error) {
	sessions, err := session.NewManager()
	if err != nil {
		return nil, nil, err
	}
	hosts := obeying(daemon.Allow, registries(ctx, c.Hosts))
	w, err := newWorker(ctx, c, daemon, hosts, u)
	if err != nil {
		return nil, nil, err
	}
	workers := &worker.Controller{}
	if err := workers.Add(ownWorker{w, early}); err != nil {
		return nil, nil, err
	}
	ends, err := frontends(workers.Infos(), early)
	if err != nil {
		return nil, nil, err
	}
	cache, err := bboltcachestorage.NewStore(filepath.Join(c.Root, "cache.db"))
	if err != nil {
		return nil, nil, err
	}
	history, err := boltutil.SafeOpen(filepath.Join(c.Root, "history.db"), 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType, NoFreelistSync: true})
	if err != nil {
		return nil, nil, err
	}
	var none int64
	controller, err := control.NewController(control.Opt{
		SessionManager:   sessions,
		WorkerController: workers,
		Frontends:        ends,
		CacheManager:     solver.NewCacheManager(ctx, "local", cache, worker.NewCacheResultStorage(workers)),
		ResolveCacheExporterFuncs: map[string]remotecache.ResolveCacheExporterFunc{
			"registry": registry.ResolveCacheExporterFunc(sessions, hosts),
			"local":    local.ResolveCacheExporterFunc(sessions),
			"inline":   inline.ResolveCacheExporterFunc(),
		},
		ResolveCacheImporterFuncs: map[string]remotecache.ResolveCacheImporterFunc{
			"registry": registry.ResolveCacheImporterFunc(sessions, w.ContentStore(), hosts),
			"local":    local.ResolveCacheImporterFunc(sessions),
		},
		Entitlements:   []string{"network.host"}, // which the client has to ask for as well
		HistoryDB:      history,
		CacheStore:     cache,
		LeaseManager:   w.LeaseManager(),
		ContentStore:   w.ContentStore(),
		HistoryConfig:  &config.HistoryConfig{MaxEntries: &none}, // nobody asks for it
		GarbageCollect: w.GarbageCollect,
		GracefulStop:   ctx.Done(),
	})
	if err != nil {
		return nil, nil, err
	}
	u.Add(func(context.Context) error { return controller.Close() })
	u.Add(early.wait)
	return controller, w, nil
}
