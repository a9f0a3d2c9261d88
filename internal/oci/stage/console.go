package stage

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/program"
)

// console gives a container with a terminal its /dev/console.
func (c *initCode) console() {
	if !c.proc.Terminal {
		return
	}
	if c.devpts == noSlot {
		c.Fail(1, "process.terminal: needs a mount of type devpts on /dev/pts")
		return
	}
	peer := c.Slot(-1)
	c.openTerminal(c.devpts, peer)
	target, mnt := c.Slot(-1), c.Slot(-1)
	c.ensure("/dev/console", false, target)
	c.guard(target, "/dev/console")
	c.In("/dev/console", func() {
		c.clone("open_tree", peer, 0, mnt)
		c.place(mnt, target)
	})
	c.close(mnt)
	c.close(target)
	c.takeTerminal(peer)
}

// execTerminal takes a terminal of the container's own devpts.
func (c *code) execTerminal() {
	if !c.proc.Terminal {
		return
	}
	dir, peer, at := c.Slot(-1), c.Slot(-1), unix.AT_FDCWD
	c.Call("process.terminal: the container's /dev/pts", unix.SYS_OPENAT, program.N(at), c.String("/dev/pts").Arg(),
		program.N(unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC)).Store(dir)
	c.Call("fstatfs", unix.SYS_FSTATFS, dir.Value(), c.fs.Arg())
	c.Check(c.fs.At(offsetType), allBits, unix.DEVPTS_SUPER_MAGIC, "process.terminal: the container's /dev/pts is not a devpts")
	c.openTerminal(dir, peer)
	c.close(dir)
	c.takeTerminal(peer)
}

// openTerminal opens a new terminal of a devpts and hands its master side to the
// runtime.
func (c *code) openTerminal(devpts, peer program.Slot) {
	c.In("process.terminal", func() {
		rights := c.Rights(1)
		master := rights.Files[0]
		c.open("/dev/pts/ptmx", devpts, "ptmx", unix.OpenHow{
			Flags:   unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
		}).Store(master)
		c.fstat(master)
		c.Check(c.stat.At(offsetRdev), allBits, uint32(unix.Mkdev(5, 2)), "/dev/pts/ptmx is not the terminal multiplexer")
		c.Call("TIOCSPTLCK", unix.SYS_IOCTL, master.Value(), program.N(unix.TIOCSPTLCK), c.Space(4).Arg())
		c.Call("TIOCGPTPEER", unix.SYS_IOCTL, master.Value(), program.N(unix.TIOCGPTPEER), program.N(unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)).Store(peer)
		if p := c.proc; p.Rows > 0 && p.Cols > 0 {
			var size []byte // struct winsize
			for _, v := range [...]uint16{p.Rows, p.Cols, 0, 0} {
				size = binary.NativeEndian.AppendUint16(size, v)
			}
			c.Call("TIOCSWINSZ", unix.SYS_IOCTL, peer.Value(), program.N(unix.TIOCSWINSZ), c.Bytes(size).Arg())
		}
		c.SayWith(program.Terminal, rights)
		c.close(master)
	})
}

// takeTerminal makes a terminal the standard streams, and the controlling terminal
// unless that is left to the workload.
func (c *code) takeTerminal(peer program.Slot) {
	if !c.proc.Console {
		c.Call("TIOCSCTTY", unix.SYS_IOCTL, peer.Value(), program.N(unix.TIOCSCTTY), program.N(0))
	}
	for fd := range 3 {
		c.Call("dup3", unix.SYS_DUP3, peer.Value(), program.N(fd), program.N(0))
	}
	c.close(peer)
}
