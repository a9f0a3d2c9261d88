package stage

import (
	"fmt"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/program"
)

// initCode is the first part for a container's first process.
type initCode struct {
	*code
	plan     *Init
	root     program.Slot
	hostNull program.Slot // /dev/null of the host, verified; only with masked paths
	devpts   program.Slot // the container's /dev/pts, or unset
	late     []program.Slot

	target, cover program.Slot // at work
	directories   []directory
}

// filesystem makes the container's mounts, devices and links.
func (c *initCode) filesystem() {
	c.root = c.file(c.plan.RootFile)
	c.openNull()
	c.attachRoot()
	for i := range c.plan.Mounts {
		m := &c.plan.Mounts[i]
		c.In(fmt.Sprintf("%s (%s)", m.Field, m.Dest), func() { c.placeMount(m) })
	}
	for i := range c.plan.Devices {
		d := &c.plan.Devices[i]
		c.In(fmt.Sprintf("%s (%s)", d.Field, d.Path), func() { c.makeDevice(d) })
	}
	c.makeLinks()
	c.makeCwd()
	c.console()
	if c.plan.HookRound {
		c.Say(program.Prepared, "")
		c.Await(c.gone)
	}
	c.maskPaths()
	c.readOnlyPaths()
	c.lateReadOnly()
	if c.plan.CreateContainer {
		c.help(nil)
	}
}

// openNull opens the host's null device, for masked paths, while it can be reached.
func (c *initCode) openNull() {
	if len(c.plan.Masked) == 0 {
		return
	}
	c.hostNull = c.Slot(-1)
	c.In("the host's /dev/null", func() {
		at := unix.AT_FDCWD
		c.Call("open", unix.SYS_OPENAT, program.N(at), c.String("/dev/null").Arg(), program.N(unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC)).Store(c.hostNull)
		c.fstat(c.hostNull)
		c.Check(c.stat.At(offsetMode), unix.S_IFMT, unix.S_IFCHR, "is not the null device")
		c.Check(c.stat.At(offsetRdev), allBits, uint32(unix.Mkdev(1, 3)), "is not the null device")
	})
}

func (c *initCode) attachRoot() {
	if c.plan.Chroot {
		return
	}
	// Nothing that a hook mounts may reach the host; what the host mounts may still
	// arrive where a bind mount is a slave. A bind mount that is to be shared must find
	// its source shared.
	if !slices.ContainsFunc(c.plan.Mounts, sharesMounts) {
		c.propagate("make the host's mounts slaves", "/", unix.MS_REC|unix.MS_SLAVE)
	}
	// pivot_root wants the parents of both roots not shared.
	c.propagate("make / private", "/", unix.MS_PRIVATE)
	at := unix.AT_FDCWD
	c.Call("root filesystem: move_mount", unix.SYS_MOVE_MOUNT, c.root.Value(), c.empty(), program.N(at), c.String("/").Arg(), program.N(unix.MOVE_MOUNT_F_EMPTY_PATH))
}

func sharesMounts(m Mount) bool { return m.Bind != nil && m.Bind.Prop&unix.MS_SHARED != 0 }

func (c *code) propagate(text, path string, flags uintptr) {
	c.Call(text, unix.SYS_MOUNT, c.empty(), c.String(path).Arg(), c.empty(), program.N(flags), c.empty())
}

// switchRoot leaves the host's tree for good.
func (c *initCode) switchRoot() {
	c.Call("root filesystem", unix.SYS_FCHDIR, c.root.Value())
	if c.plan.Chroot || c.plan.NoPivot {
		c.Call("chroot", unix.SYS_CHROOT, c.String(".").Arg())
		c.Call("chdir", unix.SYS_CHDIR, c.String("/").Arg())
		return
	}
	// The old root ends up mounted on the new one and is detached from there: no
	// directory is needed for it. "." then still is the new one, whose mounts keep the
	// propagation they were given.
	old, at := c.Slot(-1), unix.AT_FDCWD
	c.Call("the old root", unix.SYS_OPENAT, program.N(at), c.String("/").Arg(), program.N(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC)).Store(old)
	c.Call("pivot_root", unix.SYS_PIVOT_ROOT, c.String(".").Arg(), c.String(".").Arg())
	c.Call("the old root", unix.SYS_FCHDIR, old.Value())
	c.propagate("make the old root a slave", ".", unix.MS_SLAVE|unix.MS_REC)
	c.Call("unmount the old root", unix.SYS_UMOUNT2, c.String(".").Arg(), program.N(unix.MNT_DETACH))
	c.Call("chdir", unix.SYS_CHDIR, c.String("/").Arg())
	if prop := c.plan.RootProp; prop != 0 {
		c.propagate("propagation of /", "/", uintptr(prop))
	}
}

// makeCwd creates the working directory where the image lacks it, as runc does. On a
// read-only or foreign root it cannot be made; chdir has the last word.
func (c *initCode) makeCwd() {
	cwd := filepath.Clean(c.proc.Cwd)
	if c.plan.Chroot || cwd == "/" {
		return
	}
	done := c.NewLabel()
	c.Try(done, func() {
		dir := c.Slot(-1)
		c.ensure(cwd, true, dir)
		c.close(dir)
	})
	c.Here(done)
}
