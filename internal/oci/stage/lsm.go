package stage

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/program"
)

// ownAttr opens the directory of the process's attributes in a procfs. "self" is a
// symbolic link of the procfs itself; what follows it must be neither link nor mount.
func (c *code) ownAttr(proc program.Slot) program.Slot {
	self, attr := c.Slot(-1), c.Slot(-1)
	if !c.proc.HasLabel() {
		return attr
	}
	c.Call("openat", unix.SYS_OPENAT, proc.Value(), c.String("self").Arg(), program.N(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC)).Store(self)
	c.open("openat2", self, "attr", unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: procFile.Resolve}).Store(attr)
	c.close(self)
	return attr
}

// openLabel opens the file that sets the label of the next execve, in a directory of
// the host's procfs: the container's own could be masked or forged, and the write
// silently go elsewhere (CVE-2019-16884, CVE-2025-52881).
func (c *code) openLabel(attr program.Slot) {
	path, field := "", ""
	switch {
	case c.proc.AppArmor != "":
		path, field = "apparmor/exec", "process.apparmorProfile"
	case c.proc.SELinux != "":
		path, field = "exec", "process.selinuxLabel"
	default:
		return
	}
	absent, done := c.NewLabel(), c.NewLabel()
	c.label = c.Slot(-1)
	c.In(field, func() {
		c.open("openat2", attr, path, procFile).Store(c.label).Catch(unix.ENOENT, absent).Jump(done)
		c.Here(absent)
		if c.proc.AppArmor != "" {
			c.Fail(1, "AppArmor is not enabled in this kernel")
		} else {
			c.Fail(1, "SELinux is not enabled in this kernel")
		}
		c.Here(done)
		c.close(attr)
	})
}

// applyLabel sets the label of the next execve.
func (c *code) applyLabel() {
	label, text := "", ""
	switch {
	case c.proc.AppArmor != "":
		label, text = "exec "+c.proc.AppArmor, fmt.Sprintf("process.apparmorProfile: %q", c.proc.AppArmor)
	case c.proc.SELinux != "":
		label, text = c.proc.SELinux, fmt.Sprintf("process.selinuxLabel: %q", c.proc.SELinux)
	default:
		return
	}
	fd := program.N(c.proc.number(labelFile))
	c.Call(text, unix.SYS_WRITE, fd, c.String(label).Arg(), program.N(len(label)))
	c.Call("close", unix.SYS_CLOSE, fd)
}
