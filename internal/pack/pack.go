// Package pack writes a tree of files as a tar stream.
//
// Whoever owns the tree may change it meanwhile: every file is reached from its
// directory's descriptor and none through a symbolic link, so that the stream holds
// files of the tree and no others (CVE-2018-15664). What is read is what the tree was
// at that moment; to have it whole, hold its owner still.
package pack

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Options say what of a tree is written, and how.
type Options struct {
	// Owner returns the ids in the stream of those on disk. Nil leaves them.
	Owner func(uid, gid uint32) (int, int)
	// Image says that the stream is the layer of an OCI image: with devices, hard links
	// and the extended attributes that an image keeps.
	Image bool
	// Upper is Image for the upper directory of an overlay: what that says is deleted
	// becomes whiteouts.
	Upper bool
	// Empty tells of regular files that are written without their content. Nil: none.
	Empty func(name string) bool
	// Leave tells of names that are left out, with what is below them. Nil leaves none.
	Leave func(name string) bool
	// Names writes the headers alone.
	Names bool
	// Root writes the directory itself too where it has no name, as "./".
	Root bool
	// Exact keeps times to the nanosecond, for which each header takes a record more.
	Exact bool
}

// Tree writes what fd names, which may be an O_PATH descriptor, and what is below it.
// Names begin with name; with "" the directory fd itself is left out. It does not
// write the end of the stream. Sockets are left out: tar has no word for them.
func Tree(ctx context.Context, w *tar.Writer, fd int, name string, o Options) error {
	o.Image = o.Image || o.Upper
	p := packer{ctx: ctx, w: w, Options: o}
	if o.Image {
		p.links = map[inode]string{}
	}
	return p.pack(fd, name)
}

// packer writes one tree.
type packer struct {
	Options
	ctx   context.Context
	w     *tar.Writer
	links map[inode]string // Image: the first name of files with several
}

// inode names a file, whatever it is called. Each subvolume of a btrfs counts its own.
type inode struct{ dev, ino uint64 }

// pack writes what fd names, and below it, as name.
func (p *packer) pack(fd int, name string) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	hdr := &tar.Header{Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid), ModTime: time.Unix(st.Mtim.Unix())}
	if p.Exact {
		hdr.Format = tar.FormatPAX
	} else {
		hdr.ModTime = hdr.ModTime.Truncate(time.Second) // as others write it: package tar would round up
	}
	if p.Owner != nil {
		hdr.Uid, hdr.Gid = p.Owner(st.Uid, st.Gid)
	}
	if p.Image {
		if done, err := p.mark(fd, &st, hdr); done || err != nil {
			return err
		}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return p.dir(fd, hdr)
	case unix.S_IFREG:
		hdr.Typeflag, hdr.Size = tar.TypeReg, st.Size
		return p.file(fd, hdr)
	case unix.S_IFLNK:
		target, err := readlink(fd)
		if err != nil {
			return err
		}
		hdr.Typeflag, hdr.Linkname = tar.TypeSymlink, target
		return p.w.WriteHeader(hdr)
	case unix.S_IFIFO:
		hdr.Typeflag = tar.TypeFifo
		return p.w.WriteHeader(hdr)
	case unix.S_IFCHR, unix.S_IFBLK:
		return p.device(&st, hdr)
	}
	return nil
}

// device writes a device of a layer. In any other tree it means nothing elsewhere.
func (p *packer) device(st *unix.Stat_t, hdr *tar.Header) error {
	if !p.Image {
		return nil
	}
	hdr.Typeflag = tar.TypeChar
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		hdr.Typeflag = tar.TypeBlock
	}
	hdr.Devmajor, hdr.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	return p.w.WriteHeader(hdr)
}

func readlink(fd int) (string, error) {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", b)
	return string(b[:max(n, 0)]), err
}

func (p *packer) dir(fd int, hdr *tar.Header) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return err
	}
	if fs.Type == unix.PROC_SUPER_MAGIC || fs.Type == unix.SYSFS_MAGIC {
		return nil // not files but views of the kernel, and without end
	}
	prefix := hdr.Name
	if prefix != "" || p.Root {
		hdr.Typeflag, hdr.Name = tar.TypeDir, cmp.Or(prefix, ".")+"/"
		if err := p.w.WriteHeader(hdr); err != nil {
			return err
		}
	}
	if p.Upper {
		if err := p.opaque(fd, prefix); err != nil {
			return err
		}
	}
	names, err := list(fd)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := p.child(fd, prefix, name); err != nil {
			return err
		}
	}
	return nil
}

// list returns the names in a directory, in an order that does not change.
func list(fd int) ([]string, error) {
	open, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	dir := os.NewFile(uintptr(open), "directory")
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

func (p *packer) child(dir int, prefix, name string) error {
	full := name
	if prefix != "" {
		full = prefix + "/" + name
	}
	if p.Leave != nil && p.Leave(full) {
		return nil
	}
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil // removed meanwhile
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return at(full, p.pack(fd, full))
}

// at says of an error that does not say it yet which file it is about.
func at(name string, err error) error {
	if _, ok := errors.AsType[*os.PathError](err); err == nil || ok {
		return err
	}
	return &os.PathError{Op: "pack", Path: name, Err: err}
}

// file writes exactly the bytes announced: what a file gains meanwhile is left out,
// what it loses becomes zeros.
func (p *packer) file(fd int, hdr *tar.Header) error {
	if p.Names || p.Empty != nil && p.Empty(hdr.Name) {
		hdr.Size = 0
		return p.w.WriteHeader(hdr)
	}
	// The descriptor names a regular file: opening it through /proc has no effects.
	f, err := os.Open(self(fd))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := p.w.WriteHeader(hdr); err != nil {
		return err
	}
	n, err := io.CopyN(p.w, f, hdr.Size)
	if errors.Is(err, io.EOF) {
		_, err = io.CopyN(p.w, zeros{}, hdr.Size-n)
	}
	return err
}

// self is a path of what a descriptor names.
func self(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// zeros is an endless stream of them.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
