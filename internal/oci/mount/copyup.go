package mount

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// CopyUp copies what a directory holds into a new, detached tmpfs that is about to
// hide it (option tmpcopyup), and gives it that directory's owner. The mode of the
// tmpfs is a matter of its own option. Every step goes through descriptors and
// follows no symbolic link.
func CopyUp(dir, mnt int) error {
	src, err := reopenDir(dir, ".")
	if err != nil {
		return fmt.Errorf("tmpcopyup: %w", err)
	}
	dst, err := reopenDir(mnt, ".")
	if err != nil {
		src.Close()
		return fmt.Errorf("tmpcopyup: %w", err)
	}
	defer dst.Close()
	if err := copyDir(src, dst); err != nil {
		return fmt.Errorf("tmpcopyup: %w", err)
	}
	return nil
}

// copyDir copies the entries and the owner of src to dst, and closes src.
func copyDir(src, dst *os.File) error {
	defer src.Close()
	names, err := src.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := copyEntry(src, dst, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(src.Fd()), &st); err != nil {
		return err
	}
	return unix.Fchown(int(dst.Fd()), int(st.Uid), int(st.Gid))
}

func copyEntry(src, dst *os.File, name string) error {
	from, to := int(src.Fd()), int(dst.Fd())
	var st unix.Stat_t
	if err := unix.Fstatat(from, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if err := unix.Mkdirat(to, name, 0o700); err != nil {
			return err
		}
		sub, err := reopenDir(from, name)
		if err != nil {
			return err
		}
		subDst, err := reopenDir(to, name)
		if err != nil {
			sub.Close()
			return err
		}
		defer subDst.Close()
		if err := copyDir(sub, subDst); err != nil {
			return err
		}
		return unix.Fchmod(int(subDst.Fd()), st.Mode&0o7777)
	case unix.S_IFREG:
		return copyFile(from, to, name, &st)
	case unix.S_IFLNK:
		b := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(from, name, b)
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(string(b[:n]), to, name); err != nil {
			return err
		}
	case unix.S_IFIFO, unix.S_IFSOCK:
		if err := unix.Mknodat(to, name, st.Mode, 0); err != nil {
			return err
		}
	default:
		return nil // device nodes cannot be copied by a container's root
	}
	return unix.Fchownat(to, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW)
}

func copyFile(from, to int, name string, st *unix.Stat_t) error {
	in, err := unix.Openat(from, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	src := os.NewFile(uintptr(in), name)
	defer src.Close()
	out, err := unix.Openat(to, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	dst := os.NewFile(uintptr(out), name)
	defer dst.Close()
	if _, err := io.Copy(dst, src); err != nil {
		return err
	}
	if err := unix.Fchown(out, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Fchmod(out, st.Mode&0o7777)
}

func reopenDir(dir int, name string) (*os.File, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
