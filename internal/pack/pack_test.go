package pack_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/pack"
)

// packed returns the entries of a directory's stream, a line each.
func packed(t *testing.T, dir, name string, o pack.Options) ([]string, error) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := pack.Tree(t.Context(), w, fd, name, o); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return lines(t, &b), nil
}

func lines(t *testing.T, r io.Reader) (list []string) {
	t.Helper()
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%c %s %o %d:%d", h.Typeflag, h.Name, h.Mode, h.Uid, h.Gid)
		if h.Linkname != "" {
			line += " -> " + h.Linkname
		}
		if len(content) > 0 {
			line += fmt.Sprintf(" %q", content)
		}
		for _, k := range []string{"security.capability", "user.note", "trusted.overlay.opaque"} {
			if v, ok := h.PAXRecords["SCHILY.xattr."+k]; ok {
				line += fmt.Sprintf(" %s=%x", k, v)
			}
		}
		list = append(list, line)
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func same(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func root(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("devices and trusted attributes need root")
	}
}

// TestUpper: what an overlay's upper directory says, as a layer says it.
func TestUpper(t *testing.T) {
	root(t)
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	must(t,
		os.MkdirAll(in("etc/new"), 0o750),
		os.WriteFile(in("etc/file"), []byte("text"), 0o640),
		os.Chown(in("etc/file"), 100_005, 100_006),
		os.Link(in("etc/file"), in("etc/other")),
		os.Symlink("/no/where", in("etc/link")),
		unix.Mknod(in("etc/gone"), unix.S_IFCHR, 0),
		unix.Mknod(in("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Mkfifo(in("pipe"), 0o600),
		unix.Setxattr(in("etc/new"), "trusted.overlay.opaque", []byte("y"), 0),
		unix.Setxattr(in("etc"), "trusted.overlay.impure", []byte("y"), 0),
		unix.Setxattr(in("etc/file"), "user.note", []byte("n"), 0),
		os.WriteFile(in("left"), nil, 0o600),
		os.Chmod(in("null"), 0o666),
	)
	owner := func(uid, gid uint32) (int, int) {
		return int(max(uid, 100_000) - 100_000), int(max(gid, 100_000) - 100_000)
	}
	got, err := packed(t, dir, "", pack.Options{Upper: true, Owner: owner, Leave: func(name string) bool { return name == "left" }})
	must(t, err)
	same(t, got,
		"5 etc/ 750 0:0",
		"0 etc/file 640 5:6 \"text\" user.note=6e",
		"0 etc/.wh.gone 600 0:0",
		"2 etc/link 777 0:0 -> /no/where",
		"5 etc/new/ 750 0:0",
		"0 etc/new/.wh..wh..opq 600 0:0",
		"1 etc/other 640 5:6 -> etc/file",
		"3 null 666 0:0",
		"6 pipe 600 0:0",
	)
	names, err := packed(t, dir, "", pack.Options{Upper: true, Names: true, Leave: func(name string) bool { return name != "etc" && name != "etc/file" }})
	must(t, err)
	same(t, names, "5 etc/ 750 0:0", "0 etc/file 640 100005:100006 user.note=6e")
}

// TestImage: what is a deletion in an upper directory is a device everywhere else, and
// what is to be empty is.
func TestImage(t *testing.T) {
	root(t)
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	must(t,
		os.Chmod(dir, 0o751),
		os.WriteFile(in("id"), []byte("secret"), 0o444), os.Link(in("id"), in("twin")),
		unix.Mknod(in("none"), unix.S_IFCHR|0o600, 0),
		os.Mkdir(in("moved"), 0o700),
		unix.Setxattr(in("moved"), "trusted.overlay.redirect", []byte("/etc"), 0),
	)
	got, err := packed(t, dir, ".", pack.Options{Image: true, Empty: func(name string) bool { return name == "./id" }})
	must(t, err)
	same(t, got, "5 ./ 751 0:0", "0 ./id 444 0:0", "5 ./moved/ 700 0:0", "3 ./none 600 0:0", "1 ./twin 444 0:0 -> ./id")
}

// TestCapability: one that counts in a container's user namespace counts, as a layer's,
// wherever that is used.
func TestCapability(t *testing.T) {
	root(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "ping")
	// Revision 3 of linux/capability.h: CAP_NET_RAW permitted and effective, of root 100000.
	value := []byte("\x01\x00\x00\x03\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xa0\x86\x01\x00")
	must(t, os.WriteFile(file, nil, 0o755), unix.Setxattr(file, "security.capability", value, 0))
	got, err := packed(t, dir, "", pack.Options{Upper: true})
	must(t, err)
	same(t, got, "0 ping 755 0:0 security.capability=0100000200200000000000000000000000000000")
}

// TestRefused: what no layer can say is refused by name.
func TestRefused(t *testing.T) {
	root(t)
	for says, make := range map[string]func(dir string) error{
		`.wh.x: a layer`: func(dir string) error { return os.WriteFile(filepath.Join(dir, ".wh.x"), nil, 0o600) },
		`moved: overlayfs`: func(dir string) error {
			return errors.Join(os.Mkdir(filepath.Join(dir, "moved"), 0o700),
				unix.Setxattr(filepath.Join(dir, "moved"), "trusted.overlay.redirect", []byte("/etc"), 0))
		},
	} {
		dir := t.TempDir()
		must(t, make(dir))
		if _, err := packed(t, dir, "", pack.Options{Upper: true}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %s in it", err, says)
		}
	}
}

// TestTree: the plain stream of cp follows no link, and holds neither devices nor marks.
func TestTree(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.Mkdir(in("a"), 0o700), os.WriteFile(in("a/f"), []byte("x"), 0o600), os.Link(in("a/f"), in("a/g")), os.Symlink("/etc", in("a/z")))
	got, err := packed(t, in("a"), "a", pack.Options{Owner: func(uint32, uint32) (int, int) { return 1, 2 }})
	must(t, err)
	same(t, got, "5 a/ 700 1:2", "0 a/f 600 1:2 \"x\"", "0 a/g 600 1:2 \"x\"", "2 a/z 777 1:2 -> /etc")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := pack.Tree(ctx, tar.NewWriter(io.Discard), unix.AT_FDCWD, "", pack.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a canceled one: %v", err)
	}
}
