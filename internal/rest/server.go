package rest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"github.com/berthcloud/berth/api"
)

// headerTimeout bounds how long a client may take to send a request's header.
const headerTimeout = 10 * time.Second

// quiet is how long no connection begins or ends before memory goes back to the host.
const quiet = time.Second

// Server serves the API. Make one with New; use it for one listener.
type Server struct {
	Backend
	log  *slog.Logger
	http *http.Server

	closing context.Context    // ends when Shutdown begins: streams end with it
	close   context.CancelFunc // of closing
	streams sync.WaitGroup     // websockets, which net/http no longer counts
	trim    *time.Timer        // gives memory back when a burst of requests is over
}

// New returns a server of a backend.
func New(b Backend, log *slog.Logger) *Server {
	s := &Server{Backend: b, log: log}
	s.closing, s.close = context.WithCancel(context.Background())
	// What a burst has left over would else stay for minutes: the collector does not
	// run in an idle program.
	s.trim = time.AfterFunc(quiet, debug.FreeOSMemory)
	s.http = &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: headerTimeout,
		ConnState:         func(net.Conn, http.ConnState) { s.trim.Reset(quiet) },
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return s
}

// Serve answers requests on l until Shutdown; then it returns nil. It closes l.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Shutdown refuses new requests, ends streams, and waits for the other
// requests that run; when ctx ends it breaks them off.
func (s *Server) Shutdown(ctx context.Context) error {
	s.close()
	s.trim.Stop()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	ended := make(chan struct{})
	go func() {
		s.streams.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
	return err
}

// Handler returns the API as an http.Handler with its middlewares.
func (s *Server) Handler() http.Handler {
	mux, _ := s.routes()
	return s.observe(mux)
}

// untilClosing returns a context that ends with ctx and, before it, when the
// server begins to shut down: for whatever may go on for ever.
func (s *Server) untilClosing(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.closing, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// errClosing is why a stream ends at a shutdown.
func (s *Server) errClosing(err error) error {
	if err != nil && s.closing.Err() != nil {
		return &api.Error{Kind: api.Unavailable, Err: errors.New("berthd is shutting down; instances go on, try again when it is back")}
	}
	return err
}

// observe gives every request an id, logs it, and turns a panic of a handler
// into a problem: a fault in one request must not end the daemon.
func (s *Server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin, id := time.Now(), rand.Text()[:12]
		w.Header().Set("Berth-Request-Id", id)
		rec := &recorder{ResponseWriter: w}
		defer func() {
			if fault := recover(); fault != nil {
				s.recovered(rec, r, id, fault)
			}
			s.log.Debug("request", "id", id, "method", r.Method, "path", r.URL.Path, "status", rec.status, "took", time.Since(begin))
		}()
		next.ServeHTTP(rec, r)
	})
}

// recovered answers a request whose handler panicked.
func (s *Server) recovered(w *recorder, r *http.Request, id string, fault any) {
	if err, ok := fault.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(fault) // net/http's own way to break a response off
	}
	s.log.Error("a request handler panicked", "id", id, "method", r.Method, "path", r.URL.Path, "fault", fault, "stack", string(debug.Stack()))
	if w.status != 0 {
		panic(http.ErrAbortHandler) // the answer has begun: break it off
	}
	fail(w, &api.Error{Kind: api.Internal, Err: fmt.Errorf("a fault in berthd; its log says more under request %s", id)})
}

// recorder remembers the status of a response.
type recorder struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController and websocket.Accept reach the writer.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
