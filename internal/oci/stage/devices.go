package stage

import (
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/program"
)

// makeDevice creates a device node, or places that of the host where the user
// namespace forbids mknod.
func (c *initCode) makeDevice(d *Device) {
	if d.File != None {
		target := c.target
		c.ensure(d.Path, false, target)
		c.guard(target, d.Path)
		c.place(c.file(d.File), target)
		c.close(target)
		c.close(c.file(d.File))
		return
	}
	dir := c.target
	c.ensure(filepath.Dir(d.Path), true, dir)
	kind := map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}[d.Type]
	dev := uint64(0)
	if kind != unix.S_IFIFO {
		dev = unix.Mkdev(uint32(d.Major), uint32(d.Minor))
	}
	name := c.String(filepath.Base(strings.TrimRight(d.Path, "/"))).Arg()
	exists, done := c.NewLabel(), c.NewLabel()
	c.Call("mknod", unix.SYS_MKNODAT, dir.Value(), name, program.N(kind|d.Mode), program.N(dev)).Catch(unix.EEXIST, exists)
	c.Call("chown", unix.SYS_FCHOWNAT, dir.Value(), name, program.N(d.UID), program.N(d.GID), program.N(unix.AT_SYMLINK_NOFOLLOW)).Jump(done)
	c.Here(exists)
	// A node that the image brings is accepted only if it is the wanted device.
	const other = `the image has another file there (config-linux.md: "If a file already exists at path that does not match the requested device, the runtime MUST generate an error")`
	c.Call("fstatat", sysFstatat, dir.Value(), name, c.stat.Arg(), program.N(unix.AT_SYMLINK_NOFOLLOW))
	c.Check(c.stat.At(offsetMode), unix.S_IFMT, kind, other)
	if kind != unix.S_IFIFO {
		c.Check(c.stat.At(offsetRdev), allBits, uint32(dev), other)
	}
	c.Here(done)
	c.close(dir)
}

// makeLinks makes the default symbolic links of /dev (config-linux.md, Default
// Devices). What the image has there stays.
func (c *initCode) makeLinks() {
	dir, open := c.target, ""
	for _, l := range c.plan.Links {
		c.In("symbolic link "+l.Path, func() {
			if in := filepath.Dir(l.Path); in != open {
				c.close(dir)
				c.ensure(in, true, dir)
				open = in
			}
			c.Call("symlinkat", unix.SYS_SYMLINKAT, c.String(l.Target).Arg(), dir.Value(), c.String(filepath.Base(l.Path)).Arg()).Ignore(unix.EEXIST)
		})
	}
	c.close(dir)
}
