package erofs_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/image/erofs"
)

// sample builds an image with every kind of inode and returns its path.
func sample(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sample.erofs")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := erofs.NewWriter(f)
	must := func(n *erofs.Node, err error) *erofs.Node {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	file := func(mode uint32, data string) *erofs.Node {
		return must(w.Regular(erofs.Attr{Mode: mode, UID: 70000, GID: 5, Mtime: 1700000000, MtimeNs: 42}, int64(len(data)), strings.NewReader(data)))
	}
	root := erofs.NewDir(erofs.Attr{Mode: 0o755, Xattrs: map[string]string{"user.root": "yes"}})
	root.Children["empty"] = file(0o600, "")
	root.Children["small"] = file(0o4755, "small\n")
	root.Children["block"] = file(0o644, strings.Repeat("b", erofs.BlockSize))
	root.Children["large"] = file(0o644, strings.Repeat("0123456789", 50_000))
	// Holes in the middle: 1 MiB of zeros between two letters.
	root.Children["sparse"] = file(0o644, "a"+strings.Repeat("\x00", 1<<20)+"z")
	root.Children["link"] = root.Children["large"]
	root.Children["symlink"] = must(w.Symlink(erofs.Attr{Mtime: 5}, "small"))
	root.Children["longlink"] = must(w.Symlink(erofs.Attr{}, strings.Repeat("x", erofs.MaxTarget)))
	root.Children["null"] = must(w.Special(erofs.Attr{Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 3}))
	root.Children["high"] = must(w.Special(erofs.Attr{Mode: unix.S_IFBLK | 0o600, Major: 259, Minor: 70000}))
	root.Children["whiteout"] = must(w.Special(erofs.Attr{Mode: unix.S_IFCHR}))
	root.Children["fifo"] = must(w.Special(erofs.Attr{Mode: unix.S_IFIFO | 0o644}))
	xattrs := map[string]string{"user.a": "1", "security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "trusted.overlay.opaque": "y", "user.big": strings.Repeat("v", 9000)}
	root.Children["attrs"] = must(w.Regular(erofs.Attr{Mode: 0o644, Xattrs: xattrs}, 3, strings.NewReader("abc")))

	many := erofs.NewDir(erofs.Attr{Mode: 0o1777, UID: 3, Mtime: -5, Xattrs: map[string]string{"user.d": "dir"}})
	root.Children["many"] = many
	for i := range 3000 {
		many.Children[fmt.Sprintf("file-%d-%s", i, strings.Repeat("n", i%200))] = file(0o644, fmt.Sprint(i))
	}
	deep := root
	for range 300 {
		d := erofs.NewDir(erofs.Attr{Mode: 0o755})
		deep.Children["d"] = d
		deep = d
	}
	deep.Children["bottom"] = root.Children["small"]
	if _, err := w.Close(root); err != nil {
		t.Fatal(err)
	}
	return path
}

func mount(t *testing.T, image string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount(image, dir, "erofs", unix.MS_RDONLY|unix.MS_NODEV, ""); err != nil {
		t.Fatalf("mount: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestKernelReadsWhatWasWritten(t *testing.T) {
	dir := mount(t, sample(t))
	read := func(name string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for name, want := range map[string]string{
		"empty": "", "small": "small\n", "block": strings.Repeat("b", erofs.BlockSize), "large": strings.Repeat("0123456789", 50_000),
		"sparse": "a" + strings.Repeat("\x00", 1<<20) + "z", "symlink": "small\n", "attrs": "abc",
		"many/file-7-nnnnnnn": "7", strings.Repeat("d/", 300) + "bottom": "small\n",
	} {
		if read(name) != want {
			t.Errorf("%s: wrong content", name)
		}
	}
	stat := func(name string) unix.Stat_t {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil {
			t.Fatal(err)
		}
		return st
	}
	type facts struct {
		Mode, UID, GID, Links uint64
		Rdev                  string
		Mtime                 string
	}
	got := map[string]facts{}
	for _, name := range []string{".", "small", "large", "link", "null", "high", "whiteout", "fifo", "many", "symlink"} {
		st := stat(name)
		got[name] = facts{uint64(st.Mode), uint64(st.Uid), uint64(st.Gid), st.Nlink, fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), fmt.Sprintf("%d.%d", st.Mtim.Sec, st.Mtim.Nsec)}
	}
	want := map[string]facts{
		".":        {unix.S_IFDIR | 0o755, 0, 0, 4, "0:0", "0.0"},
		"small":    {unix.S_IFREG | 0o4755, 70000, 5, 2, "0:0", "1700000000.42"},
		"large":    {unix.S_IFREG | 0o644, 70000, 5, 2, "0:0", "1700000000.42"},
		"link":     {unix.S_IFREG | 0o644, 70000, 5, 2, "0:0", "1700000000.42"},
		"null":     {unix.S_IFCHR | 0o666, 0, 0, 1, "1:3", "0.0"},
		"high":     {unix.S_IFBLK | 0o600, 0, 0, 1, "259:70000", "0.0"},
		"whiteout": {unix.S_IFCHR, 0, 0, 1, "0:0", "0.0"},
		"fifo":     {unix.S_IFIFO | 0o644, 0, 0, 1, "0:0", "0.0"},
		"many":     {unix.S_IFDIR | 0o1777, 3, 0, 2, "0:0", "-5.0"},
		"symlink":  {unix.S_IFLNK | 0o777, 0, 0, 1, "0:0", "5.0"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if a, b := stat("large").Ino, stat("link").Ino; a != b {
		t.Errorf("hard link has inode %d, its file %d", b, a)
	}
	if target, err := os.Readlink(filepath.Join(dir, "longlink")); err != nil || target != strings.Repeat("x", erofs.MaxTarget) {
		t.Errorf("longlink: %d bytes, %v", len(target), err)
	}
	for name, want := range map[string]int{"user.a": 1, "security.capability": 20, "trusted.overlay.opaque": 1, "user.big": 9000} {
		buf := make([]byte, 10000)
		if n, err := unix.Lgetxattr(filepath.Join(dir, "attrs"), name, buf); n != want || err != nil {
			t.Errorf("xattr %s: %d bytes, %v; want %d", name, n, err, want)
		}
	}
	ents, err := os.ReadDir(filepath.Join(dir, "many"))
	if err != nil || len(ents) != 3000 {
		t.Errorf("many has %d entries, %v", len(ents), err)
	}
}

func TestFsck(t *testing.T) {
	fsck, err := exec.LookPath("fsck.erofs")
	if err != nil {
		t.Skip("no fsck.erofs (package erofs-utils)")
	}
	if out, err := exec.Command(fsck, sample(t)).CombinedOutput(); err != nil {
		t.Errorf("fsck.erofs: %v\n%s", err, out)
	}
}

func TestSameInputSameImage(t *testing.T) {
	a, err := os.ReadFile(sample(t))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(sample(t))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("two images of the same tree differ")
	}
}

func TestHolesTakeNoRoom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hole.erofs")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := erofs.NewWriter(f)
	const size = 3 << 30 // beyond 31 bits
	n, err := w.Regular(erofs.Attr{Mode: 0o644}, size, io.LimitReader(zeros{}, size))
	if err != nil {
		t.Fatal(err)
	}
	root := erofs.NewDir(erofs.Attr{Mode: 0o755})
	root.Children["hole"] = n
	if _, err := w.Close(root); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	if st.Blocks*512 > 1<<20 {
		t.Errorf("3 GiB of zeros take %d bytes on disk", st.Blocks*512)
	}
	if fi, err := os.Stat(filepath.Join(mount(t, path), "hole")); err != nil || fi.Size() != size {
		t.Errorf("%v, %v", fi, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestRefused(t *testing.T) {
	w := erofs.NewWriter(discard{})
	cases := map[string]func() error{
		"short content": func() error { _, err := w.Regular(erofs.Attr{}, 5, strings.NewReader("abc")); return err },
		"short blocks":  func() error { _, err := w.Regular(erofs.Attr{}, 5000, strings.NewReader("abc")); return err },
		"negative size": func() error { _, err := w.Regular(erofs.Attr{}, -1, strings.NewReader("")); return err },
		"empty target":  func() error { _, err := w.Symlink(erofs.Attr{}, ""); return err },
		"long target":   func() error { _, err := w.Symlink(erofs.Attr{}, strings.Repeat("x", 4096)); return err },
		"device number": func() error { _, err := w.Special(erofs.Attr{Mode: unix.S_IFCHR, Major: 1 << 12}); return err },
		"not special":   func() error { _, err := w.Special(erofs.Attr{Mode: unix.S_IFREG}); return err },
		"xattr class": func() error {
			_, err := w.Special(erofs.Attr{Mode: unix.S_IFIFO, Xattrs: map[string]string{"foo": ""}})
			return err
		},
		"xattr size": func() error {
			_, err := w.Special(erofs.Attr{Mode: unix.S_IFIFO, Xattrs: map[string]string{"user.x": strings.Repeat("v", 65536)}})
			return err
		},
	}
	for name, f := range cases {
		if f() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

type discard struct{}

func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (discard) Truncate(int64) error                   { return nil }
