package guest

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/pack"
)

// copyIn unpacks a tar stream into an existing directory. The guest's root is
// the whole world here, so symbolic links in the guest cannot lead out of it;
// names that climb out of dir are refused all the same.
func copyIn(dir string, r io.Reader) error {
	if info, err := os.Stat(dir); err != nil {
		return err
	} else if !info.IsDir() {
		return &os.PathError{Op: "copy", Path: dir, Err: unix.ENOTDIR}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	in := tar.NewReader(r)
	for {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", unix.EINVAL, err)
		}
		if err := extract(root, header, in); err != nil {
			return err
		}
	}
}

// extract makes one entry of a tar.
func extract(root *os.Root, h *tar.Header, data io.Reader) error {
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	if name == "" {
		return nil // the directory itself
	}
	if !filepath.IsLocal(name) {
		return fmt.Errorf("%w: the archive's name %q", unix.EINVAL, h.Name)
	}
	if parent := path.Dir(name); parent != "." {
		if err := root.MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	mode := h.FileInfo().Mode()
	var err error
	switch h.Typeflag {
	case tar.TypeDir:
		if err = root.Mkdir(name, mode.Perm()); errors.Is(err, fs.ErrExist) {
			err = nil
		}
	case tar.TypeReg:
		err = extractFile(root, name, mode, data)
	case tar.TypeSymlink:
		_ = root.Remove(name)
		if err = root.Symlink(h.Linkname, name); err == nil {
			return root.Lchown(name, h.Uid, h.Gid)
		}
	case tar.TypeLink:
		_ = root.Remove(name)
		return root.Link(strings.TrimPrefix(path.Clean("/"+h.Linkname), "/"), name)
	case tar.TypeXGlobalHeader:
		return nil
	default:
		return fmt.Errorf("%w: %s is neither file, directory nor link", unix.EINVAL, h.Name)
	}
	return errors.Join(err, root.Lchown(name, h.Uid, h.Gid), root.Chmod(name, mode.Perm()|mode&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)),
		root.Chtimes(name, h.ModTime, h.ModTime))
}

func extractFile(root *os.Root, name string, mode fs.FileMode, data io.Reader) error {
	file, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode.Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(file, data)
	return errors.Join(err, file.Close())
}

// copyOut packs a file or directory. Names begin with the last element of path.
func copyOut(name string, w io.Writer) error {
	name = filepath.Clean(name)
	fd, err := unix.Open(name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "copy", Path: name, Err: err}
	}
	defer unix.Close(fd)
	out := tar.NewWriter(w)
	if err := pack.Tree(context.Background(), out, fd, strings.TrimPrefix(filepath.Base(name), "/"), pack.Options{}); err != nil {
		return err
	}
	return out.Close()
}
