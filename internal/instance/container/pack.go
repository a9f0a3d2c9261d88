package container

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// packer writes files of a container to a tar stream.
type packer struct {
	w     *tar.Writer
	first int // host id of the container's 0
}

// pack writes what fd (O_PATH) names, and below it, as name.
func (p *packer) pack(ctx context.Context, fd int, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	hdr := &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: p.id(st.Uid), Gid: p.id(st.Gid), ModTime: time.Unix(st.Mtim.Unix()),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return p.dir(ctx, fd, hdr)
	case unix.S_IFREG:
		hdr.Typeflag, hdr.Size = tar.TypeReg, st.Size
		return p.file(fd, hdr)
	case unix.S_IFLNK:
		b := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(fd, "", b)
		if err != nil {
			return err
		}
		hdr.Typeflag, hdr.Linkname = tar.TypeSymlink, string(b[:n])
		return p.w.WriteHeader(hdr)
	case unix.S_IFIFO:
		hdr.Typeflag = tar.TypeFifo
		return p.w.WriteHeader(hdr)
	}
	return nil // sockets and devices mean nothing elsewhere
}

// id returns the id in the container of one on the host.
func (p *packer) id(host uint32) int {
	if n := int(host) - p.first; n >= 0 {
		return n
	}
	return 0
}

func (p *packer) dir(ctx context.Context, fd int, hdr *tar.Header) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return err
	}
	if fs.Type == unix.PROC_SUPER_MAGIC || fs.Type == unix.SYSFS_MAGIC {
		return nil // not files but views of the kernel, and without end
	}
	if hdr.Name != "" {
		named := *hdr
		named.Typeflag, named.Name = tar.TypeDir, hdr.Name+"/"
		if err := p.w.WriteHeader(&named); err != nil {
			return err
		}
	}
	list, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(list), hdr.Name)
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := p.child(ctx, fd, hdr.Name, name); err != nil {
			return err
		}
	}
	return nil
}

func (p *packer) child(ctx context.Context, dir int, prefix, name string) error {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil // removed meanwhile
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if prefix != "" {
		name = prefix + "/" + name
	}
	if err := p.pack(ctx, fd, name); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// file writes exactly the bytes announced: what a file gains meanwhile is left out,
// what it loses becomes zeros.
func (p *packer) file(fd int, hdr *tar.Header) error {
	// The descriptor names a regular file: opening it through /proc has no effects.
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
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

// zeros is an endless stream of them.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// writeAll writes content to fd and closes it.
func writeAll(fd int, content io.Reader) error {
	f := os.NewFile(uintptr(fd), "file")
	_, err := io.Copy(f, content)
	return errors.Join(err, f.Close())
}
