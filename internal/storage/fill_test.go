package storage

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

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/image/layer"
)

// packLayer makes the EROFS image of a layer. The content of a regular file is
// in Linkname.
func packLayer(t *testing.T, headers ...tar.Header) Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := ""
		if h.Typeflag == tar.TypeReg {
			content, h.Linkname = h.Linkname, ""
		}
		h.Size = int64(len(content))
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "layer.erofs"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := layer.Convert(t.Context(), f, &b, layer.Options{}); err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return Layer{Digest: fmt.Sprintf("sha256:%x", sha256.Sum256(image)), Path: f.Name()}
}

func TestFill(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	root, run := t.TempDir(), t.TempDir()
	s, err := Open(root, run)
	if err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.MkdirAll(secret, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(secret, "key"), []byte("host"), 0o600); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 30)
	reg := func(name, content string) tar.Header {
		return tar.Header{Typeflag: tar.TypeReg, Name: name, Linkname: content}
	}
	sym := func(name, target string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
	}
	app := tar.Header{Typeflag: tar.TypeDir, Name: "run/app", Mode: 0o1770, Uid: 33, Gid: 44}
	lower := packLayer(t, app,
		tar.Header{Typeflag: tar.TypeReg, Name: "run/app/own", Linkname: "own", Mode: 0o4750, Uid: 7, Gid: 8, PAXRecords: map[string]string{"SCHILY.xattr.user.x": "y"}},
		reg("run/app/gone", "x"), sym("run/app/link", up+secret+"/key"), tar.Header{Typeflag: tar.TypeLink, Name: "run/app/hard", Linkname: "run/app/own"},
		sym("var/run", "/run"), sym("escape", up+secret), sym("absolute", secret), reg("file", "x"), sym("loop", "loop"))
	upper := packLayer(t, app, reg("run/app/new", "new"), reg("run/app/.wh.gone", ""))
	cases := map[string]struct{ target, want string }{
		"through an absolute link":   {"/var/run/app", "hard link new own"},
		"plainly":                    {"/run/app", "hard link new own"},
		"a link out of the image":    {"/escape", ""},
		"an absolute link out of it": {"/absolute", ""},
		"dotdot":                     {up + secret, ""},
		"a file":                     {"/file", ""},
		"nothing":                    {"/nothing", ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			v, _, err := s.CreateVolume(t.Context(), strings.ReplaceAll(name, " ", "-"), nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Fill(t.Context(), v, []Layer{lower, upper}, c.target); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(namesIn(t, v.Path), " "); got != c.want {
				t.Errorf("filled with %q, want %q", got, c.want)
			}
			if got := namesIn(t, filepath.Dir(v.Path)); len(got) != 2 {
				t.Errorf("beside the data: %v", got)
			}
		})
	}
	data := filepath.Join(s.volumesDir(), "plainly", volumeData)
	var st unix.Stat_t
	if err := unix.Stat(data, &st); err != nil || st.Mode&0o7777 != 0o1770 || st.Uid != 33 || st.Gid != 44 {
		t.Errorf("the volume's root: %o %d:%d, %v", st.Mode, st.Uid, st.Gid, err)
	}
	if err := unix.Stat(filepath.Join(data, "own"), &st); err != nil || st.Mode&0o7777 != 0o4750 || st.Uid != 7 || st.Nlink != 2 {
		t.Errorf("own: %o %d, %d links, %v", st.Mode, st.Uid, st.Nlink, err)
	}
	buf := make([]byte, 8)
	if n, err := unix.Getxattr(filepath.Join(data, "own"), "user.x", buf); err != nil || string(buf[:n]) != "y" {
		t.Errorf("attribute %q, %v", buf[:n], err)
	}
	sweep(t, s)
	if mounts(t, run) != 0 || len(namesIn(t, run)) != 1 {
		t.Errorf("left below RUN: %d mounts, %v", mounts(t, run), namesIn(t, run))
	}
}

// TestFillFromManyLayers has more layers than one page of mount options holds.
func TestFillFromManyLayers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	run := t.TempDir()
	s, err := Open(t.TempDir(), run)
	if err != nil {
		t.Fatal(err)
	}
	v, _, err := s.CreateVolume(t.Context(), "v", nil)
	if err != nil {
		t.Fatal(err)
	}
	var layers []Layer
	for i := range 60 {
		layers = append(layers, packLayer(t, tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("d/f%02d", i), Linkname: "x"}))
	}
	if err := s.Fill(t.Context(), v, layers, "/d"); err != nil {
		t.Fatal(err)
	}
	sweep(t, s)
	if got := namesIn(t, v.Path); len(got) != 60 || mounts(t, run) != 0 {
		t.Errorf("%d files, %d mounts left", len(got), mounts(t, run))
	}
}

func TestFillSparesContent(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	s, err := Open(t.TempDir(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sweep(t, s) })
	v, _, err := s.CreateVolume(t.Context(), "v", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(v.Path, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l := packLayer(t, tar.Header{Typeflag: tar.TypeReg, Name: "d/f", Linkname: "x"})
	if err := s.Fill(t.Context(), v, []Layer{l}, "/d"); err != nil {
		t.Fatal(err)
	}
	if got := namesIn(t, v.Path); len(got) != 1 || got[0] != "mine" {
		t.Errorf("the volume has %v", got)
	}
}

// TestFillDiskFull leaves the volume empty, and one line.
func TestFillDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	root := t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, 0); err != nil {
			t.Error(err)
		}
	})
	s, err := Open(root, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sweep(t, s) })
	v, _, err := s.CreateVolume(t.Context(), "v", nil)
	if err != nil {
		t.Fatal(err)
	}
	l := packLayer(t, tar.Header{Typeflag: tar.TypeReg, Name: "d/f", Linkname: strings.Repeat("x", 2<<20)})
	err = s.Fill(t.Context(), v, []Layer{l}, "/d")
	if !api.IsKind(err, api.Exhausted) || !strings.Contains(err.Error(), "no space left") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %s: %v", api.KindOf(err), err)
	}
	if got := namesIn(t, v.Path); len(got) != 0 {
		t.Errorf("the volume has %v", got)
	}
}

func namesIn(t *testing.T, dir string) []string {
	t.Helper()
	ents, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range ents {
		names = append(names, e.Name())
	}
	return names
}
