package container

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/oci/mount"
	"github.com/berthcloud/berth/internal/pack"
)

// Files are copied from outside, as the container sees them: through the root of its
// first process, in which the kernel resolves every path (openat2, RESOLVE_IN_ROOT).
// Symbolic links that the container exchanges meanwhile lead at most to another file
// of its own (CVE-2018-15664, CVE-2019-14271).

// root opens the container's root filesystem.
func (h *handle) root() (mount.Root, error) {
	c, err := h.driver.runtime.Load(h.p.ID)
	if err != nil {
		return mount.Root{FD: -1}, err
	}
	fd, err := c.OpenRoot()
	return mount.Root{FD: fd}, err
}

// CopyIn unpacks a tar stream into the existing directory dir.
func (h *handle) CopyIn(ctx context.Context, dir string, archive io.Reader) error {
	root, err := h.root()
	if err != nil {
		return h.fail("copy", err)
	}
	defer unix.Close(root.FD)
	target, err := root.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return h.fail("copy", pathError(dir, err))
	}
	unix.Close(target)
	in := &unpacker{root: root, dir: dir, owner: h.owner}
	// New files must belong to an id that the container has, from the start.
	uid, gid := h.owner(0, 0)
	return h.fail("copy", mount.WithFilesystemIDs(uid, gid, func() error { return in.unpack(ctx, archive) }))
}

// owner returns the ids on the host of those in the container.
func (h *handle) owner(uid, gid int) (int, int) {
	users := h.p.Users
	if users.Size == 0 {
		return uid, gid
	}
	shift := func(id int) int {
		if id < 0 || id >= int(users.Size) {
			id = 0
		}
		return int(users.First) + id
	}
	return shift(uid), shift(gid)
}

// pathError is an error about a path in the container.
func pathError(path string, err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return api.E("", api.NotFound, path, errors.New("no such file or directory in the instance"))
	}
	return fmt.Errorf("%s: %w", path, err)
}

// unpacker writes the entries of a tar stream below dir.
type unpacker struct {
	root  mount.Root
	dir   string
	owner func(uid, gid int) (int, int)
}

func (u *unpacker) unpack(ctx context.Context, archive io.Reader) error {
	r := tar.NewReader(archive)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		hdr, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return api.E("", api.Corrupt, "", fmt.Errorf("the tar stream: %w", err))
		}
		if err := u.entry(hdr, r); err != nil {
			return fmt.Errorf("%s: %w", hdr.Name, err)
		}
	}
}

// entry writes one entry. Its name is cleaned so that it stays below dir.
func (u *unpacker) entry(hdr *tar.Header, content io.Reader) error {
	name := filepath.Clean("/" + hdr.Name)
	path := filepath.Join(u.dir, name)
	if name == "/" {
		return nil
	}
	parent, err := u.root.Dir(filepath.Dir(path), 0o755)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	base := filepath.Base(path)
	if hdr.Typeflag == tar.TypeDir {
		if err := unix.Mkdirat(parent, base, 0o700); err != nil && err != unix.EEXIST {
			return err
		}
	} else {
		if err := unix.Unlinkat(parent, base, 0); err != nil && err != unix.ENOENT {
			return err
		}
		if err := u.create(parent, base, hdr, content); err != nil {
			return err
		}
	}
	if hdr.Typeflag == tar.TypeLink {
		return nil
	}
	return u.attributes(parent, base, hdr)
}

// create makes anything but a directory. The name was just removed: O_EXCL and its
// like fail rather than follow what someone puts there.
func (u *unpacker) create(parent int, base string, hdr *tar.Header, content io.Reader) error {
	switch hdr.Typeflag {
	case tar.TypeReg:
		fd, err := unix.Openat(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		return writeAll(fd, content)
	case tar.TypeSymlink:
		return unix.Symlinkat(hdr.Linkname, parent, base)
	case tar.TypeLink:
		target := filepath.Join(u.dir, filepath.Clean("/"+hdr.Linkname))
		dir, err := u.root.Open(filepath.Dir(target), unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer unix.Close(dir)
		return unix.Linkat(dir, filepath.Base(target), parent, base, 0)
	case tar.TypeFifo:
		return unix.Mknodat(parent, base, unix.S_IFIFO|0o600, 0)
	}
	return fmt.Errorf("entries of type %q are not copied", hdr.Typeflag)
}

// attributes sets owner, mode and time, in this order: chown clears setuid bits.
func (u *unpacker) attributes(parent int, base string, hdr *tar.Header) error {
	uid, gid := u.owner(hdr.Uid, hdr.Gid)
	if err := unix.Fchownat(parent, base, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if hdr.Typeflag != tar.TypeSymlink {
		if err := chmodNoFollow(parent, base, uint32(hdr.Mode)&0o7777); err != nil {
			return err
		}
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(hdr.ModTime.UnixNano())}
	if hdr.ModTime.IsZero() || hdr.ModTime.Before(time.Unix(0, 0)) {
		return nil
	}
	return unix.UtimesNanoAt(parent, base, times, unix.AT_SYMLINK_NOFOLLOW)
}

// chmodNoFollow changes the mode of a file that must not be a symbolic link.
func chmodNoFollow(parent int, base string, mode uint32) error {
	fd, err := unix.Openat(parent, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return unix.ELOOP
	}
	// fchmod refuses O_PATH; through /proc it is this very file.
	return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode)
}

// CopyOut packs the file or directory at path.
func (h *handle) CopyOut(ctx context.Context, path string, archive io.Writer) error {
	root, err := h.root()
	if err != nil {
		return h.fail("copy", err)
	}
	defer unix.Close(root.FD)
	clean := filepath.Clean("/" + path)
	fd, err := root.Open(clean, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return h.fail("copy", pathError(path, err))
	}
	defer unix.Close(fd)
	out := tar.NewWriter(archive)
	if err := pack.Tree(ctx, out, fd, strings.TrimPrefix(filepath.Base(clean), "/"), pack.Options{Owner: h.inside}); err != nil {
		return h.fail("copy", fmt.Errorf("%s: %w", path, err))
	}
	return h.fail("copy", out.Close())
}

// inside returns the ids in the container of those on the host.
func (h *handle) inside(uid, gid uint32) (int, int) {
	shift := func(id uint32) int { return int(max(id, h.p.Users.First) - h.p.Users.First) }
	return shift(uid), shift(gid)
}

// writeAll writes content to fd and closes it.
func writeAll(fd int, content io.Reader) error {
	f := os.NewFile(uintptr(fd), "file")
	_, err := io.Copy(f, content)
	return errors.Join(err, f.Close())
}
