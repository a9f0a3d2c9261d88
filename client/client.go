// Package client speaks to a Berth daemon over its REST API.
//
// A Client is cheap to make and dials on first use. Its methods mirror the
// daemon's use cases one to one, take a context whose end gives the request
// up, and fail with an *api.Error that carries the kind the daemon decided on.
// A reference ("ref") is an instance's or image's name, its id, or a unique
// prefix of the id.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/berthcloud/berth/api"
)

// DefaultHost is where the host's daemon listens unless told otherwise.
const DefaultHost = "unix:///run/berth/berthd.sock"

// ProblemTrailer is the HTTP trailer by which a raw body (a tar stream) says
// that it ended early: an api.Problem as JSON.
const ProblemTrailer = "Berth-Problem"

// maxProblem bounds the body of an error response in bytes.
const maxProblem = 1 << 20

// Client speaks to one daemon. All methods may be called concurrently.
type Client struct {
	host string // as the user wrote it, for messages
	http *http.Client
}

// findHost returns the daemon of an ordinary user, where he has one, else
// DefaultHost.
func findHost() string {
	if os.Geteuid() == 0 {
		return DefaultHost
	}
	run := os.Getenv("XDG_RUNTIME_DIR")
	if run == "" {
		run = "/run/user/" + strconv.Itoa(os.Geteuid())
	}
	own := filepath.Join(run, "berth/berthd.sock")
	if _, err := os.Stat(own); err != nil {
		return DefaultHost
	}
	return "unix://" + own
}

// New returns a Client for a host of the form "unix:///path/of/socket"; ""
// stands for the daemon of the user who asks, $XDG_RUNTIME_DIR/berth/berthd.sock,
// where he is not root and has one, else for DefaultHost. It does not dial.
func New(host string) (*Client, error) {
	if host == "" {
		host = findHost()
	}
	path, ok := strings.CutPrefix(host, "unix://")
	if !ok || !strings.HasPrefix(path, "/") {
		return nil, api.E("", api.Invalid, "", fmt.Errorf("host %q: write it as unix:///path/of/socket", host))
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", path)
		if err != nil && ctx.Err() == nil {
			return nil, unreachable(host, err)
		}
		return conn, err
	}
	return &Client{
		host: host,
		http: &http.Client{
			Transport: &http.Transport{DialContext: dial, DisableCompression: true},
			CheckRedirect: func(*http.Request, []*http.Request) error {
				return http.ErrUseLastResponse // the API never redirects
			},
		},
	}, nil
}

// Host returns the daemon's address as it was given to New.
func (c *Client) Host() string { return c.host }

// Close closes idle connections. Streams that still run go on.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// unreachable turns a failed dial into one line with the way out.
func unreachable(host string, err error) error {
	kind, why := api.Unavailable, err.Error()
	switch {
	case errors.Is(err, syscall.ENOENT):
		why = "no such socket; start it with 'berthd' or name another with BERTH_HOST"
	case errors.Is(err, syscall.ECONNREFUSED):
		why = "nobody listens on the socket; start it with 'berthd' or name another with BERTH_HOST"
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		kind = api.Denied
		why = "permission denied on the socket; become root or join the group 'berth' (usermod -aG berth USER, then log in again)"
	}
	return &api.Error{Kind: kind, Err: fmt.Errorf("cannot reach berthd at %s: %s", host, why)}
}

// request is one HTTP request to the daemon.
type request struct {
	method string
	path   string     // already escaped, with the leading /v1
	query  url.Values // may be nil
	body   any        // sent as JSON; an io.Reader is sent as a tar stream; may be nil
}

// do sends the request and returns the response of a success. The caller
// closes its body.
func (c *Client) do(ctx context.Context, r request) (*http.Response, error) {
	var body io.Reader
	kind := ""
	switch b := r.body.(type) {
	case nil:
	case io.Reader:
		body, kind = b, "application/x-tar"
	default:
		text, err := json.Marshal(b)
		if err != nil {
			return nil, api.E("", api.Invalid, "", err)
		}
		body, kind = bytes.NewReader(text), "application/json"
	}
	req, err := http.NewRequestWithContext(ctx, r.method, c.url(r.path, r.query), body)
	if err != nil {
		return nil, api.E("", api.Invalid, "", err)
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.transportError(ctx, err)
	}
	if res.StatusCode >= 300 {
		defer res.Body.Close()
		return nil, responseError(res)
	}
	return res, nil
}

