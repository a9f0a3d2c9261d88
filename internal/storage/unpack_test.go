package storage

import (
	"archive/tar"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestUnpackedIsMounted compares what the kernel shows of a layer with what the
// unpacked layer shows: the same, down to inode numbers being shared.
func TestUnpackedIsMounted(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	s, err := Open(t.TempDir(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	when := time.Unix(1_600_000_000, 0)
	l := packLayer(t,
		tar.Header{Typeflag: tar.TypeDir, Name: "d", Mode: 0o1777, Uid: 5, Gid: 6, ModTime: when},
		tar.Header{Typeflag: tar.TypeReg, Name: "d/f", Linkname: strings.Repeat("content", 3000), Mode: 0o4755, Uid: 7, ModTime: when, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}},
		tar.Header{Typeflag: tar.TypeLink, Name: "hard", Linkname: "d/f"},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "sym", Linkname: "/etc/passwd", Uid: 8, ModTime: when},
		tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o640},
		tar.Header{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3, Mode: 0o666},
		tar.Header{Typeflag: tar.TypeReg, Name: "d/.wh.gone"},
		tar.Header{Typeflag: tar.TypeReg, Name: "opaque/.wh..wh..opq"},
		tar.Header{Typeflag: tar.TypeDir, Name: "closed", Mode: 0o500, ModTime: when},
		tar.Header{Typeflag: tar.TypeReg, Name: "closed/in", Linkname: "x"},
	)
	kernel, unpacked := filepath.Join(s.layersDir(), "kernel"), filepath.Join(s.layersDir(), "unpacked")
	if err := mountImage(l.Path, kernel); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.unmount("kernel") })
	if err := s.mountUnpacked(t.Context(), l.Path, unpacked); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(tree(t, kernel), tree(t, unpacked)); d != "" {
		t.Error(d)
	}
	if err := os.WriteFile(filepath.Join(unpacked, "x"), nil, 0o600); err == nil {
		t.Error("the unpacked layer can be written to")
	}
	if err := s.unmount("unpacked"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(s.unpackedDir(), "unpacked", "d", "f")); err != nil {
		t.Errorf("it is not kept for the next instance: %v", err)
	}
	if err := os.Remove(l.Path); err != nil {
		t.Fatal(err)
	}
	sweep(t, s)
	if left, err := os.ReadDir(s.unpackedDir()); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// tree describes all that stat(2) and listxattr(2) say, without inode numbers.
func tree(t testing.TB, root string) map[string]string {
	t.Helper()
	out, inodes := map[string]string{}, map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, d iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		first, ok := inodes[st.Ino]
		if !ok {
			first, inodes[st.Ino] = name, name
		}
		content := ""
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = fmt.Sprintf("%d bytes %.20q", len(b), b)
		case unix.S_IFLNK:
			content, _ = os.Readlink(path)
		}
		var attrs []string
		for _, a := range []string{"user.a", "trusted.overlay.opaque"} {
			buf := make([]byte, 64)
			if n, err := unix.Lgetxattr(path, a, buf); err == nil {
				attrs = append(attrs, a+"="+string(buf[:n]))
			}
		}
		links := st.Nlink
		if d.IsDir() {
			links = 0 // filesystems count differently
		}
		out[name] = fmt.Sprintf("%o %d:%d rdev %d:%d links %d of %s mtime %d %v %s", st.Mode, st.Uid, st.Gid, unix.Major(st.Rdev), unix.Minor(st.Rdev), links, first, st.Mtim.Sec, attrs, content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
