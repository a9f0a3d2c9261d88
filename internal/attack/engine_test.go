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

	"github.com/berthcloud/berth/internal/image"
	"github.com/berthcloud/berth/internal/testenv"
)

// engineAttack is an attack on the whole of Berth, from an image or a container.
type engineAttack struct {
	name, cves string
	carryOut   func(e *engine) verdict
}

// engineClass groups attacks on one weakness.
type engineClass struct {
	name    string
	attacks []engineAttack
}

// engineClasses are all attacks on an engine.
func engineClasses() []engineClass {
	return []engineClass{
		{"An image's config reaches the host", configAttacks()},
		{"The daemon's rights reach a container", rightsAttacks()},
		{"The host acts on a container's files", fileAttacks()},
		{"A container uses up what others need", exhaustionAttacks()},
	}
}

// engine is a daemon with a neighbor whom no attack may disturb, and a directory
// of the host that no container has.
type engine struct {
	*testenv.Daemon
	t      *testing.T
	victim string
}

func newEngine(t *testing.T) *engine {
	t.Helper()
	e := &engine{Daemon: newBerth(t), t: t, victim: testenv.Dir(t)}
	if err := os.WriteFile(filepath.Join(e.victim, "secret"), []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	e.Berth(t, "run", "-d", "--name", "neighbor", "--network", "none", "base", "sh", "-c", "echo alive; exec sleep 3600")
	return e
}

// newBerth starts a daemon that has the image "base".
func newBerth(t *testing.T) *testenv.Daemon {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a daemon")
	}
	images, err := image.Open(filepath.Join(testenv.Dir(t), "store"), image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer images.Close()
	base, err := images.Base(t.Context(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := images.Export(t.Context(), &archive, base); err != nil {
		t.Fatal(err)
	}
	d := testenv.NewDaemon(t, testenv.NewLocal(t))
	if r := d.TryInput(t.Context(), &archive, "image", "import", "-q", "-", base); r.Exit != 0 {
		t.Fatalf("import: %s", r)
	}
	return d
}

// against carries an attack out, and looks at the neighbor and at the host.
func (e *engine) against(t *testing.T, k engineAttack) verdict {
	e.t = t
	before := e.host()
	v := k.carryOut(e)
	if v.outcome == fell {
		return v
	}
	after := e.host()
	for name, was := range before {
		if now := after[name]; now != was {
			return fall("%s was %q and is %q", name, was, now)
		}
	}
	return v
}

// host is what no attack may change.
func (e *engine) host() map[string]string {
	state := map[string]string{}
	for _, path := range watched() {
		if text, err := os.ReadFile(path); err == nil {
			state[path] = string(text)
		}
	}
	programs, err := filepath.Glob(filepath.Join(e.Machine.Programs(), "*"))
	if err != nil {
		e.t.Fatal(err)
	}
	for _, path := range append(programs, filepath.Join(e.victim, "secret")) {
		text, err := os.ReadFile(path)
		state[path] = fmt.Sprintf("%x %v", sha256.Sum256(text), err)
	}
	entries, err := os.ReadDir(e.victim)
	state["victim"] = fmt.Sprint(len(entries), err)
	r := e.Try(e.t.Context(), "exec", "neighbor", "sh", "-c", "echo x >/tmp/x && cat /tmp/x")
	state["the neighbor"] = r.String()
	state["instances"] = e.Berth(e.t, "ps", "-a", "--format", "{{.Names}}")
	state["images"] = e.Berth(e.t, "images", "--format", "{{.Name}}")
	return state
}

// run runs a container of an image to its end.
func (e *engine) run(args ...string) testenv.Result {
	return e.Try(e.t.Context(), append([]string{"run", "--rm", "--network", "none"}, args...)...)
}

// hostile imports an image of busybox with a config and further files, and calls
// try with its name. An image that is refused has withstood.
func (e *engine) hostile(config v1.Config, files []tar.Header, try func(image string) verdict) verdict {
	e.t.Helper()
	const hostile = "hostile"
	r := e.TryInput(e.t.Context(), e.archive(config, files), "image", "import", "-q", "-", hostile)
	if strings.ContainsFunc(r.Stdout+r.Stderr, isControl) {
		return fall("the import writes control characters to the terminal: %q", r.Stdout+r.Stderr)
	}
	if r.Exit != 0 {
		return refusal(r.Stderr)
	}
	defer e.Berth(e.t, "image", "rm", hostile)
	return try(hostile)
}

func isControl(c rune) bool { return unicode.IsControl(c) && c != '\n' && c != '\t' }

// archive is a docker archive of the image.
func (e *engine) archive(config v1.Config, files []tar.Header) io.Reader {
	e.t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	e.must(err)
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	e.must(w.WriteHeader(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(busybox))}))
	_, err = w.Write(busybox)
	e.must(err)
	for applet := range strings.FieldsSeq("sh id cat echo sleep") {
		e.must(w.WriteHeader(&tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox"}))
	}
	for _, f := range files {
		e.must(w.WriteHeader(&f))
		_, err := io.CopyN(w, zeros{}, f.Size)
		e.must(err)
	}
	e.must(w.Close())
	img, err := mutate.AppendLayers(empty.Image, e.layer(layer.Bytes()))
	e.must(err)
	img, err = mutate.Config(img, config)
	e.must(err)
	var archive bytes.Buffer
	e.must(tarball.Write(name.MustParseReference("hostile:latest"), img, &archive))
	return &archive
}

func (e *engine) layer(data []byte) v1.Layer {
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
	e.must(err)
	return layer
}

func (e *engine) must(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// TestEngine attacks Berth from images and containers.
func TestEngine(t *testing.T) {
	testenv.Check(t)
	e := newEngine(t)
	for _, c := range engineClasses() {
		for _, k := range c.attacks {
			t.Run(k.name, func(t *testing.T) {
				if v := e.against(t, k); v.outcome == fell {
					t.Errorf("%s: %s", c.name, v)
				} else {
					t.Log(v)
				}
			})
		}
	}
}
