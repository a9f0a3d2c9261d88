package e2e

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// writeLayers writes a docker archive of n layers, each of which adds a file
// to /l and replaces /same; the first holds busybox.
func writeLayers(t *testing.T, file string, n int) {
	t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	image := empty.Image
	for i := range n {
		content := map[string][]byte{
			fmt.Sprintf("l/%d", i): fmt.Appendf(nil, "layer %d\n", i),
			"same":                 fmt.Appendf(nil, "%d\n", i),
		}
		if i == 0 {
			content["bin/busybox"] = busybox
		}
		data := tarOf(t, content)
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if image, err = mutate.AppendLayers(image, layer); err != nil {
			t.Fatal(err)
		}
	}
	image, err = mutate.Config(image, v1.Config{Cmd: []string{"/bin/busybox"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(file, name.MustParseReference("layers:latest"), image); err != nil {
		t.Fatal(err)
	}
}

// tarOf packs files, which all are executable.
func tarOf(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		data := files[name]
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}
