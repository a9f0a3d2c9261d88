package stage

import (
	"encoding/binary"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/mount"
	"github.com/berthcloud/berth/internal/oci/program"
)

// code is a segment in the making.
type code struct {
	*program.Builder
	proc    *Process
	files   []program.Slot // what the runtime sent
	stat    program.Ref    // for struct stat
	fs      program.Ref    // for struct statfs
	hows    map[unix.OpenHow]program.Ref
	gone    program.Label // where the process ends that the runtime has left alone
	path    program.Ref   // for a path of the kernel's
	label   program.Slot  // the open file of the label, see openLabel, or noSlot
	entered program.Slot  // whether the working directory has been entered
	domain  program.Slot  // the ruleset of the Landlock domain, see makeDomain
}

func newCode(s program.Segment, p *Process) *code {
	c := &code{Builder: program.New(s), proc: p, hows: map[unix.OpenHow]program.Ref{}}
	c.stat, c.fs = c.Space(int(sizeofStat)), c.Space(int(sizeofStatfs))
	c.path = c.Space(unix.PathMax)
	c.gone = c.NewLabel()
	return c
}

// end closes the segment.
func (c *code) end() *program.Builder {
	c.Here(c.gone)
	c.Call("exit_group", unix.SYS_EXIT_GROUP, program.N(1))
	return c.Builder
}

// file returns the slot of a descriptor that the runtime sent.
func (c *code) file(index int) program.Slot { return c.files[index] }

// allBits is the mask that leaves a word as it is.
const allBits = ^uint32(0)

// noSlot is a slot that there is none of.
const noSlot program.Slot = 0

// empty is the path that stands for the descriptor itself.
func (c *code) empty() program.Arg { return c.String("").Arg() }

func (c *code) close(fd program.Slot) { c.Call("close", unix.SYS_CLOSE, fd.Value()).Ignore() }

// fstat fills c.stat.
func (c *code) fstat(fd program.Slot) {
	c.Call("fstat", unix.SYS_FSTAT, fd.Value(), c.stat.Arg())
}

// open adds an openat2.
func (c *code) open(text string, dir program.Slot, path string, how unix.OpenHow) program.Call {
	at, ok := c.hows[how]
	if !ok {
		var b []byte
		for _, v := range [...]uint64{how.Flags, how.Mode, how.Resolve} {
			b = binary.NativeEndian.AppendUint64(b, v)
		}
		at = c.Bytes(b)
		c.hows[how] = at
	}
	return c.Call(text, unix.SYS_OPENAT2, dir.Value(), c.String(path).Arg(), at.Arg(), program.N(unix.SizeofOpenHow))
}

