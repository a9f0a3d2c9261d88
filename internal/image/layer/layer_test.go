package layer_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	goerofs "github.com/erofs/go-erofs"
	"github.com/google/go-cmp/cmp"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image/layer"
)

// pack makes an archive of headers. Linkname stands for the content of regular
// files.
func pack(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := ""
		if h.Typeflag == tar.TypeReg {
			content, h.Linkname = h.Linkname, ""
			h.Size = int64(len(content))
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name, content string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Linkname: content}
}
func dir(name string) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: name} }
func symlink(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
}
func link(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}
}
func device(kind byte, name string, major, minor int64) tar.Header {
	return tar.Header{Typeflag: kind, Name: name, Devmajor: major, Devminor: minor}
}

func convert(t testing.TB, archive []byte, opt layer.Options) (map[string]string, error) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "layer.erofs"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := layer.Convert(t.Context(), f, bytes.NewReader(archive), opt); err != nil {
		return nil, err
	}
	return list(t, f), nil
}

// list reads an image back with the independent reader of go-erofs.
func list(t testing.TB, f io.ReaderAt) map[string]string {
	t.Helper()
	img, err := goerofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	err = fs.WalkDir(img, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*goerofs.Stat)
		text := info.Mode().Type().String()
		switch {
		case info.Mode().IsRegular():
			b, err := fs.ReadFile(img, name)
			if err != nil {
				return err
			}
			text = string(b)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := fs.ReadLink(img, name)
			if err != nil {
				return err
			}
			text = "-> " + target
		case info.Mode()&fs.ModeDevice != 0:
			text = fmt.Sprintf("device %d", st.Rdev)
		}
		if st.Xattrs["trusted.overlay.opaque"] == "y" {
			text += " opaque"
		}
		got[name] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestTree(t *testing.T) {
	const d = "d---------"
	cases := map[string]struct {
		in   []tar.Header
		opt  layer.Options
		want map[string]string
	}{
		"empty": {want: map[string]string{".": d}},
		"plain": {
			in:   []tar.Header{dir("./"), dir("./etc/"), file("./etc/hostname", "berth"), symlink("bin", "usr/bin")},
			want: map[string]string{".": d, "etc": d, "etc/hostname": "berth", "bin": "-> usr/bin"},
		},
		"parents left out": {
			in:   []tar.Header{file("a/b/c", "x")},
			want: map[string]string{".": d, "a": d, "a/b": d, "a/b/c": "x"},
		},
		"absolute in an image's layer": {
			in: []tar.Header{file("/ko-app/x", "x")}, opt: layer.Options{Absolute: true},
			want: map[string]string{".": d, "ko-app": d, "ko-app/x": "x"},
		},
		"hard links": {
			in:   []tar.Header{file("a", "x"), link("b", "a"), link("c", "./b"), symlink("s", "/etc"), link("t", "s")},
			want: map[string]string{".": d, "a": "x", "b": "x", "c": "x", "s": "-> /etc", "t": "-> /etc"},
		},
		"hard link to an absolute name stays inside": {
			in: []tar.Header{file("etc/passwd", "inside"), link("p", "/etc/passwd")}, opt: layer.Options{Absolute: true},
			want: map[string]string{".": d, "etc": d, "etc/passwd": "inside", "p": "inside"},
		},
		"the last duplicate counts": {
			in:   []tar.Header{file("a", "1"), file("a", "2"), dir("b"), file("b/x", "x"), file("b", "file"), file("c", "file"), dir("c"), file("c/y", "y")},
			want: map[string]string{".": d, "a": "2", "b": "file", "c": d, "c/y": "y"},
		},
		"a repeated directory keeps its content": {
			in:   []tar.Header{dir("a"), file("a/x", "x"), dir("a")},
			want: map[string]string{".": d, "a": d, "a/x": "x"},
		},
		"names that differ in case": {
			in:   []tar.Header{file("File", "1"), file("file", "2"), file("FILE", "3")},
			want: map[string]string{".": d, "File": "1", "file": "2", "FILE": "3"},
		},
		"long names": {
			in:   []tar.Header{file(strings.Repeat(strings.Repeat("n", 200)+"/", 10)+"f", "x")},
			want: longNames(d),
		},
		"devices that images have": {
			in:   []tar.Header{device(tar.TypeChar, "dev/null", 1, 3), device(tar.TypeChar, "dev/console", 5, 1)},
			want: map[string]string{".": d, "dev": d, "dev/null": "device 259", "dev/console": "device 1281"},
		},
		"whiteouts": {
			in:   []tar.Header{dir("a"), file("a/.wh.gone", ""), dir("b"), file("b/.wh..wh..opq", ""), file("b/new", "n"), file(".wh..wh.plnk", ""), file(".wh..wh.orph/x", "")},
			want: map[string]string{".": d, "a": d, "a/gone": "device 0", "b": d + " opaque", "b/new": "n"},
		},
		"a whiteout in any disguise": {
			in:   []tar.Header{symlink(".wh.a", "/etc"), dir(".wh.b"), file("f", ""), link(".wh.c", "f")},
			want: map[string]string{".": d, "a": "device 0", "b": "device 0", "c": "device 0", "f": ""},
		},
		"a whiteout spares its own layer": {
			in:   []tar.Header{file("a", "new"), file(".wh.a", ""), file(".wh.b", ""), file("b", "new"), file(".wh.c", ""), dir("c"), dir("d"), file(".wh.d", ""), file(".wh.e", ""), file("e/f", "x")},
			want: map[string]string{".": d, "a": "new", "b": "new", "c": d + " opaque", "d": d + " opaque", "e": d + " opaque", "e/f": "x"},
		},
		"a root filesystem has no whiteouts": {
			in: []tar.Header{file(".wh.a", "content")}, opt: layer.Options{Root: true},
			want: map[string]string{".": d, ".wh.a": "content"},
		},
		"overlayfs attributes are dropped": {
			in:   []tar.Header{{Typeflag: tar.TypeDir, Name: "a", PAXRecords: map[string]string{"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.overlay.opaque": "y"}}},
			want: map[string]string{".": d, "a": d},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := convert(t, pack(t, c.in...), c.opt)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func longNames(d string) map[string]string {
	want := map[string]string{".": d}
	name := ""
	for range 10 {
		name = filepath.Join(name, strings.Repeat("n", 200))
		want[name] = d
	}
	want[name+"/f"] = "x"
	return want
}

// TestHostile is row 7 of the attack classes: every archive is refused with
// one line that names the entry, and nothing outside the image file changes.
func TestHostile(t *testing.T) {
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 30)
	cases := map[string]struct {
		in   []tar.Header
		opt  layer.Options
		want string
	}{
		"dotdot":                      {in: []tar.Header{file(up+victim, "x")}, want: "leads out of the root"},
		"dotdot inside":               {in: []tar.Header{dir("a"), file("a/../b", "x")}, want: "leads out of the root"},
		"absolute":                    {in: []tar.Header{file(victim, "x")}, want: "an absolute name"},
		"symlink then write":          {in: []tar.Header{symlink("a", filepath.Dir(victim)), file("a/victim", "x")}, want: `passes through the symbolic link "a"`},
		"symlink chain then write":    {in: []tar.Header{symlink("a", "/"), symlink("b", "a"), file("b"+victim, "x")}, want: "passes through the symbolic link"},
		"symlink then mkdir":          {in: []tar.Header{symlink("a", filepath.Dir(victim)), dir("a/b")}, want: "passes through the symbolic link"},
		"symlink then whiteout":       {in: []tar.Header{symlink("a", filepath.Dir(victim)), file("a/.wh.victim", "")}, want: "passes through the symbolic link"},
		"hard link out":               {in: []tar.Header{link("a", up+victim)}, want: "leads out of the root"},
		"hard link absolute":          {in: []tar.Header{link("a", victim)}, want: "which is not in the layer"},
		"hard link absolute in layer": {in: []tar.Header{link("a", victim)}, opt: layer.Options{Absolute: true}, want: "which is not in the layer"},
		"hard link through symlink":   {in: []tar.Header{symlink("s", filepath.Dir(victim)), link("a", "s/victim")}, want: "which is not in the layer"},
		"hard link to directory":      {in: []tar.Header{dir("d"), link("a", "d")}, want: "which is no file"},
		"hard link to whiteout":       {in: []tar.Header{file(".wh.w", ""), link("a", "w")}, want: "which is no file"},
		"below a file":                {in: []tar.Header{file("a", "x"), file("a/b", "x")}, want: `passes through the file "a"`},
		"block device":                {in: []tar.Header{device(tar.TypeBlock, "dev/sda", 8, 0)}, want: "block device 8:0"},
		"memory device":               {in: []tar.Header{device(tar.TypeChar, "dev/mem", 1, 1)}, want: "character device 1:1"},
		"whiteout of dotdot":          {in: []tar.Header{file("a/.wh...", "")}, want: `a whiteout of ".."`},
		"whiteout of dot":             {in: []tar.Header{file("a/.wh..", "")}, want: `a whiteout of "."`},
		"whiteout of nothing":         {in: []tar.Header{file("a/.wh.", "")}, want: `a whiteout of ""`},
		"below a whiteout":            {in: []tar.Header{file(".wh.a/b", "")}, want: "below the whiteout"},
		"whiteout below dotdot":       {in: []tar.Header{file("../.wh.victim", "")}, want: "leads out of the root"},
		"root is a file":              {in: []tar.Header{file(".", "x")}, want: "the root is not a directory"},
		"root is a symlink":           {in: []tar.Header{symlink("./", "/etc")}, want: "the root is not a directory"},
		"long component":              {in: []tar.Header{file(strings.Repeat("n", 256), "x")}, want: "a name of 256 bytes"},
		"long path":                   {in: []tar.Header{file(strings.Repeat("nn/", 1500)+"f", "x")}, want: "a name of"},
		"long target":                 {in: []tar.Header{symlink("a", strings.Repeat("n", 5000))}, want: "a target of 5000 bytes"},
		"uid overflow":                {in: []tar.Header{{Typeflag: tar.TypeDir, Name: "a", Uid: 1<<32 - 1}}, want: "out of range"},
		"too many entries":            {in: []tar.Header{dir("a"), dir("b"), dir("c")}, opt: layer.Options{Limits: layer.Limits{Entries: 2}}, want: "more than 2 entries"},
		"too large":                   {in: []tar.Header{file("a", strings.Repeat("x", 9000))}, opt: layer.Options{Limits: layer.Limits{Size: 8000}}, want: "expands beyond 8000 bytes"},
		"flood of empty entries":      {in: []tar.Header{dir("a"), dir("b"), dir("c")}, opt: layer.Options{Limits: layer.Limits{Size: 1200}}, want: "expands beyond 1200 bytes"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := convert(t, pack(t, c.in...), c.opt)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if k := api.KindOf(err); k != api.Invalid && k != api.Exhausted {
				t.Errorf("kind %q", k)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("not one line: %q", err)
			}
		})
	}
	if b, err := os.ReadFile(victim); err != nil || string(b) != "untouched" {
		t.Errorf("the victim has changed: %q, %v", b, err)
	}
}

func TestBombs(t *testing.T) {
	t.Run("ratio", func(t *testing.T) {
		// A stream of zeros that claims to come from very few bytes.
		head := pack(t, tar.Header{Typeflag: tar.TypeDir, Name: "d"})[:512]
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: "zeros", Size: 5 << 30, Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(filepath.Join(t.TempDir(), "x"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		in := io.MultiReader(bytes.NewReader(head), &b, io.LimitReader(zeros{}, 5<<30))
		_, err = layer.Convert(t.Context(), f, in, layer.Options{Archived: func() int64 { return 1 << 20 }})
		if !api.IsKind(err, api.Exhausted) || !strings.Contains(err.Error(), "a bomb") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("sparse", func(t *testing.T) {
		_, err := convert(t, paxSparse(t, 8<<40), layer.Options{})
		if !api.IsKind(err, api.Exhausted) {
			t.Errorf("got %v", err)
		}
	})
}

// paxSparse makes a sparse file of the given size without any data, in GNU's
// PAX format 0.1.
func paxSparse(t testing.TB, size int64) []byte {
	t.Helper()
	var records strings.Builder
	for _, kv := range [][2]string{{"GNU.sparse.size", fmt.Sprint(size)}, {"GNU.sparse.numblocks", "1"}, {"GNU.sparse.map", fmt.Sprintf("%d,0", size)}} {
		rec := fmt.Sprintf(" %s=%s\n", kv[0], kv[1])
		n := len(rec) + 2
		if n > 99 {
			n++
		}
		fmt.Fprintf(&records, "%d%s", n, rec)
	}
	body := records.String()
	var b bytes.Buffer
	header := func(name string, kind byte, size int) {
		h := make([]byte, 512)
		copy(h, name)
		copy(h[100:], "0000644\x00")
		copy(h[108:], "0000000\x00")
		copy(h[116:], "0000000\x00")
		copy(h[124:], fmt.Sprintf("%011o\x00", size))
		copy(h[136:], "00000000000\x00")
		h[156] = kind
		copy(h[257:], "ustar\x0000")
		copy(h[148:], "        ")
		sum := 0
		for _, c := range h {
			sum += int(c)
		}
		copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
		b.Write(h)
	}
	header("x", 'x', len(body))
	b.WriteString(body)
	b.Write(make([]byte, 512-len(body)%512))
	header("sparse", '0', 0)
	b.Write(make([]byte, 1024))
	return b.Bytes()
}

func TestSparse(t *testing.T) {
	got, err := convert(t, paxSparse(t, 300_000), layer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got["sparse"] != strings.Repeat("\x00", 300_000) {
		t.Errorf("sparse file has %d bytes", len(got["sparse"]))
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestTruncated cuts an archive at every byte: each cut is an error, none a panic.
func TestTruncated(t *testing.T) {
	whole := pack(t, dir("a"), file("a/b", strings.Repeat("content", 100)), symlink("c", "a"),
		tar.Header{Typeflag: tar.TypeReg, Name: strings.Repeat("long/", 60) + "x", ModTime: time.Unix(5, 5), Format: tar.FormatPAX})
	if _, err := convert(t, whole, layer.Options{Root: true}); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for n := range len(whole) - 1024 {
		_, err := layer.Convert(t.Context(), f, bytes.NewReader(whole[:n]), layer.Options{Root: true})
		if !api.IsKind(err, api.Corrupt) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
}

func TestReadErrorsPass(t *testing.T) {
	cause := errors.New("disk on fire")
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	in := io.MultiReader(bytes.NewReader(pack(t, file("a", "x"))[:700]), failing{cause})
	if _, err := layer.Convert(t.Context(), f, in, layer.Options{}); !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// FuzzConvert feeds arbitrary bytes: no panic, and every image that comes out
// is one that an independent reader reads to its end.
func FuzzConvert(f *testing.F) {
	f.Add(pack(f, dir("a"), file("a/b", "x"), symlink("c", "a"), link("d", "a/b"), device(tar.TypeChar, "n", 1, 3), file(".wh.x", "")), true)
	f.Add(pack(f, file("a/.wh..wh..opq", ""), dir("a")), true)
	f.Add(paxSparse(f, 100_000), false)
	f.Add([]byte{}, false)
	f.Fuzz(func(t *testing.T, archive []byte, absolute bool) {
		out := &memory{}
		opt := layer.Options{Absolute: absolute, Limits: layer.Limits{Size: 1 << 20, Entries: 100}}
		if _, err := layer.Convert(t.Context(), out, bytes.NewReader(archive), opt); err != nil {
			return
		}
		list(t, out)
	})
}

// memory is a file in memory.
type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.grow(off + int64(len(p)))
	return copy(m.b[off:], p), nil
}

func (m *memory) Truncate(size int64) error {
	m.grow(size)
	m.b = m.b[:size]
	return nil
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(m.b).ReadAt(p, off)
}

func (m *memory) grow(size int64) {
	if more := size - int64(len(m.b)); more > 0 {
		m.b = append(m.b, make([]byte, more)...)
	}
}

// TestManyEntries bounds the memory that a layer of the most entries takes.
func TestManyEntries(t *testing.T) {
	if testing.Short() {
		t.Skip("half a million entries")
	}
	const entries = 499_000
	r, w := io.Pipe()
	go func() {
		out := tar.NewWriter(w)
		for i := range entries {
			h := tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("dir-%d/file-%d", i/1000, i), Mode: 0o644}
			if err := out.WriteHeader(&h); err != nil {
				w.CloseWithError(err)
				return
			}
		}
		w.CloseWithError(out.Close())
	}()
	f, err := os.Create(filepath.Join(t.TempDir(), "many"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	st, err := layer.Convert(t.Context(), f, r, layer.Options{})
	if err != nil || st.Entries != entries {
		t.Fatalf("%+v, %v", st, err)
	}
	runtime.ReadMemStats(&after)
	grown := int64(after.HeapSys-before.HeapSys) >> 20
	t.Logf("%d entries: the heap grew by %d MiB", entries, grown)
	if grown > 128 {
		t.Errorf("the heap grew by %d MiB", grown)
	}
}

// fuzzNames are what FuzzEntries builds names from.
var fuzzNames = []string{"a", "b", "c", "..", ".", "", ".wh.a", ".wh..wh..opq", ".wh...", "A", "usr", "bin"}

// FuzzEntries makes archives of arbitrary entries with few names, so that they
// meet: links through links, whiteouts of links, directories in place of files.
// Every archive is refused, or becomes an image that can be read to its end and
// has no name that an archive may not have.
func FuzzEntries(f *testing.F) {
	f.Add([]byte{5, 0, 1, 0, 2, 1, 0, 1, 0, 6, 0, 3})
	f.Add([]byte{2, 0, 3, 0, 0, 1, 2, 0, 0, 1, 1, 1})
	f.Fuzz(func(t *testing.T, program []byte) {
		kinds := []byte{tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeFifo, tar.TypeChar}
		next := func() byte {
			if len(program) == 0 {
				return 0
			}
			b := program[0]
			program = program[1:]
			return b
		}
		name := func() string {
			n := ""
			for range 1 + next()%3 {
				n += fuzzNames[int(next())%len(fuzzNames)] + "/"
			}
			return strings.TrimSuffix(n, "/")
		}
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for len(program) > 0 {
			h := tar.Header{Typeflag: kinds[int(next())%len(kinds)], Name: name(), Mode: int64(next()), Devmajor: 1, Devminor: 3}
			if h.Typeflag == tar.TypeSymlink || h.Typeflag == tar.TypeLink {
				h.Linkname = name()
			}
			if h.Typeflag == tar.TypeReg {
				h.Size = int64(next()) * 30
			}
			if w.WriteHeader(&h) != nil {
				return
			}
			w.Write(make([]byte, h.Size))
		}
		w.Close()
		out := &memory{}
		opt := layer.Options{Absolute: true, Limits: layer.Limits{Size: 1 << 20, Entries: 100}}
		if _, err := layer.Convert(t.Context(), out, &b, opt); err != nil {
			if k := api.KindOf(err); k != api.Invalid && k != api.Exhausted && k != api.Corrupt {
				t.Errorf("%s: %v", k, err)
			}
			return
		}
		for name := range list(t, out) {
			for part := range strings.SplitSeq(name, "/") {
				if part == ".." || strings.HasPrefix(part, ".wh.") {
					t.Errorf("the image has %q", name)
				}
			}
		}
	})
}
