package disk

import (
	"fmt"
	"io"
	"io/fs"
)

// Cpio writes an initramfs: a cpio archive in the "newc" format, as
// Documentation/driver-api/early-userspace/buffer-format.rst of the kernel
// describes it. Owners are root, times zero: the same input gives the same
// bytes. Errors are kept and returned by Close.
type Cpio struct {
	w   io.Writer
	n   int64
	ino int
	err error
}

// NewCpio begins an archive on w.
func NewCpio(w io.Writer) *Cpio { return &Cpio{w: w} }

// Dir adds a directory. Parents come before their children.
func (c *Cpio) Dir(name string, perm fs.FileMode) { c.entry(name, 0o040000|perm.Perm(), 0, nil, 0) }

// File adds a regular file of exactly size bytes, read from r.
func (c *Cpio) File(name string, perm fs.FileMode, r io.Reader, size int64) {
	c.entry(name, 0o100000|perm.Perm(), size, r, 0)
}

// Char adds a character device.
func (c *Cpio) Char(name string, perm fs.FileMode, major, minor uint8) {
	c.entry(name, 0o020000|perm.Perm(), 0, nil, int(major)<<8|int(minor))
}

// Close ends the archive. It does not close the writer.
func (c *Cpio) Close() error {
	c.entry("TRAILER!!!", 0, 0, nil, 0)
	return c.err
}

func (c *Cpio) entry(name string, mode fs.FileMode, size int64, r io.Reader, rdev int) {
	if c.err != nil {
		return
	}
	if size < 0 || size > 0xffffffff {
		c.err = fmt.Errorf("cpio: %s: %d bytes do not fit the format", name, size)
		return
	}
	c.ino++
	// magic, ino, mode, uid, gid, nlink, mtime, filesize, maj, min, rmaj, rmin, namesize, chksum
	c.write(fmt.Appendf(nil, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		c.ino, uint32(mode), 0, 0, 1, 0, size, 0, 0, rdev>>8, rdev&0xff, len(name)+1, 0))
	c.write(append([]byte(name), 0))
	c.pad()
	if r != nil && c.err == nil {
		n, err := io.CopyN(c.w, r, size)
		c.n += n
		if err != nil {
			c.err = fmt.Errorf("cpio: %s: %d of %d bytes: %w", name, n, size, noEOF(err))
			return
		}
	}
	c.pad()
}

// pad fills up to a multiple of four bytes.
func (c *Cpio) pad() {
	if n := c.n % 4; n != 0 {
		c.write(make([]byte, 4-n))
	}
}

func (c *Cpio) write(p []byte) {
	if c.err != nil {
		return
	}
	n, err := c.w.Write(p)
	c.n += int64(n)
	c.err = err
}
