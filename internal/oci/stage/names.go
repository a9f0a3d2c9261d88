package stage

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/bundle"
	"github.com/berthcloud/berth/internal/oci/program"
)

func (c *initCode) names() {
	if name := c.plan.Hostname; name != "" {
		c.Call("hostname", unix.SYS_SETHOSTNAME, c.String(name).Arg(), program.N(len(name)))
	}
	if name := c.plan.Domainname; name != "" {
		c.Call("domainname", unix.SYS_SETDOMAINNAME, c.String(name).Arg(), program.N(len(name)))
	}
}

// sysctls writes through the host's procfs, whose files nothing in the container
// can have mounted over; the settings are those of this process's namespaces.
func (c *initCode) sysctls() {
	fd := c.Slot(-1)
	for name, value := range c.plan.Sysctl {
		c.In(fmt.Sprintf("linux.sysctl: %s=%s", name, value), func() {
			c.open("open", c.file(c.plan.HostProc), "sys/"+bundle.SysctlPath(name), procFile).Store(fd)
			c.Call("write", unix.SYS_WRITE, fd.Value(), c.String(value).Arg(), program.N(len(value)))
			c.close(fd)
		})
	}
}

// procFile opens a file of a procfs for writing, neither following links nor crossing
// mounts on the way.
var procFile = unix.OpenHow{
	Flags:   unix.O_WRONLY | unix.O_CLOEXEC,
	Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
}
