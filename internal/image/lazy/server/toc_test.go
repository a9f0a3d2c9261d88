package server

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image/layer"
)

// sink counts what is written to it.
type sink struct{ end int64 }

func (f *sink) WriteAt(p []byte, off int64) (int, error) {
	f.end = max(f.end, off+int64(len(p)))
	return len(p), nil
}

func (f *sink) Truncate(size int64) error { f.end = size; return nil }

const sum = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// FuzzTOC outlines layers of tables of contents of strangers: what is accepted has each
// chunk in a place of its own, within the image and the layer.
func FuzzTOC(f *testing.F) {
	for _, entries := range []string{
		`{"name":"a","type":"reg","size":10,"offset":100,"chunkDigest":"` + sum + `"}`,
		`{"name":"a","type":"reg","size":10,"offset":100,"chunkSize":4,"chunkDigest":"` + sum + `"},{"type":"chunk","offset":200,"chunkOffset":4,"chunkDigest":"` + sum + `"}`,
		`{"name":"a","type":"reg","size":10,"offset":100,"digest":"` + sum + `"},{"name":"b","type":"reg","size":1,"offset":100,"innerOffset":600,"chunkDigest":"` + sum + `"}`,
		`{"name":"d/","type":"dir","mode":493},{"name":"d/.wh.x","type":"reg"},{"name":"l","type":"hardlink","linkName":"d"}`,
		`{"name":"s","type":"symlink","linkName":"../x","modtime":"2020-01-02T03:04:05Z","xattrs":{"user.a":"YQ=="}}`,
		`null`, `{"name":"../a","type":"reg"}`, `{"name":"a","type":"chunk"}`,
	} {
		f.Add([]byte(`{"version":1,"entries":[`+entries+`]}`), int64(1000))
	}
	f.Fuzz(func(t *testing.T, doc []byte, end int64) {
		var toc estargz.JTOC
		if json.Unmarshal(doc, &toc) != nil {
			return
		}
		c, err := outline(t.Context(), &sink{}, &toc, end, layer.Limits{Entries: 1000, Size: 1 << 30})
		if err != nil {
			if k := api.KindOf(err); k == "" || k == api.Internal {
				t.Errorf("kind %q of %v", k, err)
			}
			return
		}
		last := int64(0)
		for _, k := range c.chunks {
			if k.size <= 0 || k.at < last || k.at+k.size > c.image || k.offset < 0 || k.next <= k.offset || k.next > end || k.inner < 0 {
				t.Errorf("chunk %+v of an image of %d bytes and a layer of %d", k, c.image, end)
			}
			last = k.at + k.size
		}
		if c.first < 0 || c.first > max(end, 0) {
			t.Errorf("%d bytes of %d first", c.first, end)
		}
	})
}

// FuzzFooter reads the last bytes of layers of strangers.
func FuzzFooter(f *testing.F) {
	good := fmt.Sprintf("\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff\x1a\x00SG\x16\x00%016xSTARGZ\x01\x00\x00\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00", 1234)
	f.Add([]byte(good), int64(5000))
	f.Fuzz(func(t *testing.T, foot []byte, size int64) {
		if len(foot) != estargz.FooterSize || size < estargz.FooterSize {
			return
		}
		offset, err := parseFooter(foot, size)
		if err == nil && (offset <= 0 || offset >= size-estargz.FooterSize) {
			t.Errorf("a table of contents at %d of %d bytes", offset, size)
		}
		if string(foot) == good && size == 5000 && offset != 1234 {
			t.Errorf("offset %d, %v", offset, err)
		}
	})
}

// TestOutlineRefuses outlines what the fuzzer would take long to find.
func TestOutlineRefuses(t *testing.T) {
	for name, entry := range map[string]string{
		"a gap between chunks":         `{"name":"a","type":"reg","size":10,"offset":1,"chunkSize":4,"chunkDigest":"` + sum + `"},{"type":"chunk","offset":2,"chunkOffset":5,"chunkDigest":"` + sum + `"}`,
		"chunks that lack the end":     `{"name":"a","type":"reg","size":10,"offset":1,"chunkSize":4,"chunkDigest":"` + sum + `"}`,
		"a chunk beyond the file":      `{"name":"a","type":"reg","size":10,"offset":1,"chunkSize":11,"chunkDigest":"` + sum + `"}`,
		"a chunk beyond the layer":     `{"name":"a","type":"reg","size":10,"offset":1000,"chunkDigest":"` + sum + `"}`,
		"a chunk that nothing vouches": `{"name":"a","type":"reg","size":10,"offset":1}`,
		"a chunk too large":            fmt.Sprintf(`{"name":"a","type":"reg","size":%d,"offset":1,"chunkDigest":%q}`, maxChunk+1, sum),
		"chunks in disorder":           `{"name":"a","type":"reg","size":1,"offset":9,"chunkDigest":"` + sum + `"},{"name":"b","type":"reg","size":1,"offset":5,"chunkDigest":"` + sum + `"}`,
		"an unknown type":              `{"name":"a","type":"socket"}`,
		"a time that is none":          `{"name":"a","type":"dir","modtime":"yesterday"}`,
	} {
		var toc estargz.JTOC
		if err := json.Unmarshal([]byte(`{"entries":[`+entry+`]}`), &toc); err != nil {
			t.Fatal(err)
		}
		if c, err := outline(t.Context(), &sink{}, &toc, 1000, layer.Limits{}); err == nil {
			t.Errorf("%s: %+v", name, c)
		}
	}
}
