package image

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/auth"
	"golang.org/x/net/publicsuffix"

	"github.com/berthcloud/berth/api"
)

// hubHost is where the images of docker.io are: the one registry whose name is
// not its host.
const hubHost = "registry-1.docker.io"

// Access says how to speak to a registry.
type Access struct {
	// Insecure allows plain http and unknown certificates for this registry.
	Insecure bool
	// Username and Secret are for the registry of this image. If both are
	// empty, the docker client's configuration is asked. A Secret alone is an
	// identity token.
	Username, Secret string
}

// resolver returns a client for the registries of one pull or push.
func (s *Store) resolver(ctx context.Context, opt Access, g *guard) remotes.Resolver {
	return newResolver(s.hosts(ctx, opt, g))
}

func newResolver(hosts docker.RegistryHosts) remotes.Resolver {
	return docker.NewResolver(docker.ResolverOptions{Headers: http.Header{"User-Agent": []string{"berth"}}, Hosts: hosts})
}

// hosts returns what finds the hosts of a registry, for one pull or push.
func (s *Store) hosts(ctx context.Context, opt Access, g *guard) docker.RegistryHosts {
	return s.opt.hosts(ctx, opt, (&credentials{dir: s.opt.DockerConfig}).lookup, g)
}

// hosts are those of a Store with the options, which finds credentials by known.
func (o *Options) hosts(ctx context.Context, opt Access, known func(host string) (user, secret string, err error), g *guard) docker.RegistryHosts {
	return func(registry string) ([]docker.RegistryHost, error) {
		own := registry
		if registry == "docker.io" {
			own = hubHost
		}
		found, err := endpoints(ctx, o.Hosts, registry)
		if err != nil {
			return nil, err
		}
		if found == nil {
			found = []endpoint{{RegistryHost: docker.RegistryHost{Host: own, Path: "/v2", Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve | docker.HostCapabilityPush | docker.HostCapabilityReferrers}}}
		}
		hosts := make([]docker.RegistryHost, len(found))
		for i, e := range found {
			lookup, insecure := known, false
			if e.Host == own { // what was said of the registry is said of no mirror
				insecure = opt.Insecure || slices.Contains(o.Insecure, registry)
				if opt.Username != "" || opt.Secret != "" {
					lookup = func(string) (string, string, error) { return opt.Username, opt.Secret, nil }
				}
			}
			hosts[i] = e.reach(g, insecure, onlyFor(e.Host, lookup))
		}
		return hosts, nil
	}
}

// reach gives a host its client.
func (e endpoint) reach(g *guard, insecure bool, lookup func(string) (string, string, error)) docker.RegistryHost {
	h, config := e.RegistryHost, e.tls
	if insecure {
		config = &tls.Config{InsecureSkipVerify: true}
	}
	client := g.client(h.Host, config)
	switch {
	case e.plain:
		h.Scheme = "http"
	case insecure || loopback(h.Host):
		h.Scheme = g.scheme(client, h.Host)
	default:
		h.Scheme = "https"
	}
	bounded := client.Transport.(boundedTransport)
	bounded.secure = h.Scheme == "https"
	client.Transport = bounded
	h.Client = client
	h.Authorizer = &authorizer{
		Authorizer: docker.NewDockerAuthorizer(docker.WithAuthClient(authClient(client)), docker.WithAuthCreds(lookup), docker.WithAuthHeader(h.Header)),
		registry:   h.Host, plain: h.Scheme == "http", lookup: lookup,
	}
	return h
}

// onlyFor keeps credentials from every host but the registry: a redirect may
// lead elsewhere, and be asked for them there.
func onlyFor(registry string, lookup func(string) (string, string, error)) func(string) (string, string, error) {
	return func(host string) (string, string, error) {
		if host != registry {
			return "", "", nil
		}
		return lookup(host)
	}
}

// loopback reports whether a registry is on this host.
func loopback(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	if name == "localhost" {
		return true
	}
	ip := net.ParseIP(strings.Trim(name, "[]"))
	return ip != nil && ip.IsLoopback()
}

// authorizer answers a registry's challenge. Where the answer would take
// credentials to a stranger, it is refused: the registry, or who poses as it,
// names the host that gets them ("realm").
type authorizer struct {
	docker.Authorizer
	registry string
	plain    bool // the registry itself is spoken to over http
	lookup   func(string) (string, string, error)
}

// AddResponses implements docker.Authorizer.
func (a *authorizer) AddResponses(ctx context.Context, responses []*http.Response) error {
	last := responses[len(responses)-1]
	for _, c := range auth.ParseAuthHeader(last.Header) {
		if c.Scheme != auth.BearerAuth || last.Request.URL.Host != a.registry {
			continue
		}
		realm, err := url.Parse(c.Parameters["realm"])
		if err != nil || realm.Host == "" || realm.Scheme != "https" && realm.Scheme != "http" {
			return api.E("", api.Denied, "", fmt.Errorf("the registry names %.100q as its authorization server, which is no URL", c.Parameters["realm"]))
		}
		user, secret, err := a.lookup(a.registry)
		if err != nil {
			return err
		}
		if user == "" && secret == "" {
			continue // nothing to lose
		}
		if realm.Scheme == "http" && !a.plain {
			return api.E("", api.Denied, "", fmt.Errorf("the registry wants its credentials sent to %s over plain http; refused", realm.Host))
		}
		if !related(a.registry, realm.Host) {
			return api.E("", api.Denied, "", fmt.Errorf("the registry %s wants its credentials sent to %s, another site; refused", a.registry, realm.Host))
		}
	}
	return a.Authorizer.AddResponses(ctx, responses)
}

