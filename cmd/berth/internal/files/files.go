// Package files packs files of the host into a tar stream and unpacks one, for
// 'berth cp'. The stream may come from a hostile instance: nothing of it is
// ever written outside the directory the user named.
package files

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
)

// Pack writes a file, or a directory with all it holds, as a tar stream whose
// top is called name; "." leaves the top out. Everything belongs to root: the
// ids of this host mean nothing in an instance. Sockets are left out.
func Pack(w io.Writer, source, name string) error {
	tw := tar.NewWriter(w)
	err := filepath.WalkDir(source, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(source, p)
		if err != nil {
			return err
		}
		in := path.Join(name, filepath.ToSlash(rel))
		if in == "." || d.Type()&fs.ModeSocket != 0 {
			return nil
		}
		return pack(tw, p, in, d)
	})
	if err != nil {
		return fmt.Errorf("cp: %w", err)
	}
	return tw.Close()
}

// pack writes one file.
func pack(tw *tar.Writer, p, name string, d fs.DirEntry) error {
	st, err := d.Info()
	if err != nil {
		return err
	}
	link := ""
	if st.Mode()&fs.ModeSymlink != 0 {
		if link, err = os.Readlink(p); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(st, link)
	if err != nil {
		return err
	}
	h.Name = name
	if st.IsDir() {
		h.Name += "/"
	}
	h.Uid, h.Gid, h.Uname, h.Gname = 0, 0, "", ""
	if !st.Mode().IsRegular() {
		return tw.WriteHeader(h)
	}
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	// A file that grows meanwhile is cut; one that shrinks fails at the next
	// header, as tar's own does.
	_, err = io.Copy(tw, io.LimitReader(f, h.Size))
	return err
}

// Unpack reads a tar stream whose names begin with top into the directory dir,
// with top renamed; "." puts what top holds straight into dir. Files belong to
// the caller and lose their setuid and setgid bits. What exists is replaced;
// devices and FIFOs are refused.
//
// Every path is resolved beneath dir (os.Root), so that neither ".." nor a
// symbolic link of the stream leads out of it: docker's CVE-2019-14271 and
// podman's CVE-2019-10152 class.
func Unpack(r io.Reader, dir, top, rename string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("cp: %w", err)
	}
	defer root.Close()
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("cp: reading the tar stream: %w", err)
		}
		name, err := place(h.Name, top, rename)
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeLink {
			if h.Linkname, err = place(h.Linkname, top, rename); err != nil {
				return err
			}
		}
		if err := unpack(root, name, h, tr); err != nil {
			return fmt.Errorf("cp: %w", err)
		}
	}
}

// place says where a name of the stream goes beneath the directory.
func place(name, top, rename string) (string, error) {
	rest := strings.TrimPrefix(path.Clean("/"+name), "/")
	if top != "/" {
		var ok bool
		if rest, ok = strings.CutPrefix("/"+rest+"/", "/"+top+"/"); !ok || strings.Contains("/"+name+"/", "/../") {
			return "", fmt.Errorf("cp: the tar stream names %q, which is not below %q; it is not written", name, top)
		}
	}
	return path.Join(rename, rest), nil
}

// unpack writes one entry.
func unpack(root *os.Root, name string, h *tar.Header, r io.Reader) error {
	perm := h.FileInfo().Mode().Perm()
	if parent := path.Dir(name); parent != "." {
		if err := root.MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	if h.Typeflag == tar.TypeDir {
		if name == "." {
			return nil
		}
		if st, err := root.Lstat(name); err == nil && st.IsDir() {
			return nil
		}
		// Writable for the caller until its files are in it; and so it stays.
		return root.Mkdir(name, perm|0o700)
	}
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		return root.Chtimes(name, h.ModTime, h.ModTime)
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		return root.Link(h.Linkname, name)
	}
	return fmt.Errorf("%s is neither file, directory nor link; copy it as a tar stream with '-'", name)
}
