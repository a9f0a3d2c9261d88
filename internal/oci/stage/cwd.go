package stage

import (
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/program"
)

// enterCwd goes to the working directory. Where only the user may, finish does it.
func (c *code) enterCwd() {
	c.entered = c.Slot(0)
	later := c.NewLabel()
	c.In("process.cwd", func() {
		c.Call(c.proc.Cwd, unix.SYS_CHDIR, c.String(c.proc.Cwd).Arg()).Catch(unix.EACCES, later)
		c.checkCwd()
	})
	c.Set(c.entered, 1)
	c.Here(later)
}

// checkCwd refuses a working directory outside of the root: the kernel puts
// "(unreachable)" before its path (getcwd(2), CVE-2024-21626).
func (c *code) checkCwd() {
	text := c.proc.Cwd + " leads out of the container's root filesystem"
	c.Call(text, unix.SYS_GETCWD, c.path.Arg(), program.N(unix.PathMax))
	c.Check(c.path, 0xff, '/', text)
}

// enterCwdAsUser enters a working directory that only the user may enter.
func (c *code) enterCwdAsUser() {
	there := c.NewLabel()
	c.TestSlot(c.entered, 1, there)
	skip := c.NewLabel()
	c.Jump(skip)
	c.Here(there)
	c.In("process.cwd", func() {
		c.Call(c.proc.Cwd, unix.SYS_CHDIR, c.String(c.proc.Cwd).Arg())
		c.checkCwd()
	})
	c.Here(skip)
}