// related reports whether two hosts belong to one site: the same name, or
// names below the same registered domain, as registry-1.docker.io and
// auth.docker.io.
func related(a, b string) bool {
	a, b = hostname(a), hostname(b)
	if a == b {
		return true
	}
	if net.ParseIP(a) != nil || net.ParseIP(b) != nil {
		return false
	}
	siteA, errA := publicsuffix.EffectiveTLDPlusOne(a)
	siteB, errB := publicsuffix.EffectiveTLDPlusOne(b)
	return errA == nil && errB == nil && siteA == siteB
}

func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(strings.Trim(host, "[]"))
}

// guard holds the HTTP clients of one pull, which bound what a registry may
// take in time and bytes.
type guard struct {
	stall      time.Duration
	transports []*http.Transport
}

func newGuard(stall time.Duration) *guard { return &guard{stall: stall} }

// close ends idle connections.
func (g *guard) close() {
	for _, t := range g.transports {
		t.CloseIdleConnections()
	}
}

const (
	dialTime     = 15 * time.Second
	maxRedirects = 5
	// maxReply bounds every reply that is not a blob, in bytes. Blobs are
	// bounded by their size.
	maxReply = 8 << 20
)

// blobKey marks the context of a request for a blob.
type blobKey struct{}

// client makes a client of a registry on a host; config may be nil.
func (g *guard) client(host string, config *tls.Config) *http.Client {
	home := &home{host: host}
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dialTime, ControlContext: home.check}).DialContext,
		TLSHandshakeTimeout:   dialTime,
		ResponseHeaderTimeout: g.stall,
		IdleConnTimeout:       30 * time.Second,
		MaxIdleConnsPerHost:   pullStreams,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true, // digests are of what is sent
		TLSClientConfig:       config,
	}
	g.transports = append(g.transports, t)
	return &http.Client{Transport: boundedTransport{RoundTripper: t, stall: g.stall, home: home}, CheckRedirect: checkRedirect}
}

// authClient is client for authorization servers, whose replies are small
// whatever they are requested for.
func authClient(client *http.Client) *http.Client {
	strict := *client
	t := client.Transport.(boundedTransport)
	t.always = true
	strict.Transport = t
	return &strict
}

// checkRedirect lets a registry point to where its blobs are, but not from
// https to http.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return api.E("", api.Unavailable, "", fmt.Errorf("the registry redirects more than %d times", maxRedirects))
	}
	if via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return api.E("", api.Denied, "", fmt.Errorf("the registry redirects to %s over plain http; refused", req.URL.Host))
	}
	if req.URL.Host != via[0].URL.Host {
		req.Header.Del("Authorization") // net/http keeps it below one domain
	}
	return nil
}

// boundedTransport bounds the replies that are not blobs.
type boundedTransport struct {
	http.RoundTripper
	stall  time.Duration
	home   *home
	always bool
	secure bool // what is uploaded goes over TLS
}

// RoundTrip implements http.RoundTripper.
func (b boundedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	req = b.home.mark(req)
	if part, ok := req.Context().Value(partKey{}).(part); ok && !b.always {
		return b.part(req, part)
	}
	if !b.always && req.Context().Value(blobKey{}) != nil {
		return b.RoundTripper.RoundTrip(req)
	}
	if !b.always && req.Context().Value(uploadKey{}) != nil {
		return b.upload(req)
	}
	// A small reply has the stall time for all of it.
	ctx, cancel := context.WithTimeoutCause(req.Context(), b.stall, errStalled)
	resp, err := b.RoundTripper.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = &boundedBody{ReadCloser: resp.Body, cancel: cancel, left: maxReply}
	return resp, nil
}

// uploadKey marks the context of the requests that upload a blob.
type uploadKey struct{}

// upload is RoundTrip for a request with a blob, which takes its time.
func (b boundedTransport) upload(req *http.Request) (*http.Response, error) {
	if b.secure && req.URL.Scheme != "https" {
		if req.Body != nil {
			req.Body.Close() // as http.RoundTripper wants it
		}
		return nil, api.E("", api.Denied, "", fmt.Errorf("the registry wants the upload sent to %s over plain http; refused", req.URL.Host))
	}
	resp, err := b.RoundTripper.RoundTrip(req)
	if err == nil {
		resp.Body = &boundedBody{ReadCloser: resp.Body, cancel: func() {}, left: maxReply}
	}
	return resp, err
}

type boundedBody struct {
	io.ReadCloser
	cancel context.CancelFunc
	left   int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, api.E("", api.Corrupt, "", fmt.Errorf("the registry's reply has more than %d bytes", maxReply))
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if errors.Is(err, context.DeadlineExceeded) {
		err = api.E("", api.Unavailable, "", errStalled)
	}
	return n, err
}

func (b *boundedBody) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}

// scheme finds out whether a registry that may speak plain http does.
func (g *guard) scheme(client *http.Client, host string) string {
	resp, err := client.Get("https://" + host + "/v2/")
	if err == nil {
		resp.Body.Close()
		return "https"
	}
	if strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		return "http"
	}
	return "https"
}
