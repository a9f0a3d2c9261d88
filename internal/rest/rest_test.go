package rest_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/client"
	"github.com/berthcloud/berth/internal/engine"
	"github.com/berthcloud/berth/internal/instance"
	"github.com/berthcloud/berth/internal/rest"
)

var update = flag.Bool("update", false, "rewrite golden files")

// Other names, because an embedded interface must not be called like one of
// its methods.
type (
	imagesAPI     = rest.Images
	operationsAPI = rest.Operations
	workAPI       = rest.Work
	volumesAPI    = rest.Volumes
)

// fake is a backend of which a test gives the methods it needs; any other
// panics, which the server must survive.
type fake struct {
	rest.Records
	rest.Lives
	rest.Insides
	imagesAPI
	operationsAPI
	workAPI
	volumesAPI
	rest.Host

	create func(context.Context, api.Spec) (api.Instance, error)
	get    func(ref string) (api.Instance, error)
	list   func(engine.ListOptions) ([]api.Instance, error)
	start  func(ref string) (api.Instance, error)
	stop   func(ref string, o engine.StopOptions) error
	attach func(context.Context, instance.Streams, func()) (api.Exit, error)
	exec   func(context.Context, api.Exec, instance.Streams) (api.Exit, error)
	logs   func(context.Context, engine.LogOptions, func(api.LogLine) error) error
	in     func(dir string, tar io.Reader) error
	out    func(path string, tar io.Writer) error
	image  func(name string) (api.Image, error)
	pull   func(engine.PullOptions) (api.Operation, error)
	load   func(context.Context, engine.ImportOptions) (api.Operation, error)
	watch  func(ctx context.Context, id string, f func(api.Operation) error) error
	cancel func(id string) error
}

func (f *fake) Create(ctx context.Context, s api.Spec) (api.Instance, error) { return f.create(ctx, s) }
func (f *fake) List(_ context.Context, o engine.ListOptions) ([]api.Instance, error) {
	return f.list(o)
}
func (f *fake) Get(_ context.Context, ref string) (api.Instance, error) {
	if f.get == nil {
		return api.Instance{ID: ref, Name: ref, Status: api.Status{State: api.Running}}, nil
	}
	return f.get(ref)
}
func (f *fake) Run(ctx context.Context, s api.Spec, created func(api.Instance)) (api.Instance, error) {
	inst, err := f.create(ctx, s)
	if err != nil {
		return inst, err
	}
	if created != nil {
		created(inst)
	}
	return f.start(inst.ID)
}
func (f *fake) Start(_ context.Context, ref string) (api.Instance, error) { return f.start(ref) }
func (f *fake) Stop(_ context.Context, ref string, o engine.StopOptions) error {
	return f.stop(ref, o)
}
func (f *fake) Attach(ctx context.Context, _ string, s instance.Streams, ready func()) (api.Exit, error) {
	return f.attach(ctx, s, ready)
}
func (f *fake) Exec(ctx context.Context, _ string, x api.Exec, s instance.Streams) (api.Exit, error) {
	return f.exec(ctx, x, s)
}
func (f *fake) Logs(ctx context.Context, _ string, o engine.LogOptions, each func(api.LogLine) error) error {
	return f.logs(ctx, o, each)
}
func (f *fake) CopyIn(_ context.Context, _, dir string, tar io.Reader) error { return f.in(dir, tar) }
func (f *fake) CopyOut(_ context.Context, _, path string, tar io.Writer) error {
	return f.out(path, tar)
}
func (f *fake) Image(_ context.Context, name string) (api.Image, error) { return f.image(name) }
func (f *fake) StartPull(_ context.Context, o engine.PullOptions) (api.Operation, error) {
	return f.pull(o)
}
func (f *fake) StartImport(ctx context.Context, o engine.ImportOptions) (api.Operation, error) {
	return f.load(ctx, o)
}
func (f *fake) WatchOperation(ctx context.Context, id string, each func(api.Operation) error) error {
	return f.watch(ctx, id, each)
}
func (f *fake) CancelOperation(_ context.Context, id string) error { return f.cancel(id) }
func (f *fake) Version() api.VersionInfo                           { return api.VersionInfo{Version: "test"} }

// serve serves a backend on a socket of its own and returns a client of it,
// the socket's path, and the server.
func serve(t *testing.T, f *fake) (*client.Client, string, *rest.Server) {
	t.Helper()
	before := runtime.NumGoroutine()
	path := filepath.Join(t.TempDir(), "s")
	l, err := rest.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s := rest.New(rest.Backend{Records: f, Lives: f, Insides: f, Images: f, Operations: f, Work: f, Volumes: f, Host: f}, slog.New(slog.DiscardHandler))
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	c, err := client.New("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		c.Close()
		for runtime.NumGoroutine() > before && ctx.Err() == nil {
			runtime.Gosched()
		}
		if n := runtime.NumGoroutine(); n > before {
			buf := make([]byte, 1<<20)
			t.Errorf("%d goroutines before the test, %d after:\n%s", before, n, buf[:runtime.Stack(buf, true)])
		}
		if _, err := os.Lstat(path); err == nil {
			t.Error("the socket is left behind")
		}
	})
	return c, path, s
}

