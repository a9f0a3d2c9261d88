package attack

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/berthcloud/berth/internal/testenv"
)

// inside is an attack on the whole of Berth, from an image or a container.
type inside struct {
	name, cves string
	carryOut   func(h *house) verdict
}

// insideClass groups attacks on one weakness.
type insideClass struct {
	name    string
	attacks []inside
}

// insides are all attacks on an engine.
func insides() []insideClass {
	return []insideClass{
		{"An image's config reaches the host", configAttacks()},
		{"The host acts on a container's files", fileAttacks()},
		{"A container uses up what others need", exhaustionAttacks()},
	}
}

// house is a daemon with a neighbor whom no attack may disturb, and a directory
// of the host that no container has.
type house struct {
	*testenv.Daemon
	t      *testing.T
	victim string
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{Daemon: newBerth(t), t: t, victim: testenv.Dir(t)}
	if err := os.WriteFile(filepath.Join(h.victim, "secret"), []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	h.Berth(t, "run", "-d", "--name", "neighbor", "--network", "none", "base", "sh", "-c", "echo alive; exec sleep 3600")
	return h
}

// against carries an attack out, and looks at the neighbor and at the host.
func (h *house) against(t *testing.T, k inside) verdict {
	h.t = t
	before := h.host()
	v := k.carryOut(h)
	if v.outcome == fell {
		return v
	}
	after := h.host()
	for name, was := range before {
		if now := after[name]; now != was {
			return fall("%s was %q and is %q", name, was, now)
		}
	}
	return v
}

// host is what no attack may change.
func (h *house) host() map[string]string {
	state := map[string]string{}
	for _, path := range watched() {
		if text, err := os.ReadFile(path); err == nil {
			state[path] = string(text)
		}
	}
	programs, err := filepath.Glob(filepath.Join(h.Machine.Programs(), "*"))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, path := range append(programs, filepath.Join(h.victim, "secret")) {
		text, err := os.ReadFile(path)
		state[path] = fmt.Sprintf("%x %v", sha256.Sum256(text), err)
	}
	entries, err := os.ReadDir(h.victim)
	state["victim"] = fmt.Sprint(len(entries), err)
	r := h.Try(h.t.Context(), "exec", "neighbor", "sh", "-c", "echo x >/tmp/x && cat /tmp/x")
	state["the neighbor"] = r.String()
	state["instances"] = h.Berth(h.t, "ps", "-a", "--format", "{{.Names}}")
	state["images"] = h.Berth(h.t, "images", "--format", "{{.Name}}")
	return state
}

// run runs a container of an image to its end.
func (h *house) run(args ...string) testenv.Result {
	return h.Try(h.t.Context(), append([]string{"run", "--rm", "--network", "none"}, args...)...)
}

// hostile imports an image of busybox with a config and further files, and calls
// try with its name. An image that is refused has withstood.
func (h *house) hostile(config v1.Config, files []tar.Header, try func(image string) verdict) verdict {
	h.t.Helper()
	const image = "hostile"
	r := h.TryInput(h.t.Context(), h.archive(config, files), "image", "import", "-q", "-", image)
	if strings.ContainsFunc(r.Stdout+r.Stderr, isControl) {
		return fall("the import writes control characters to the terminal: %q", r.Stdout+r.Stderr)
	}
	if r.Exit != 0 {
		return refusal(r.Stderr)
	}
	defer h.Berth(h.t, "image", "rm", image)
	return try(image)
}

func isControl(c rune) bool { return unicode.IsControl(c) && c != '\n' && c != '\t' }

// archive is a docker archive of the image.
func (h *house) archive(config v1.Config, files []tar.Header) io.Reader {
	h.t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	h.must(err)
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	h.must(w.WriteHeader(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(busybox))}))
	_, err = w.Write(busybox)
	h.must(err)
	for applet := range strings.FieldsSeq("sh id cat echo sleep") {
		h.must(w.WriteHeader(&tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox"}))
	}
	for _, f := range files {
		h.must(w.WriteHeader(&f))
		_, err := io.CopyN(w, zeros{}, f.Size)
		h.must(err)
	}
	h.must(w.Close())
	image, err := mutate.AppendLayers(empty.Image, h.layer(layer.Bytes()))
	h.must(err)
	image, err = mutate.Config(image, config)
	h.must(err)
	var archive bytes.Buffer
	h.must(tarball.Write(name.MustParseReference("hostile:latest"), image, &archive))
	return &archive
}

func (h *house) layer(data []byte) v1.Layer {
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
	h.must(err)
	return layer
}

func (h *house) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// TestEngine attacks Berth from images and containers.
func TestEngine(t *testing.T) {
	testenv.Check(t)
	h := newHouse(t)
	for _, c := range insides() {
		for _, k := range c.attacks {
			t.Run(k.name, func(t *testing.T) {
				if v := h.against(t, k); v.outcome == fell {
					t.Errorf("%s: %s", c.name, v)
				} else {
					t.Log(v)
				}
			})
		}
	}
}
