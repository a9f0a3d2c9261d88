package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image"
)

// Config says where a registry listens, what it is called and who may use it.
type Config struct {
	Listen string // host:port
	// Name is the host, and what follows, in the names that the registry's images have
	// on this host. Default: localhost.
	Name string
	// Cert and Key are files in PEM form. Without them only this host is served.
	Cert, Key string
	// Users is a file as htpasswd -B writes it.
	Users string
	// Rights is a file of lines as "ci localhost/team/* pull,push". Without it every
	// user may do everything with the registry's own images.
	Rights string
	// Quota is how many bytes a repository may have. 0 is any number.
	Quota int64
	Log   *slog.Logger
}

// Server is a registry. Make one with New; use it for one listener.
type Server struct {
	content *image.Repositories
	name    string
	log     *slog.Logger
	access  *access
	certs   *watched[*tls.Certificate]
	http    *http.Server
}

// check refuses a configuration that nobody could use, or anybody.
func (c *Config) check() error {
	refuse := func(text string, args ...any) error {
		return api.E("", api.Invalid, c.Listen, fmt.Errorf(text, args...))
	}
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return refuse("%w; write it as in 127.0.0.1:5000", err)
	}
	ip := net.ParseIP(host)
	local := host == "localhost" || ip != nil && ip.IsLoopback()
	switch {
	case (c.Cert == "") != (c.Key == ""):
		return refuse("a certificate and its key belong together; give --registry-cert and --registry-key")
	case c.Cert == "" && !local:
		return refuse("passwords and images would cross the network in the clear; give --registry-cert and --registry-key, or listen on 127.0.0.1")
	case c.Users == "" && c.Rights == "":
		return refuse("nobody could use it; name users with --registry-users, or the rights of anyone with --registry-rights")
	}
	return image.CheckRepository(c.Name + "/x")
}

// New returns a registry of what the store has.
func New(content *image.Repositories, c Config) (_ *Server, err error) {
	fail := func(err error) (*Server, error) { return nil, api.E("serve the registry", "", "", err) }
	if c.Name == "" {
		c.Name = "localhost"
	}
	if err := c.check(); err != nil {
		return fail(err)
	}
	content.Limit(c.Quota)
	s := &Server{content: content, name: c.Name, log: c.Log}
	if s.access, err = newAccess(c); err != nil {
		return fail(err)
	}
	s.certs, err = watch(c.Log, func(paths []string) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(paths[0], paths[1])
		return &pair, api.E("", api.Invalid, paths[0], err)
	}, c.Cert, c.Key)
	if err != nil {
		return fail(err)
	}
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug),
	}
	if c.Cert != "" {
		s.http.TLSConfig = &tls.Config{
			MinVersion:     tls.VersionTLS12,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.certs.get(), nil },
		}
	}
	return s, nil
}

// Listen opens the registry's socket.
func Listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	return l, api.E("serve the registry", api.InUse, address, err)
}

// Serve answers requests on l until Shutdown; then it returns nil. It closes l.
func (s *Server) Serve(l net.Listener) error {
	serve := func() error { return s.http.Serve(l) }
	if s.http.TLSConfig != nil {
		serve = func() error { return s.http.ServeTLS(l, "", "") }
	}
	if err := serve(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Shutdown refuses new requests and waits for those that run; when ctx ends it breaks
// them off.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	return err
}

// request is one request, with what has been found out about it.
type request struct {
	*http.Request
	route
	repo string // the repository's full name
	user string // "" where nobody has logged in
}

// serve answers a request.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	begin := time.Now()
	seen := &status{ResponseWriter: w}
	control := http.NewResponseController(w)
	out := &patient{ResponseWriter: seen, control: control}
	r.Body = struct {
		*steady
		closer
	}{&steady{body: r.Body, control: control, window: window}, r.Body}
	out.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	q := &request{Request: r}
	err := s.handle(out, q)
	if err != nil {
		if s.challenges(err, q) {
			s.challenge(out, r)
		}
		fail(out, err, q.what)
	}
	level := slog.LevelDebug
	if r.Method != http.MethodGet && r.Method != http.MethodHead || seen.code >= 500 {
		level = slog.LevelInfo
	}
	s.log.Log(r.Context(), level, "registry", "method", r.Method, "path", r.URL.Path, "user", q.user, "from", r.RemoteAddr, "status", seen.code, "took", time.Since(begin))
}

