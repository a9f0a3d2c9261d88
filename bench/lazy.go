package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// What an image that is used lazily holds: in each of its layers some directories of
// files, 300 MB in all, which take 230 compressed.
const (
	lazyLayers = 4
	lazyDirs   = 100
	lazyFiles  = 30
	lazyFile   = 100 << 10
)

// link is how far away a registry is.
type link struct {
	name    string
	rate    float64       // bytes per second, all connections together; 0: no limit
	latency time.Duration // of each answer
}

// lazyPulls compares a run whose image has to come as a whole first with one that uses it
// before it has arrived, by how much of it is read and how far the registry is.
func (b *bench) lazyPulls(n int) (all []measurement) {
	for _, l := range []link{
		{"20 MB/s, 20 ms", 20e6, 20 * time.Millisecond}, {"200 MB/s, 2 ms", 200e6, 2 * time.Millisecond}, {"loopback", 0, 0},
	} {
		for _, reads := range []struct {
			what, command string
			target        []target
		}{
			{"nothing but a shell", "echo up", []target{atMostOf(0.5, "as a whole")}},
			{"a twentieth", "cat /d07/* /d27/* /d47/* /d67/* /d87/* >/dev/null", nil},
			{"all", "cat /d[0-9]*/* >/dev/null", nil},
		} {
			name := fmt.Sprintf("run of an image of 300 MB that is not here and reads %s; %s", reads.what, l.name)
			all = append(all, measurement{name, func(ctx context.Context) ([]row, error) {
				return b.lazyPull(ctx, comparison{name: name, unit: "ms", runs: n, targets: reads.target}, l, reads.command)
			}})
		}
	}
	return all
}

func (b *bench) lazyPull(ctx context.Context, c comparison, l link, command string) (rows []row, err error) {
	r, err := newRegistry(b.daemon.netns)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	img, err := stargzImage()
	if err == nil {
		err = r.put("app:1", img)
	}
	if err != nil {
		return nil, err
	}
	r.handler = &far{link: l, Handler: r.handler}
	for name, policy := range map[string]string{"lazily": "lazy", "as a whole": "missing"} {
		one := contender{name: name, run: func(ctx context.Context) (float64, error) {
			ms, err := timed(func() error {
				return b.daemon.command(ctx, "run", "--rm", "-q", "--network", "none", "--pull", policy, r.name("app:1"), "/bin/sh", "-c", command)
			})
			return ms, errors.Join(err, b.daemon.command(context.WithoutCancel(ctx), "rmi", r.name("app:1")))
		}}
		if policy == "lazy" {
			c.contenders = append([]contender{one}, c.contenders...)
		} else {
			c.contenders = append(c.contenders, one)
		}
	}
	return c.measure(ctx)
}

// stargzImage makes the image.
func stargzImage() (v1.Image, error) {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, err
	}
	img := empty.Image
	text := incompressible(lazyFile * lazyFiles * lazyDirs / lazyLayers)
	for i := range lazyLayers {
		var archive bytes.Buffer
		w := tar.NewWriter(&archive)
		if i == 0 {
			err = errors.Join(
				addFile(w, tar.Header{Name: "bin/busybox", Mode: 0o755}, string(busybox)),
				addFile(w, tar.Header{Name: "bin/sh", Typeflag: tar.TypeSymlink, Linkname: "busybox"}, ""),
				addFile(w, tar.Header{Name: "bin/cat", Typeflag: tar.TypeSymlink, Linkname: "busybox"}, ""))
		}
		for k := range lazyDirs / lazyLayers * lazyFiles {
			name := fmt.Sprintf("d%02d/%02d", i*lazyDirs/lazyLayers+k/lazyFiles, k%lazyFiles)
			content := fmt.Sprint(i) + text[k*lazyFile+1:(k+1)*lazyFile]
			err = errors.Join(err, addFile(w, tar.Header{Name: name, Mode: 0o644}, content))
		}
		if err = errors.Join(err, w.Close()); err != nil {
			return nil, err
		}
		b, err := estargz.Build(io.NewSectionReader(bytes.NewReader(archive.Bytes()), 0, int64(archive.Len())), estargz.WithCompressionLevel(1))
		if err != nil {
			return nil, err
		}
		blob, err := io.ReadAll(b)
		if err = errors.Join(err, b.Close()); err != nil {
			return nil, err
		}
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(blob)), nil })
		if err != nil {
			return nil, err
		}
		if img, err = mutate.Append(img, mutate.Addendum{Layer: layer, Annotations: map[string]string{estargz.TOCJSONDigestAnnotation: b.TOCDigest().String()}}); err != nil {
			return nil, err
		}
	}
	return forThisHost(img)
}

func addFile(w *tar.Writer, h tar.Header, content string) error {
	h.Size = int64(len(content))
	err := w.WriteHeader(&h)
	if err == nil {
		_, err = io.WriteString(w, content)
	}
	return err
}

// far answers as a registry that is far away.
type far struct {
	link
	http.Handler

	mu   sync.Mutex
	free time.Time // when the link has sent all that it was given
}

// ServeHTTP implements http.Handler.
func (f *far) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/v2/") {
		wait(r.Context(), f.latency)
	}
	f.Handler.ServeHTTP(&slowReply{w, f, r}, r)
}

type slowReply struct {
	http.ResponseWriter
	f *far
	r *http.Request
}

// Write implements io.Writer.
func (s *slowReply) Write(p []byte) (int, error) {
	for n := 0; n < len(p); {
		piece := p[n:min(n+64<<10, len(p))]
		s.f.send(s.r.Context(), len(piece))
		k, err := s.ResponseWriter.Write(piece)
		if n += k; err != nil {
			return n, err
		}
	}
	return len(p), nil
}

// send waits until the link has sent n more bytes.
func (f *far) send(ctx context.Context, n int) {
	if f.rate == 0 {
		return
	}
	f.mu.Lock()
	if now := time.Now(); f.free.Before(now) {
		f.free = now
	}
	f.free = f.free.Add(time.Duration(float64(n) / f.rate * float64(time.Second)))
	until := f.free
	f.mu.Unlock()
	if d := time.Until(until); d > time.Millisecond { // less than that no timer keeps
		wait(ctx, d)
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
