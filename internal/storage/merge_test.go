package storage

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/image/layer"
)

// below makes a tree that layers are laid over.
func below(t testing.TB, victim string) string {
	t.Helper()
	dir := t.TempDir()
	for _, err := range []error{
		os.MkdirAll(dir+"/kept/sub", 0o750), os.WriteFile(dir+"/kept/file", []byte("old"), 0o600), os.WriteFile(dir+"/kept/gone", nil, 0o600),
		unix.Setxattr(dir+"/kept", "user.a", []byte("old"), 0),
		os.MkdirAll(dir+"/opaque/sub", 0o750), os.WriteFile(dir+"/opaque/sub/file", []byte("old"), 0o600),
		os.MkdirAll(dir+"/tofile/sub", 0o750), os.WriteFile(dir+"/todir", nil, 0o600), os.MkdirAll(dir+"/removed/sub", 0o750),
		os.Symlink(victim, dir+"/link"), os.Symlink(victim+"/file", dir+"/filelink"), os.Symlink(victim, dir+"/hidden"), os.Symlink(victim, dir+"/opaquelink"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// victim makes a directory that no layer may change, and returns it with what it is like.
func victim(t testing.TB) (dir string, like func() map[string]string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(dir+"/file", []byte("the host's"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, func() map[string]string { return tree(t, dir) }
}

var overBelow = []tar.Header{
	{Typeflag: tar.TypeDir, Name: "kept", Mode: 0o1777, Uid: 5, Gid: 6},
	{Typeflag: tar.TypeReg, Name: "kept/file", Linkname: "new", Mode: 0o4755, Uid: 7, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}},
	{Typeflag: tar.TypeLink, Name: "kept/twice", Linkname: "kept/file"},
	{Typeflag: tar.TypeReg, Name: "kept/.wh.gone"},
	{Typeflag: tar.TypeDir, Name: "opaque", Mode: 0o700},
	{Typeflag: tar.TypeReg, Name: "opaque/.wh..wh..opq"},
	{Typeflag: tar.TypeReg, Name: "opaque/new", Linkname: "x"},
	{Typeflag: tar.TypeReg, Name: "tofile", Linkname: "x"},
	{Typeflag: tar.TypeDir, Name: "todir"},
	{Typeflag: tar.TypeFifo, Name: "todir/pipe"},
	{Typeflag: tar.TypeReg, Name: ".wh.removed"},
	{Typeflag: tar.TypeReg, Name: ".wh.never"},
	{Typeflag: tar.TypeSymlink, Name: "new", Linkname: "/etc/passwd", Uid: 9},
	// What leads out of the tree:
	{Typeflag: tar.TypeDir, Name: "link", Mode: 0o777},
	{Typeflag: tar.TypeReg, Name: "link/file", Linkname: "attack"},
	{Typeflag: tar.TypeReg, Name: "filelink", Linkname: "attack"},
	{Typeflag: tar.TypeReg, Name: "opaquelink/.wh..wh..opq"},
}

// TestMergeIsOverlay lays a layer over a tree, among whose links are some that lead out of
// it, and compares that with what the kernel's overlay shows of both.
func TestMergeIsOverlay(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	host, like := victim(t)
	before := like()
	var headers []tar.Header
	for _, h := range overBelow {
		h.ModTime = time.Unix(1_600_000_000, 0)
		headers = append(headers, h)
	}
	l := packLayer(t, headers...)
	upper := filepath.Join(t.TempDir(), "layer")
	if err := mountImage(l.Path, upper); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(upper, unix.MNT_DETACH) })
	lower, dir := below(t, host), below(t, host)
	stack := t.TempDir()
	if err := unix.Mount("overlay", stack, "overlay", unix.MS_RDONLY, "lowerdir="+upper+":"+lower); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(stack, unix.MNT_DETACH) })
	if err := Merge(t.Context(), l.Path, dir, true); err != nil {
		t.Fatal(err)
	}
	shown, merged := tree(t, stack), tree(t, dir)
	for _, name := range []string{"kept/sub"} { // made at two times
		delete(shown, name)
		delete(merged, name)
	}
	if d := cmp.Diff(shown, merged); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(before, like()); d != "" {
		t.Errorf("the host's directory has changed: %s", d)
	}
}

// TestMergeThroughLink lays a layer over a tree that an open file leads to.
func TestMergeThroughLink(t *testing.T) {
	dir := t.TempDir()
	open, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	l := packLayer(t, tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o711, Uid: os.Getuid(), Gid: os.Getgid()}, tar.Header{Typeflag: tar.TypeDir, Name: "d", Uid: os.Getuid(), Gid: os.Getgid()})
	if err := Merge(t.Context(), l.Path, fmt.Sprintf("/proc/self/fd/%d", open.Fd()), true); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("the root is %v, %v", info.Mode(), err)
	}
	if _, err := os.Stat(dir + "/d"); err != nil {
		t.Error(err)
	}
}

// FuzzMerge lays what a hostile guest sends over a tree with links that lead out of it.
func FuzzMerge(f *testing.F) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	// A whiteout where nothing is below is in overlayfs a name that cannot be looked up.
	for _, h := range append(overBelow, tar.Header{Typeflag: tar.TypeReg, Name: "hidden/.wh.file"}) {
		h.Linkname, h.PAXRecords = "", nil
		if h.Typeflag == tar.TypeLink || h.Typeflag == tar.TypeSymlink {
			h.Linkname = "kept/file"
		}
		if err := w.WriteHeader(&h); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, sent []byte) {
		image, err := os.Create(filepath.Join(t.TempDir(), "changes"))
		if err != nil {
			t.Fatal(err)
		}
		defer image.Close()
		limits := layer.Limits{Size: 1 << 20, Entries: 100}
		if _, err := layer.Convert(t.Context(), image, bytes.NewReader(sent), layer.Options{Limits: limits}); err != nil {
			return
		}
		host, like := victim(t)
		before := like()
		// An id or a device may be one that the fuzzer cannot give.
		_ = Merge(t.Context(), image.Name(), below(t, host), true)
		if d := cmp.Diff(before, like()); d != "" {
			t.Errorf("the host's directory has changed: %s", d)
		}
	})
}