type closer interface{ Close() error }

// status remembers the status of an answer.
type status struct {
	http.ResponseWriter
	code int
}

// WriteHeader implements http.ResponseWriter.
func (s *status) WriteHeader(code int) {
	s.code = code
	s.ResponseWriter.WriteHeader(code)
}

// Unwrap lets http.ResponseController reach the writer.
func (s *status) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// handle finds out what is asked, by whom, and whether he may.
func (s *Server) handle(w http.ResponseWriter, q *request) (err error) {
	if q.route, err = parseRoute(q.URL.Path); err != nil {
		return err
	}
	if q.user, err = s.access.identify(q.Request); err != nil {
		return err
	}
	switch q.what {
	case ping:
		if q.user == "" && len(s.access.users.get()) > 0 && q.Header.Get("Authorization") == "" {
			return errLogin // so that a client knows how, before it needs to
		}
		answer(w, http.StatusOK, "application/json", struct{}{})
		return nil
	case token:
		if q.Method != http.MethodGet { // OAuth2's way; a client that prefers it asks again
			return errMethod
		}
		answer(w, http.StatusOK, "application/json", map[string]any{"token": s.access.newToken(q.user), "expires_in": int(tokenTime.Seconds())})
		return nil
	case catalog:
		return s.catalog(w, q)
	}
	right := map[string]string{http.MethodGet: pull, http.MethodHead: pull, http.MethodDelete: remove}[q.Method]
	if right == "" || q.what == uploads {
		right = push
	}
	if err := s.locate(q, right); err != nil {
		return err
	}
	if !s.access.may(q.user, right, q.repo) {
		return denied(q.user)
	}
	return s.dispatch(w, q)
}

// locate finds the repository. Of other registries there is what was pulled here.
func (s *Server) locate(q *request, right string) error {
	q.repo = s.name + "/" + q.name
	if ns := q.URL.Query().Get("ns"); ns != "" {
		q.repo = ns + "/" + q.name
		if right != pull {
			return &refusal{http.StatusForbidden, "DENIED", "images of other registries can only be pulled here"}
		}
	}
	if image.CheckRepository(q.repo) != nil {
		return errNameInvalid
	}
	return nil
}

// dispatch calls the handler.
func (s *Server) dispatch(w http.ResponseWriter, q *request) error {
	method := q.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	handlers := map[string]func(http.ResponseWriter, *request) error{
		"GET " + tags:         s.tags,
		"GET " + referrers:    s.referrers,
		"GET " + manifests:    s.getManifest,
		"PUT " + manifests:    s.putManifest,
		"DELETE " + manifests: s.deleteManifest,
		"GET " + blobs:        s.getBlob,
		"DELETE " + blobs:     s.deleteBlob,
		"POST " + uploads:     s.postUpload,
		"PATCH " + uploads:    s.patchUpload,
		"PUT " + uploads:      s.putUpload,
		"GET " + uploads:      s.getUpload,
		"DELETE " + uploads:   s.deleteUpload,
	}
	h := handlers[method+" "+q.what]
	if h == nil || q.what == uploads && (method == http.MethodPost) != (q.ref == "") {
		return errMethod
	}
	return h(w, q)
}

// denied refuses a user what he has no right to, whether or not it is there.
func denied(user string) error {
	if user == "" {
		return errLogin
	}
	return &refusal{http.StatusForbidden, "DENIED", "no right to this repository"}
}

// challenges reports whether an answer should say how to log in.
func (s *Server) challenges(err error, q *request) bool {
	var r *refusal
	return errors.As(err, &r) && r.status == http.StatusUnauthorized && (q.what != token || q.user == "")
}

// challenge tells a client how to log in. A token, unlike a password, also is for those
// who have none: docker sends nothing at all where it is asked for a password.
func (s *Server) challenge(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, tokenPath) {
		w.Header().Set("WWW-Authenticate", `Basic realm="Berth registry"`)
		return
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s://%s%s",service="berth"`, scheme, r.Host, tokenPath))
}