// url builds the address of a path; the host's name is never looked up.
func (c *Client) url(path string, query url.Values) string {
	u := "http://berth" + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	return u
}

// transportError explains a request that got no answer.
func (c *Client) transportError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return &api.Error{Kind: api.Canceled, Err: context.Cause(ctx)}
	}
	if e, ok := errors.AsType[*api.Error](err); ok { // from unreachable
		return e
	}
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, end) {
			return &api.Error{Kind: api.Unavailable, Err: fmt.Errorf("lost the connection to berthd at %s; its log may say why", c.host)}
		}
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // without the made-up URL
	}
	return &api.Error{Kind: api.Unavailable, Err: fmt.Errorf("lost the connection to berthd at %s: %w; its log may say why", c.host, err)}
}

// responseError reads the problem out of a failed response.
func responseError(res *http.Response) error {
	var p api.Problem
	text, _ := io.ReadAll(io.LimitReader(res.Body, maxProblem))
	if json.Unmarshal(text, &p) != nil || p.Kind == "" {
		return &api.Error{Kind: api.Internal, Err: fmt.Errorf("berthd answered %q; is it of the same version as this command?", res.Status)}
	}
	return p.Err()
}

// call does a request whose answer is one JSON value.
func call[T any](ctx context.Context, c *Client, r request) (T, error) {
	var v T
	res, err := c.do(ctx, r)
	if err != nil {
		return v, err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&v); err != nil {
		return v, c.transportError(ctx, err)
	}
	return v, nil
}

// send does a request that has no answer beyond success.
func (c *Client) send(ctx context.Context, r request) error {
	res, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, res.Body) // lets the connection be used again
	return res.Body.Close()
}

// lines does a request whose answer is a stream of JSON values, one per line,
// and hands each to f until the stream ends or f fails. A last line
// {"problem": …} is the stream's failure.
func lines[T any](ctx context.Context, c *Client, r request, f func(T) error) error {
	res, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	dec := json.NewDecoder(res.Body)
	for {
		var raw json.RawMessage
		if err := dec.Decode(&raw); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return c.transportError(ctx, err)
		}
		if bytes.HasPrefix(raw, []byte(`{"problem":`)) {
			var end struct{ Problem api.Problem }
			if err := json.Unmarshal(raw, &end); err != nil {
				return api.E("", api.Internal, "", err)
			}
			return end.Problem.Err()
		}
		var v T
		if err := json.Unmarshal(raw, &v); err != nil {
			return api.E("", api.Internal, "", err)
		}
		if err := f(v); err != nil {
			return err
		}
	}
}

// tar does a request whose answer is a tar stream and copies it to w. The
// stream is whole only if nil is returned.
func (c *Client) tar(ctx context.Context, r request, w io.Writer) error {
	res, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	from := &sourceReader{r: res.Body}
	if _, err := io.Copy(w, from); err != nil {
		if from.err != nil { // the daemon's side, not w's
			return c.transportError(ctx, from.err)
		}
		return err
	}
	if text := res.Trailer.Get(ProblemTrailer); text != "" {
		var p api.Problem
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			return api.E("", api.Internal, "", err)
		}
		return p.Err()
	}
	return nil
}

// sourceReader remembers its reader's failure, to tell it from the writer's.
type sourceReader struct {
	r   io.Reader
	err error
}

func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// at builds a path from literal and user-given elements: odd ones are the
// user's and are escaped. A reference that a path cannot hold fails.
func at(elements ...string) (string, error) {
	var b strings.Builder
	b.WriteString("/" + api.Version)
	for i, e := range elements {
		if i%2 == 1 {
			if e == "" || e == "." || e == ".." {
				return "", api.E("", api.Invalid, "", fmt.Errorf("%q is not a name", e))
			}
			e = url.PathEscape(e)
		}
		b.WriteString("/" + e)
	}
	return b.String(), nil
}

// query builds a query from pairs, leaving out what is empty.
func query(pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Add(pairs[i], pairs[i+1])
		}
	}
	return q
}

// flag writes a boolean for query: false is left out.
func flag(on bool) string {
	if on {
		return "true"
	}
	return ""
}

// stamp writes a time for query: the zero time is left out.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// addFilters adds filters to a query as filter=key=value.
func addFilters(q url.Values, filters map[string][]string) {
	for key, values := range filters {
		for _, v := range values {
			q.Add("filter", key+"="+v)
		}
	}
}
