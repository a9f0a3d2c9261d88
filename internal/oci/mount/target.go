package mount

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Root is a container's root filesystem as seen from outside of it. All paths are
// resolved within, symbolic links included, by the kernel.
type Root struct{ FD int }

// resolveAttempts bounds the repetitions when openat2 reports a concurrent rename
// (EAGAIN); an attacker who renames for ever gets an error.
const resolveAttempts = 64

// Open opens a path inside the root.
func (r Root) Open(path string, flags int, resolve uint64) (int, error) {
	how := &unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | resolve,
	}
	for i := 0; ; i++ {
		fd, err := unix.Openat2(r.FD, path, how)
		if (err == unix.EAGAIN || err == unix.EINTR) && i < resolveAttempts {
			continue
		}
		return fd, err
	}
}

// Dir returns the directory at path (O_PATH), creating what is missing.
func (r Root) Dir(path string, mode uint32) (int, error) {
	return r.ensure(path, mode, true)
}

// File returns the file at path (O_PATH), creating an empty one, and its
// directories, where missing.
func (r Root) File(path string) (int, error) {
	return r.ensure(path, 0o755, false)
}

// Target returns what a mount at path goes onto, as Dir or File.
func (r Root) Target(path string, dir bool) (int, error) {
	if dir {
		return r.Dir(path, 0o755)
	}
	return r.File(path)
}

func (r Root) ensure(path string, mode uint32, dir bool) (int, error) {
	path = filepath.Clean("/" + path)
	fd, err := r.Open(path, unix.O_PATH, 0)
	if err == nil {
		return fd, checkKind(fd, path, dir)
	}
	if !errors.Is(err, unix.ENOENT) || path == "/" {
		return -1, fmt.Errorf("%s: %w", path, err)
	}
	parent, err := r.Dir(filepath.Dir(path), 0o755)
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	return create(parent, path, mode, dir)
}

// create makes the last element of path in parent. The calls used follow no
// symbolic link there: a dangling one is an error.
func create(parent int, path string, mode uint32, dir bool) (int, error) {
	name := filepath.Base(path)
	var err error
	if dir {
		err = unix.Mkdirat(parent, name, mode)
	} else {
		err = unix.Mknodat(parent, name, unix.S_IFREG|mode&^0o111, 0)
	}
	if err != nil && err != unix.EEXIST { // EEXIST: someone was quicker, which Openat judges
		return -1, fmt.Errorf("%s: cannot be created: %w", path, err)
	}
	fd, err := unix.Openat(parent, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("%s: %w", path, err)
	}
	return fd, checkKind(fd, path, dir)
}

// checkKind closes fd and fails unless it is a directory, or not one, as wanted.
func checkKind(fd int, path string, dir bool) error {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	kind := st.Mode & unix.S_IFMT
	switch {
	case err != nil:
	case kind == unix.S_IFLNK:
		err = errors.New("is a symbolic link that leads nowhere")
	case dir && kind != unix.S_IFDIR:
		err = errors.New("is not a directory")
	case !dir && kind == unix.S_IFDIR:
		err = errors.New("is a directory")
	default:
		return nil
	}
	unix.Close(fd)
	return fmt.Errorf("%s: %w", path, err)
}

// Place attaches a detached mount to a target found by Target.
func Place(mnt, target int) error {
	return unix.MoveMount(mnt, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// Guard refuses a target that symbolic links of the image led into a procfs, where
// a mount could hide or forge what the runtime or the kernel relies on
// (CVE-2019-16884, CVE-2025-52881).
func Guard(target int, path string) error {
	if strings.HasPrefix(path, "/proc/") {
		return nil // named as such: package bundle has an allow-list
	}
	proc, err := IsProc(target)
	if err == nil && proc {
		err = errors.New("leads into /proc")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// IsProc reports whether fd is on a procfs.
func IsProc(fd int) (bool, error) {
	var fs unix.Statfs_t
	err := unix.Fstatfs(fd, &fs)
	return fs.Type == unix.PROC_SUPER_MAGIC, err
}