// openIn opens a path inside the container's root, as mount.Root does from outside.
func (c *initCode) openIn(text, path string, flags int, resolve uint64) program.Call {
	return c.open(text, c.root, path, unix.OpenHow{
		Flags:   uint64(flags | unix.O_PATH | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | resolve,
	}).Retry(unix.EAGAIN) // someone renamed or mounted meanwhile
}

// ensure opens the directory or file at a path in the container's root (O_PATH),
// creating what is missing.
func (c *initCode) ensure(path string, dir bool, into program.Slot) {
	path = filepath.Clean("/" + path)
	if path == "/" {
		c.openIn(path, path, unix.O_DIRECTORY, 0).Store(into)
		return
	}
	absent, file, done := c.NewLabel(), c.NewLabel(), c.NewLabel()
	if dir {
		c.openIn(path, path, unix.O_DIRECTORY, 0).Store(into).Catch(unix.ENOENT, absent).Jump(done)
	} else {
		c.openIn(path, path, 0, 0).Store(into).Catch(unix.ENOENT, absent)
		c.fstat(into)
		c.Test(c.stat.At(offsetMode), unix.S_IFMT, unix.S_IFDIR, done)
		c.Here(file)
		c.Fail(1, path+": is a directory")
	}
	c.Here(absent)
	c.create(path, dir, into)
	c.Here(done)
}

// directory is a subroutine that opens a directory, creating what is missing: more than
// one path needs it, and hardly any container runs it.
type directory struct {
	path   string
	rescue program.Label // see Builder.Try: another one is another subroutine
	begin  program.Label
	back   program.Slot
	opened program.Slot
}

// parent opens the directory that a path is in, and returns where.
func (c *initCode) parent(path string) program.Slot {
	dir := filepath.Dir(path)
	for _, d := range c.directories {
		if d.path == dir && d.rescue == c.Rescue() {
			c.Enter(d.begin, d.back)
			return d.opened
		}
	}
	d := directory{dir, c.Rescue(), c.NewLabel(), c.Slot(0), c.Slot(-1)}
	c.directories = append(c.directories, d)
	c.Enter(d.begin, d.back)
	return d.opened
}

// subroutines adds those that are used, which may use further ones.
func (c *initCode) subroutines() {
	for i := 0; i < len(c.directories); i++ {
		d := c.directories[i]
		c.Try(d.rescue, func() {
			c.Here(d.begin)
			absent := c.NewLabel()
			call := c.openIn(d.path, d.path, unix.O_DIRECTORY, 0).Store(d.opened)
			if d.path != "/" {
				call.Catch(unix.ENOENT, absent)
				c.Return(d.back)
				c.Here(absent)
				c.create(d.path, true, d.opened)
			}
			c.Return(d.back)
		})
	}
}

// create makes the last element of a path, and its directory where missing. The calls
// used follow no symbolic link there: a dangling one is an error.
func (c *initCode) create(path string, dir bool, into program.Slot) {
	parent := c.parent(path)
	text, name := path+": cannot be created", c.String(filepath.Base(path)).Arg()
	flags := unix.O_PATH | unix.O_CLOEXEC
	// EEXIST: someone was quicker, which open judges.
	if dir {
		flags |= unix.O_DIRECTORY
		c.Call(text, unix.SYS_MKDIRAT, parent.Value(), name, program.N(0o755)).Ignore(unix.EEXIST)
	} else {
		c.Call(text, unix.SYS_MKNODAT, parent.Value(), name, program.N(unix.S_IFREG|0o644), program.N(0)).Ignore(unix.EEXIST)
	}
	link, done := c.NewLabel(), c.NewLabel()
	c.open(path, parent, filepath.Base(path), unix.OpenHow{
		Flags:   uint64(flags),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	}).Store(into).Retry(unix.EAGAIN).Catch(unix.ELOOP, link).Jump(done)
	c.Here(link)
	c.Fail(1, path+": is a symbolic link that leads nowhere")
	c.Here(done)
	c.close(parent)
}

// clone makes a detached clone of the mount, or of the part of it, that a descriptor
// names.
func (c *code) clone(text string, fd program.Slot, flags int, to program.Slot) program.Call {
	return c.Call(text, unix.SYS_OPEN_TREE, fd.Value(), c.empty(), program.N(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|flags)).Store(to)
}

// change gives a mount attributes and a propagation.
func (c *code) change(text string, mnt program.Slot, ch mount.Change) {
	c.Call(text, unix.SYS_MOUNT_SETATTR, mnt.Value(), c.empty(), program.N(ch.Flags|unix.AT_EMPTY_PATH), c.mountAttr(&ch.Attr).Arg(), program.N(unix.MOUNT_ATTR_SIZE_VER0))
}

// place attaches a detached mount to a target.
func (c *code) place(mnt, target program.Slot) {
	c.Call("move_mount", unix.SYS_MOVE_MOUNT, mnt.Value(), c.empty(), target.Value(), c.empty(), program.N(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH))
}

func (c *code) mountAttr(a *unix.MountAttr) program.Ref {
	var b []byte
	for _, v := range [...]uint64{a.Attr_set, a.Attr_clr, a.Propagation, a.Userns_fd} {
		b = binary.NativeEndian.AppendUint64(b, v)
	}
	return c.Bytes(b)
}
