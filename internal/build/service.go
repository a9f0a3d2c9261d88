package build

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/keeper"
	"github.com/berthcloud/berth/internal/network"
)

// idle is how long a builder stays for nobody: builds come in rows.
const idle = 5 * time.Minute

// Users reserves ranges of user ids.
type Users interface {
	ReserveUsers(api.Kind) (instance.IDRange, error)
	ReleaseUsers(instance.IDRange)
}

// Options is what a Service stands on.
type Options struct {
	Config  Config
	Images  *image.Store
	Network network.Network
	Users   Users
	Steps   instance.Driver // of containers, or of VMs, by Keeper
	Keeper  *keeper.Client  // the builder's: it is in its mount namespace
	Log     *slog.Logger
}

// Service connects builds to the builder. Its methods may be called concurrently.
type Service struct {
	Options
	backing image.Backing

	mu      sync.Mutex  // held while a builder starts and ends, too
	builder *process    // nil while there is none
	users   int         // connections
	expire  *time.Timer // ends a builder without users
	closed  bool

	reserved sync.Mutex // a leaf: guards steps
	steps    map[string]Step
}

// New returns a service, after it has ended what a builder before it left.
func New(ctx context.Context, o Options) (*Service, error) {
	s := &Service{Options: o, backing: o.Images.Backing(), steps: map[string]Step{}}
	return s, s.sweep(ctx)
}

// Build carries the bytes of a client, which speaks BuildKit's control protocol, until
// either side leaves. It closes conn.
func (s *Service) Build(ctx context.Context, conn net.Conn) error {
	defer conn.Close()
	builder, err := s.acquire(ctx)
	if err != nil {
		return api.E("build", "", "", err)
	}
	defer s.release()
	stop := context.AfterFunc(ctx, func() { conn.Close(); builder.Close() })
	defer stop()
	done := make(chan struct{}, 2)
	pass := func(to, from net.Conn) {
		_, _ = io.Copy(to, from)
		done <- struct{}{}
	}
	go pass(builder, conn)
	go pass(conn, builder)
	<-done
	conn.Close()
	builder.Close()
	<-done
	return nil
}

// acquire connects to the builder, which is started where there is none.
func (s *Service) acquire(ctx context.Context) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, api.E("", api.Unavailable, "", errors.New("berthd is shutting down; try again when it is back"))
	}
	conn, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	if s.expire != nil {
		s.expire.Stop()
		s.expire = nil
	}
	s.users++
	return conn, nil
}

// dial connects to the builder. One that does not answer was killed, and is replaced once
// it is gone. The caller holds mu.
func (s *Service) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	if s.builder != nil {
		conn, err := d.DialContext(ctx, "unix", s.Config.Socket())
		if err == nil || ctx.Err() != nil {
			return conn, err
		}
		if err := s.builder.stop(); err != nil {
			s.Log.Warn("the builder has ended", "error", err)
		}
		s.builder = nil
	}
	p, err := s.start(ctx)
	if err != nil {
		return nil, err
	}
	s.builder = p
	return d.DialContext(ctx, "unix", s.Config.Socket())
}

func (s *Service) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users == 0 && !s.closed {
		s.expire = time.AfterFunc(idle, s.retire)
	}
}

// retire ends a builder that nobody has taken meanwhile.
func (s *Service) retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users > 0 || s.builder == nil {
		return
	}
	if err := s.builder.stop(); err != nil {
		s.Log.Warn("the builder did not end well", "error", err)
	}
	s.builder = nil
}

// Close ends the builder, and with it all builds.
func (s *Service) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.expire != nil {
		s.expire.Stop()
	}
	if s.builder == nil {
		return nil
	}
	return s.builder.stop()
}
