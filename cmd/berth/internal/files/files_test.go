package files

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPackUnpack(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	write := func(name, text string) {
		t.Helper()
		p := filepath.Join(from, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	write("site/index.html", "hello")
	write("site/deep/er/x", "x")
	if err := os.Symlink("index.html", filepath.Join(from, "site/link")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ top, rename, at string }{
		{"site", "site", "site"}, {"site", "other", "other"}, {"site", ".", "."},
	} {
		var stream bytes.Buffer
		if err := Pack(&stream, filepath.Join(from, "site"), c.top); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(to, "in-"+c.rename)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := Unpack(&stream, dir, c.top, c.rename); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"index.html": "hello", "deep/er/x": "x", "link": "hello"} {
			got, err := os.ReadFile(filepath.Join(dir, c.at, name))
			if err != nil || string(got) != want {
				t.Errorf("%+v: %s = %q, %v", c, name, got, err)
			}
		}
	}
}

// TestHostileStream is the class "host acts on a container's files": nothing
// outside the directory may change, whatever the stream says.
func TestHostileStream(t *testing.T) {
	for name, entries := range map[string][]tar.Header{
		"dotdot":            {{Name: "top/../../victim", Typeflag: tar.TypeReg}},
		"dotdot first":      {{Name: "../victim", Typeflag: tar.TypeReg}},
		"absolute":          {{Name: "/victim", Typeflag: tar.TypeReg}},
		"another top":       {{Name: "victim", Typeflag: tar.TypeReg}},
		"through a symlink": {{Name: "top/l", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "top/l/../victim", Typeflag: tar.TypeReg}},
		"symlink dir":       {{Name: "top", Typeflag: tar.TypeSymlink, Linkname: "../"}, {Name: "top/victim", Typeflag: tar.TypeReg}},
		"hard link out":     {{Name: "top/h", Typeflag: tar.TypeLink, Linkname: "../victim"}, {Name: "top/h", Typeflag: tar.TypeReg}},
		"hard link by link": {{Name: "top/l", Typeflag: tar.TypeSymlink, Linkname: "../.."}, {Name: "top/h", Typeflag: tar.TypeLink, Linkname: "top/l/victim"}},
		"device":            {{Name: "top/d", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}},
	} {
		t.Run(name, func(t *testing.T) {
			outside := t.TempDir()
			victim := filepath.Join(outside, "victim")
			dir := filepath.Join(outside, "in")
			if err := os.WriteFile(victim, []byte("safe"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			var stream bytes.Buffer
			tw := tar.NewWriter(&stream)
			for _, h := range entries {
				h.Mode = 0o644
				body := ""
				if h.Typeflag == tar.TypeReg {
					body = "owned"
				}
				h.Size = int64(len(body))
				if err := tw.WriteHeader(&h); err != nil {
					t.Fatal(err)
				}
				if _, err := tw.Write([]byte(body)); err != nil {
					t.Fatal(err)
				}
			}
			tw.Close()
			err := Unpack(&stream, dir, "top", "top")
			if err == nil {
				t.Error("the stream was accepted")
			} else if strings.Contains(err.Error(), "\n") {
				t.Errorf("error of several lines: %v", err)
			}
			if got, _ := os.ReadFile(victim); string(got) != "safe" {
				t.Errorf("the victim is now %q", got)
			}
			if left, _ := os.ReadDir(outside); len(left) != 2 {
				t.Errorf("beside the directory: %v", left)
			}
		})
	}
}

func FuzzUnpack(f *testing.F) {
	var stream bytes.Buffer
	tw := tar.NewWriter(&stream)
	_ = tw.WriteHeader(&tar.Header{Name: "top/a", Typeflag: tar.TypeReg, Size: 1, Mode: 0o600})
	_, _ = tw.Write([]byte("x"))
	_ = tw.Close()
	f.Add(stream.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		outside := t.TempDir()
		dir := filepath.Join(outside, "in")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		_ = Unpack(bytes.NewReader(data), dir, "top", "top")
		if left, _ := os.ReadDir(outside); len(left) != 1 {
			t.Errorf("beside the directory: %v", left)
		}
	})
}
