package stage

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/mount"
	"github.com/berthcloud/berth/internal/oci/program"
)

// placeMount puts a mount of the plan into the root.
func (c *initCode) placeMount(m *Mount) {
	dest := filepath.Clean("/" + m.Dest)
	mode := c.inheritedMode(m, dest)
	mnt, target := c.Slot(-1), c.target
	switch {
	case m.Bind != nil:
		c.bind(m, dest, mnt, target)
	case m.File != None:
		mnt = c.file(m.File)
		c.findTarget(m, dest, m.Dir, target)
	default:
		c.findTarget(m, dest, m.Dir, target)
		c.newFilesystem(m, target, mnt)
		c.setMode(mnt, mode)
	}
	c.place(mnt, target)
	c.close(target)
	switch {
	case m.Type == "devpts" && dest == "/dev/pts":
		c.devpts = mnt // kept open for the console
	case m.LateRO:
		c.late = append(c.late, mnt)
	default:
		c.close(mnt)
	}
}

// bind clones what is to be bound, and finds the target of its kind.
func (c *initCode) bind(m *Mount, dest string, mnt, target program.Slot) {
	flags := unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC
	if m.Bind.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	at := unix.AT_FDCWD
	c.Call("source "+m.Source, unix.SYS_OPEN_TREE, program.N(at), c.String(m.Source).Arg(), program.N(flags)).Store(mnt)
	for _, ch := range m.Bind.Changes() {
		c.change("mount_setattr", mnt, ch)
	}
	file, done := c.NewLabel(), c.NewLabel()
	c.fstat(mnt)
	c.Test(c.stat.At(offsetMode), unix.S_IFMT, unix.S_IFDIR, file)
	c.findTarget(m, dest, true, target)
	c.Jump(done)
	c.Here(file)
	c.findTarget(m, dest, false, target)
	c.Here(done)
}

// inheritedMode finds the mode for a tmpfs that names none, that of the directory it
// hides, as runc does and "docker run --tmpfs /etc" relies on. Where there is none yet,
// the kernel's own default stands: 1777. The slot keeps a negative number then.
func (c *initCode) inheritedMode(m *Mount, dest string) program.Slot {
	if m.Type != "tmpfs" || m.File != None || hasOption(m.Data, "mode=") {
		return noSlot
	}
	// The mode of a directory, S_IFDIR and all, never is the number that says "none".
	mode, fd, none := c.Space(int(sizeofStat)), c.Slot(-1), c.NewLabel()
	slot := program.Slot(mode.At(offsetMode))
	c.Set(slot, -1)
	c.Try(none, func() { // findTarget has the last word
		c.openIn("openat2", dest, 0, 0).Store(fd)
		c.Call("fstat", unix.SYS_FSTAT, fd.Value(), mode.Arg())
		c.close(fd)
	})
	c.Here(none)
	return slot
}

func (c *initCode) setMode(mnt, mode program.Slot) {
	if mode == noSlot {
		return
	}
	set, done := c.NewLabel(), c.NewLabel()
	c.TestSlot(mode, -1, set)
	c.Jump(done)
	c.Here(set)
	c.Call("fchmodat", unix.SYS_FCHMODAT, mnt.Value(), c.String(".").Arg(), mode.Value())
	c.Here(done)
}

func hasOption(options []string, name string) bool {
	return slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, name) })
}

// findTarget finds or makes the directory or file that the mount goes onto.
func (c *initCode) findTarget(m *Mount, dest string, dir bool, into program.Slot) {
	c.ensure(dest, dir, into)
	if m.Type == "proc" || m.Type == "sysfs" {
		// Later steps trust these paths: an image must not lead them elsewhere by a
		// symbolic link (CVE-2019-19921).
		c.close(into)
		c.openIn("must be a directory, not a symbolic link", dest, unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS).Store(into)
	}
	if m.Type != "proc" {
		c.guard(into, dest)
	}
}

// guard is mount.Guard.
func (c *initCode) guard(target program.Slot, path string) {
	if strings.HasPrefix(path, "/proc/") {
		return // named as such: package bundle has an allow-list
	}
	good := c.NewLabel()
	c.Call("fstatfs", unix.SYS_FSTATFS, target.Value(), c.fs.Arg())
	c.Test(c.fs.At(offsetType), allBits, unix.PROC_SUPER_MAGIC, good)
	c.Fail(1, path+": leads into /proc")
	c.Here(good)
}

func (c *initCode) newFilesystem(m *Mount, target, mnt program.Slot) {
	c.makeFilesystem(m.Type, m.Source, m.Attr, m.Data, mnt)
	if m.CopyUp {
		c.help(func() {
			c.Call("dup3", unix.SYS_DUP3, target.Value(), program.N(1), program.N(0))
			c.Call("dup3", unix.SYS_DUP3, mnt.Value(), program.N(2), program.N(0))
		})
	}
	if m.Prop != 0 {
		for _, ch := range (&mount.Options{Prop: m.Prop}).Changes() {
			c.change("mount_setattr", mnt, ch)
		}
	}
}

// makeFilesystem is mount.Filesystem: it belongs to the namespaces of the process.
func (c *initCode) makeFilesystem(fstype, source string, attr uint64, data []string, mnt program.Slot) {
	fs := c.Context()
	unknown, known := c.NewLabel(), c.NewLabel()
	c.Call("fsopen "+fstype, unix.SYS_FSOPEN, c.String(fstype).Arg(), program.N(unix.FSOPEN_CLOEXEC)).Store(fs).Catch(unix.ENODEV, unknown).Jump(known)
	c.Here(unknown)
	c.Set(fs, -1)
	c.Fail(1, fmt.Sprintf("type %q: the kernel does not know this filesystem", fstype))
	c.Here(known)
	if source != "" {
		c.configure(fmt.Sprintf("source %q", source), unix.FSCONFIG_SET_STRING, c.String("source").Arg(), c.String(source).Arg())
	}
	for _, d := range data {
		text := fmt.Sprintf("option %q", d)
		if key, value, ok := strings.Cut(d, "="); ok {
			c.configure(text, unix.FSCONFIG_SET_STRING, c.String(key).Arg(), c.String(value).Arg())
		} else {
			c.configure(text, unix.FSCONFIG_SET_FLAG, c.String(key).Arg(), program.N(0))
		}
	}
	c.configure("type "+fstype, unix.FSCONFIG_CMD_CREATE, program.N(0), program.N(0))
	c.Call("type "+fstype+": fsmount", unix.SYS_FSMOUNT, fs.Value(), program.N(unix.FSMOUNT_CLOEXEC), program.N(attr)).Store(mnt)
	c.close(fs)
	c.Set(fs, -1)
}

func (c *initCode) configure(text string, command int, key, value program.Arg) {
	c.Call(text, unix.SYS_FSCONFIG, c.Context().Value(), program.N(command), key, value, program.N(0))
}