// do sends a request as a foreign client would, and returns status and body.
func do(t *testing.T, socket, method, path, body string) (int, string) {
	t.Helper()
	hc := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	defer hc.CloseIdleConnections()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://berth"+path, r)
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := hc.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

func TestErrorTable(t *testing.T) {
	var next error
	_, socket, _ := serve(t, &fake{get: func(string) (api.Instance, error) { return api.Instance{}, next }})
	c, err := client.New("unix://" + socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for kind, want := range map[api.ErrorKind]int{
		api.Invalid: 400, api.NotFound: 404, api.Exists: 409, api.InUse: 409, api.Conflict: 409, api.Denied: 403,
		api.Exhausted: 507, api.Unsupported: 501, api.Unavailable: 503, api.Corrupt: 422, api.NotRunnable: 422,
		api.NoCommand: 422, api.Canceled: 499, api.Internal: 500,
	} {
		next = api.E("get", kind, "web", errors.New("because"))
		got, body := do(t, socket, "GET", "/v1/instances/web", "")
		var p api.Problem
		if err := json.Unmarshal([]byte(body), &p); err != nil {
			t.Fatalf("%s: %s: %v", kind, body, err)
		}
		wantProblem := api.Problem{Kind: kind, Op: "get", Name: "web", Message: "get web: because"}
		if got != want || p != wantProblem {
			t.Errorf("%s: status %d, %+v; want %d", kind, got, p, want)
		}
		_, err := c.Get(t.Context(), "web")
		if !api.IsKind(err, kind) || err.Error() != wantProblem.Message {
			t.Errorf("%s: the client says %v, kind %s", kind, err, api.KindOf(err))
		}
	}
}

// TestMalformedRequests is the class of CVE-2024-41110 and its kin: what the
// daemon would read differently from what was meant is refused.
func TestMalformedRequests(t *testing.T) {
	_, socket, _ := serve(t, &fake{create: func(context.Context, api.Spec) (api.Instance, error) {
		return api.Instance{}, errors.New("a malformed request got through")
	}})
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		says               string
	}{
		"empty body":          {"POST", "/v1/instances", "", 400, "body is required"},
		"not JSON":            {"POST", "/v1/instances", "{", 400, "malformed request"},
		"not an object":       {"POST", "/v1/instances", "[]", 422, "expected object"},
		"null":                {"POST", "/v1/instances", "null", 422, "malformed request"},
		"trailing text":       {"POST", "/v1/instances", `{"image":"base"}{"image":"evil"}`, 400, "malformed request"},
		"unknown field":       {"POST", "/v1/instances", `{"image":"base","privileged":true}`, 422, "unexpected property"},
		"other case":          {"POST", "/v1/instances", `{"image":"base","Image":"evil"}`, 422, "unexpected property"},
		"missing field":       {"POST", "/v1/instances", `{}`, 422, "image"},
		"unknown kind":        {"POST", "/v1/instances", `{"image":"base","kind":"jail"}`, 422, "kind"},
		"wrong type":          {"POST", "/v1/instances", `{"image":7}`, 422, "image"},
		"port out of range":   {"POST", "/v1/instances", `{"image":"base","network":{"publish":[{"port":70000}]}}`, 422, "port"},
		"too large":           {"POST", "/v1/instances", `{"image":"` + strings.Repeat("x", 2<<20) + `"}`, 413, "too large"},
		"unknown parameter":   {"GET", "/v1/instances?al=true", "", 422, "al"},
		"bad boolean":         {"GET", "/v1/instances?all=perhaps", "", 422, "all"},
		"bad filter":          {"GET", "/v1/instances?filter=web", "", 400, "KEY=VALUE"},
		"bad duration":        {"POST", "/v1/instances/web/stop?timeout=soon", "", 400, "not a duration"},
		"negative duration":   {"POST", "/v1/instances/web/stop?timeout=-1s", "", 400, "negative"},
		"bad condition":       {"GET", "/v1/instances/web/wait?condition=bored", "", 422, "condition"},
		"missing name":        {"POST", "/v1/instances/web/rename", "", 422, "name"},
		"two operations":      {"POST", "/v1/operations", `{"base":{},"kernel":{"flavor":"cloud"}}`, 400, "exactly one"},
		"no operation":        {"POST", "/v1/operations", `{}`, 400, "exactly one"},
		"tar without a body":  {"PUT", "/v1/instances/web/files?path=/", "", 400, "body is empty"},
		"unknown path":        {"GET", "/v2/instances", "", 404, "no such operation"},
		"unknown method":      {"PUT", "/v1/instances", "", 404, "no such operation"},
		"attach without a ws": {"GET", "/v1/instances/web/attach", "", 426, ""},
	} {
		t.Run(name, func(t *testing.T) {
			status, body := do(t, socket, c.method, c.path, c.body)
			if status != c.status || !strings.Contains(body, c.says) {
				t.Errorf("%d %s; want %d and %q", status, body, c.status, c.says)
			}
			var p api.Problem
			if err := json.Unmarshal([]byte(body), &p); c.status != 426 && (err != nil || p.Kind == "" || strings.Contains(p.Message, "\n")) {
				t.Errorf("no problem: %s", body)
			}
		})
	}
}

func TestPanicIsOneProblem(t *testing.T) {
	c, _, _ := serve(t, &fake{get: func(string) (api.Instance, error) { panic("boom") }})
	_, err := c.Get(t.Context(), "web")
	if !api.IsKind(err, api.Internal) || !strings.Contains(err.Error(), "its log says more") || strings.Contains(err.Error(), "boom") {
		t.Errorf("err = %v", err)
	}
	if _, err := c.Version(t.Context()); err != nil {
		t.Errorf("after the panic: %v", err)
	}
}

func TestRequestsArriveAsSent(t *testing.T) {
	var got api.Spec
	var stopped engine.StopOptions
	var listed engine.ListOptions
	var image string
	c, _, _ := serve(t, &fake{
		create: func(_ context.Context, s api.Spec) (api.Instance, error) { got = s; return api.Instance{Spec: s}, nil },
		stop:   func(_ string, o engine.StopOptions) error { stopped = o; return nil },
		list:   func(o engine.ListOptions) ([]api.Instance, error) { listed = o; return nil, nil },
		image:  func(name string) (api.Image, error) { image = name; return api.Image{Name: name}, nil },
	})
	want := api.Spec{
		Name: "web", Kind: api.VM, Image: "registry.example:5000/a/b:1", Entrypoint: []string{""}, Command: []string{"a", "b c"},
		Env: []string{"A=1"}, Labels: map[string]string{"l": "1"}, TTY: true, StopTimeout: api.Duration(90 * time.Second),
		Limits:  api.Limits{CPUs: 1.5, Memory: 1 << 30, PIDs: -1, MemorySwap: -1},
		Ulimits: []api.Ulimit{{Name: "nofile", Soft: 1, Hard: -1}},
		Restart: api.RestartPolicy{Mode: api.RestartOnFailure, MaxRetries: 3},
		Health:  &api.HealthCheck{Test: []string{"CMD-SHELL", "true"}, Interval: api.Duration(time.Second)},
		Mounts:  []api.Mount{{Type: api.MountTmpfs, Target: "/t", Size: 1 << 20, Mode: 0o1777}},
		Network: api.NetworkSpec{Publish: []api.Port{{HostPort: 65535, Port: 80, Protocol: "udp"}}},
		VM:      api.VMSpec{Virtualization: api.VirtPara},
	}
	inst, err := c.Create(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("the spec changed on its way (-sent +received):\n%s", d)
	}
	if d := cmp.Diff(want, inst.Spec); d != "" {
		t.Errorf("the spec changed on its way back:\n%s", d)
	}
	forever := 876000 * time.Hour
	if err := c.Stop(t.Context(), "web", client.StopOptions{Signal: "TERM", Timeout: &forever}); err != nil || stopped.Signal != "TERM" || *stopped.Timeout != forever {
		t.Errorf("stop: %+v, %v", stopped, err)
	}
	filters := map[string][]string{"label": {"a=b=c", "d"}, "name": {"x,y z"}}
	list, err := c.List(t.Context(), client.ListOptions{All: true, Filters: filters})
	if err != nil || list == nil || !listed.All || !reflect.DeepEqual(listed.Filters, filters) {
		t.Errorf("list: %+v, %#v, %v", listed, list, err)
	}
	if _, err := c.Image(t.Context(), "host:5000/a/b@sha256:0"); err != nil || image != "host:5000/a/b@sha256:0" {
		t.Errorf("image: %q, %v", image, err)
	}
	for _, ref := range []string{"", ".", ".."} {
		if _, err := c.Get(t.Context(), ref); !api.IsKind(err, api.Invalid) {
			t.Errorf("get %q: %v", ref, err)
		}
	}
}

func TestOpenAPIIsFresh(t *testing.T) {
	got, err := rest.OpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	const golden = "../../docs/openapi.json"
	if *update {
		if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != string(got) {
		t.Error("docs/openapi.json is stale: run 'go test ./internal/rest -run OpenAPI -update'")
	}
	for _, stray := range []string{"ErrorModel", "$schema"} {
		if strings.Contains(string(got), stray) {
			t.Errorf("the document speaks of %s", stray)
		}
	}
}
