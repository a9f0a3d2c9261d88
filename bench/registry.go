package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"

	ggcrname "github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"
)

// pullLayers is how many layers the image has that is pulled, each of some 10 MB.
const pullLayers = 10

// pulls compares how fast an image comes from a registry on loopback.
func (b *bench) pulls(n int) measurement {
	const name = "pull of 100 MB in 10 layers from a registry on loopback"
	return measurement{name, func(ctx context.Context) (rows []row, err error) {
		img, err := layered()
		if err != nil {
			return nil, err
		}
		c := comparison{name: name, unit: "ms", runs: n, warmUp: 1, targets: []target{fasterThan(1, "docker")}}
		for _, engine := range []*server{b.daemon, b.dockerd} {
			one := contender{name: engine.label, missing: engine.why}
			if engine.why == "" {
				r, err := newRegistry(engine.netns)
				if err != nil {
					return nil, err
				}
				defer func() { err = errors.Join(err, r.Close()) }()
				if err := r.put("app:1", img); err != nil {
					return nil, err
				}
				one.run = func(ctx context.Context) (float64, error) {
					ms, err := timed(func() error { return engine.command(ctx, "pull", "-q", r.name("app:1")) })
					return ms, errors.Join(err, engine.command(context.WithoutCancel(ctx), "rmi", r.name("app:1")))
				}
			}
			c.contenders = append(c.contenders, one)
		}
		return c.measure(ctx)
	}}
}

// layered makes an image of text.
func layered() (v1.Image, error) {
	img := empty.Image
	for i := range pullLayers {
		var files bytes.Buffer
		if err := writeFiles(&files, 350, byte(i+1)); err != nil {
			return nil, err
		}
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files.Bytes())), nil })
		if err != nil {
			return nil, err
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			return nil, err
		}
	}
	return forThisHost(img)
}

// forThisHost makes an image one of this host's platform.
func forThisHost(img v1.Image) (v1.Image, error) {
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Config.Cmd = "linux", runtime.GOARCH, []string{"true"}
	return mutate.ConfigFile(img, config)
}

// registryServer is a registry in a network namespace, which counts what is sent to it and
// got from it.
type registryServer struct {
	listener net.Listener
	sent     atomic.Int64 // bytes of bodies
	got      atomic.Int64
	handler  http.Handler
}

// newRegistry starts a registry on loopback of a network namespace.
func newRegistry(netns string) (*registryServer, error) {
	r := &registryServer{handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	var err error
	if r.listener, err = listenIn(netns); err != nil {
		return nil, err
	}
	go func() { _ = http.Serve(r.listener, r) }() // until Close
	return r, nil
}

// ServeHTTP implements http.Handler.
func (r *registryServer) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	req.Body = &counted{req.Body, &r.sent}
	r.handler.ServeHTTP(&countedReply{w, &r.got}, req)
}

type countedReply struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *countedReply) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

type counted struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func (r *registryServer) name(image string) string { return r.listener.Addr().String() + "/" + image }

// Close ends it.
func (r *registryServer) Close() error { return r.listener.Close() }

// put gives the registry an image, without its namespace.
func (r *registryServer) put(image string, img v1.Image) error {
	ref, err := ggcrname.ParseReference(r.name(image))
	if err != nil {
		return err
	}
	return remote.Write(ref, img, remote.WithTransport(direct{r}))
}

// direct is a transport that calls a handler.
type direct struct{ http.Handler }

// RoundTrip implements http.RoundTripper.
func (d direct) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body == nil {
		req.Body = http.NoBody
	}
	w := &recorder{header: http.Header{}, code: http.StatusOK}
	d.ServeHTTP(w, req)
	return &http.Response{StatusCode: w.code, Status: http.StatusText(w.code), Header: w.header, Body: io.NopCloser(&w.body),
		ContentLength: int64(w.body.Len()), Request: req, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}, nil
}

type recorder struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (w *recorder) Header() http.Header         { return w.header }
func (w *recorder) WriteHeader(code int)        { w.code = code }
func (w *recorder) Write(p []byte) (int, error) { return w.body.Write(p) }

// listenIn listens on loopback of a network namespace.
func listenIn(netns string) (net.Listener, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer own.Close()
	other, err := os.Open(filepath.Join("/run/netns", netns))
	if err != nil {
		return nil, err
	}
	defer other.Close()
	if err := unix.Setns(int(other.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	return l, errors.Join(err, unix.Setns(int(own.Fd()), unix.CLONE_NEWNET))
}

// pushOfChange measures what goes to a registry of an image that was changed in one file.
func (b *bench) pushOfChange() measurement {
	const name = "push of an image of 100 MB that was changed in one file of 1 MB"
	return measurement{name, func(ctx context.Context) (rows []row, err error) {
		r, err := newRegistry(b.daemon.netns)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, r.Close()) }()
		img, err := layered()
		if err != nil {
			return nil, err
		}
		dir, err := os.MkdirTemp(b.dir, "push")
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		old, changed := r.name("app:1"), r.name("app:2")
		files := map[string]string{"file": incompressible(1 << 20), "Dockerfile": "FROM " + old + "\nCOPY file /file\n"}
		for name, content := range files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				return nil, err
			}
		}
		if err := errors.Join(r.put("app:1", img), b.daemon.command(ctx, "build", "-q", "-t", changed, dir)); err != nil {
			return nil, err
		}
		size, err := output(ctx, append(b.daemon.cli, "image", "inspect", "--format", "{{(index .History 0).Size}}", changed)...)
		if err != nil {
			return nil, err
		}
		before := r.sent.Load()
		if err := b.daemon.command(ctx, "push", "-q", changed); err != nil {
			return nil, err
		}
		sent := float64(r.sent.Load() - before)
		layer, err := strconv.ParseFloat(strings.Fields(size)[0], 64)
		if err != nil {
			return nil, fmt.Errorf("the layer's size is %q: %w", size, err)
		}
		subjects := compare([]subject{summarize("sent", []float64{sent / 1000}), summarize("the changed layer", []float64{layer / 1000})})
		return []row{{Name: name, Unit: "kB", Verdicts: judge(subjects, []target{atMostOf(1.1, "the changed layer")}), Subjects: subjects}}, nil
	}}
}

// incompressible returns text that takes as much room compressed, nearly.
func incompressible(size int) string {
	content := make([]byte, size*3/4)
	rand.NewChaCha8([32]byte{}).Read(content)
	return base64.RawStdEncoding.EncodeToString(content)
}
