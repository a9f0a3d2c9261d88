package guest

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/agent"
)

// tree is a partition that is to be mounted over the root filesystem, and is mounted
// nowhere yet: its target is looked up in the new root, where no path leads to the
// partition any more.
type tree int // a descriptor

// trees are those of a machine, by partition.
type trees map[int]tree

// upperOf is the directory of the machine's disk that takes what is written to the mount
// of a partition.
func upperOf(part int) string { return fmt.Sprintf("trees/%d/upper", part) }

// openTrees prepares the mounts that are partitions of the disk of layers.
func openTrees(mounts []agent.Mount, layers string) (trees, error) {
	list := trees{}
	for _, m := range mounts {
		if m.Part == 0 {
			continue
		}
		dir := "/t/" + strconv.Itoa(m.Part)
		if err := mountAll([]mountPoint{{layers + strconv.Itoa(m.Part), dir, "erofs", unix.MS_RDONLY, ""}}); err != nil {
			return nil, err
		}
		if !m.ReadOnly {
			if err := makeWritable(dir, filepath.Join("/disk", upperOf(m.Part))); err != nil {
				return nil, err
			}
		}
		fd, err := unix.OpenTree(unix.AT_FDCWD, path.Join(dir, m.Path), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return nil, &os.PathError{Op: "open_tree", Path: dir, Err: err}
		}
		list[m.Part] = tree(fd)
	}
	return list, nil
}

// makeWritable stacks an empty directory, which gets the owner and mode of dir, on dir.
func makeWritable(dir, upper string) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	work := filepath.Join(filepath.Dir(upper), "work")
	for _, d := range []string{upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := os.Chown(upper, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(upper, st.Mode&0o7777); err != nil {
		return &os.PathError{Op: "chmod", Path: upper, Err: err}
	}
	return mount("overlay", dir, "overlay", 0, "lowerdir="+dir+",upperdir="+upper+",workdir="+work)
}

// attach mounts the tree, which is a directory or a file, at a path.
func (t tree) attach(target string) error {
	defer unix.Close(int(t))
	var st unix.Stat_t
	if err := unix.Fstat(int(t), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
	} else if err := touch(target); err != nil {
		return err
	}
	return moveMount(int(t), target, unix.MOVE_MOUNT_T_SYMLINKS)
}

// touch makes an empty file where there is nothing.
func touch(name string) error {
	if _, err := os.Lstat(name); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

func moveMount(fd int, target string, flags int) error {
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH|flags); err != nil {
		return &os.PathError{Op: "move_mount", Path: target, Err: err}
	}
	return nil
}

// placeText mounts a file of root's over a path; none where there is no content.
func placeText(target, content string) error {
	if content == "" || content == "\n" {
		return nil
	}
	return place(target, &tar.Header{Mode: 0o644}, strings.NewReader(content))
}

// placeFirst places the one file of a tar stream.
func placeFirst(target string, r io.Reader) error {
	in := tar.NewReader(r)
	header, err := in.Next()
	if err != nil {
		return fmt.Errorf("%w: %w", unix.EINVAL, err)
	}
	return place(target, header, in)
}

// aside is a directory that there is in any root, over which a filesystem is mounted for a
// moment while nothing of the user's runs.
const aside = "/dev/mqueue"

// place mounts a file that is kept in memory over a path. A symbolic link there is
// covered, and not followed.
func place(target string, h *tar.Header, content io.Reader) error {
	if err := mount("tmpfs", aside, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700"); err != nil {
		return err
	}
	tree, err := placeAside(h, content)
	if err := errors.Join(err, os.NewSyscallError("umount", unix.Unmount(aside, unix.MNT_DETACH))); err != nil {
		return err
	}
	defer unix.Close(tree)
	if err := touch(target); err != nil {
		return err
	}
	return moveMount(tree, target, 0)
}

// placeAside makes the file and returns a mount of it alone.
func placeAside(h *tar.Header, content io.Reader) (int, error) {
	name := filepath.Join(aside, "file")
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return -1, err
	}
	defer file.Close()
	if _, err := io.Copy(file, content); err != nil {
		return -1, err
	}
	if err := file.Chown(h.Uid, h.Gid); err != nil {
		return -1, err
	}
	if err := unix.Fchmod(int(file.Fd()), uint32(h.Mode)&0o7777); err != nil {
		return -1, os.NewSyscallError("fchmod", err)
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	return tree, os.NewSyscallError("open_tree", err)
}
