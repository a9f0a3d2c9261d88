package stage

import (
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/mount"
	"github.com/berthcloud/berth/internal/oci/program"
)

// maskPaths hides files under /dev/null and directories under one empty,
// read-only tmpfs.
func (c *initCode) maskPaths() {
	if len(c.plan.Masked) == 0 {
		return
	}
	empty := c.Slot(-1)
	c.In("linux.maskedPaths", func() {
		c.makeFilesystem("tmpfs", "tmpfs", unix.MOUNT_ATTR_RDONLY, []string{"nr_inodes=1", "mode=000"}, empty)
	})
	for _, path := range c.plan.Masked {
		c.In("linux.maskedPaths: "+path, func() { c.maskPath(path, empty) })
	}
}

func (c *initCode) maskPath(path string, empty program.Slot) {
	target, cover := c.target, c.cover
	missing, file, unplaced, placed, done := c.NewLabel(), c.NewLabel(), c.NewLabel(), c.NewLabel(), c.NewLabel()
	// A file where a directory should be counts as missing, since nothing can be below it.
	c.openIn("openat2", path, 0, 0).Store(target).Catch(unix.ENOENT, missing).Catch(unix.ENOTDIR, missing)
	c.fstat(target)
	c.Test(c.stat.At(offsetMode), unix.S_IFMT, unix.S_IFDIR, file)
	// Before Linux 6.15 only a mount that is placed can be cloned: the first is itself.
	c.clone("open_tree", empty, 0, cover).Catch(unix.EINVAL, unplaced).Jump(placed)
	c.Here(unplaced)
	c.place(empty, target)
	c.Jump(done)
	c.Here(file)
	c.clone("open_tree", c.hostNull, 0, cover)
	c.Here(placed)
	c.place(cover, target)
	c.close(cover)
	c.Here(done)
	c.close(target)
	c.Here(missing)
}

// readOnlyPaths covers each path with a read-only bind mount of itself.
func (c *initCode) readOnlyPaths() {
	target, cover := c.target, c.cover
	for _, path := range c.plan.ReadOnly {
		c.In("linux.readonlyPaths: "+path, func() {
			missing := c.NewLabel()
			c.openIn("openat2", path, 0, 0).Store(target).Catch(unix.ENOENT, missing).Catch(unix.ENOTDIR, missing)
			c.clone("open_tree", target, unix.AT_RECURSIVE, cover)
			c.setReadOnly("mount_setattr", cover, unix.AT_RECURSIVE)
			c.place(cover, target)
			c.close(cover)
			c.close(target)
			c.Here(missing)
		})
	}
}

func (c *initCode) setReadOnly(text string, mnt program.Slot, flags uint) {
	c.change(text, mnt, mount.Change{Flags: flags, Attr: unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}})
}

// lateReadOnly makes read-only what had to take mount points first.
func (c *initCode) lateReadOnly() {
	for _, mnt := range c.late {
		c.setReadOnly("mount_setattr", mnt, 0)
		c.close(mnt)
	}
	if c.plan.RootRO && !c.plan.Chroot {
		c.setReadOnly("root.readonly: mount_setattr", c.root, 0)
	}
}
