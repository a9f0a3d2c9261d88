package container

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/mount"
)

// FuzzCopyIn: no tar stream makes, changes or removes anything outside of the root
// filesystem that it is copied into, whatever links are there already or come with
// it.
func FuzzCopyIn(f *testing.F) {
	if os.Getuid() != 0 {
		f.Skip("needs root")
	}
	up := strings.Repeat("../", 20)
	for _, headers := range [][]tar.Header{
		{{Name: "file", Mode: 0o4755, Size: 4}},
		{{Name: "out/made", Size: 4}, {Name: up + "victim/made", Size: 4}},
		{{Name: "link", Typeflag: tar.TypeSymlink, Linkname: up + "victim"}, {Name: "link/made", Size: 4}, {Name: "link", Typeflag: tar.TypeDir, Mode: 0o777}},
		{{Name: "hard", Typeflag: tar.TypeLink, Linkname: "out/secret"}, {Name: "hard", Size: 4}},
		{{Name: "out", Typeflag: tar.TypeLink, Linkname: "out"}, {Name: "fifo", Typeflag: tar.TypeFifo}, {Name: "dev", Typeflag: tar.TypeChar}},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			_ = w.WriteHeader(&h)
			_, _ = w.Write([]byte("evil")[:h.Size])
		}
		_ = w.Close()
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, archive []byte) {
		dir, err := os.MkdirTemp("/dev/shm", "berth") // in memory: a disk takes its time to remove files
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		victim, rootfs := filepath.Join(dir, "victim"), filepath.Join(dir, "rootfs")
		for _, err := range []error{
			os.Mkdir(victim, 0o700), os.Mkdir(rootfs, 0o700), os.WriteFile(filepath.Join(victim, "secret"), []byte("of the host"), 0o600),
			os.Symlink(up+victim, filepath.Join(rootfs, "out")), os.Mkdir(filepath.Join(rootfs, "in"), 0o700),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		fd, err := unix.Open(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		before := inodes(t, dir, victim, filepath.Join(victim, "secret"))
		for _, into := range []string{"/", "/in"} {
			u := &unpacker{root: mount.Root{FD: fd}, dir: into, owner: func(uid, gid int) (int, int) { return uid & 0xffff, gid & 0xffff }}
			_ = u.unpack(t.Context(), bytes.NewReader(archive))
		}
		entries, err := os.ReadDir(victim)
		if after := inodes(t, dir, victim, filepath.Join(victim, "secret")); after != before || err != nil || len(entries) != 1 {
			t.Errorf("the host had %+v and has %+v, %v, %v", before, after, entries, err)
		}
	})
}

// inodes tells all about files but when they were read. The directory above the
// root changes with it.
func inodes(t *testing.T, top string, paths ...string) (all [3]unix.Stat_t) {
	t.Helper()
	for i, path := range append([]string{top}, paths...) {
		if err := unix.Lstat(path, &all[i]); err != nil {
			t.Fatal(err)
		}
		all[i].Atim = unix.Timespec{}
	}
	return all
}
