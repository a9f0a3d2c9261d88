package guest

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
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
	out := tar.NewWriter(w)
	parent := filepath.Dir(filepath.Clean(name))
	err := filepath.WalkDir(filepath.Clean(name), func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		within, err := filepath.Rel(parent, file)
		if err != nil {
			return err
		}
		return pack(out, file, within)
	})
	return errors.Join(err, out.Close())
}

// pack adds one file to a tar. Sockets are left out: tar has no word for them.
func pack(out *tar.Writer, file, name string) error {
	info, err := os.Lstat(file)
	if errors.Is(err, fs.ErrNotExist) && strings.Contains(name, "/") {
		return nil // gone since its directory was read
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket != 0 {
		return nil
	}
	link := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if link, err = os.Readlink(file); err != nil {
			return err
		}
	}
	header, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	header.Name = name
	if info.IsDir() {
		header.Name += "/"
	}
	// Names are the reader's own affair; package os/user is not linked in.
	header.Uname, header.Gname = "", ""
	if err := out.WriteHeader(header); err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	// A file that grows or shrinks while it is read keeps the size of its header.
	n, err := io.CopyN(out, in, info.Size())
	if errors.Is(err, io.EOF) {
		_, err = io.CopyN(out, zeros{}, info.Size()-n)
	}
	return err
}

// zeros reads zeros.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
