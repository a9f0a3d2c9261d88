package stage

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/landlock"
	"github.com/berthcloud/berth/internal/oci/program"
)

// makeDomain makes the ruleset of the workload's Landlock domain, while the process
// still may open everything in the container: what is missing is known at create.
func (c *code) makeDomain() {
	d := c.proc.Landlock
	if d == nil {
		return
	}
	c.domain = c.Slot(-1)
	c.In(landlock.Annotation, func() {
		var attr []byte // struct landlock_ruleset_attr
		for _, bits := range [...]uint64{d.FS, d.Net, d.Scoped} {
			attr = binary.NativeEndian.AppendUint64(attr, bits)
		}
		c.Call("landlock_create_ruleset", unix.SYS_LANDLOCK_CREATE_RULESET, c.Bytes(attr).Arg(), program.N(d.Size), program.N(0)).Store(c.domain)
		for _, p := range d.Paths {
			c.allowPath(p)
		}
		for _, p := range d.Ports {
			attr := binary.NativeEndian.AppendUint64(nil, p.Access) // struct landlock_net_port_attr
			attr = binary.NativeEndian.AppendUint64(attr, uint64(p.Port))
			c.addRule("netPort", landlock.RuleNetPort, c.Bytes(attr))
		}
	})
}

// allowPath adds the rule of a path, which is a directory or not.
func (c *code) allowPath(p landlock.Path) {
	file, done := c.NewLabel(), c.NewLabel()
	rule := func(flags int, access uint64) program.Call {
		attr := binary.NativeEndian.AppendUint64(nil, access) // struct landlock_path_beneath_attr
		at := c.Bytes(binary.NativeEndian.AppendUint32(attr, 0))
		fd := program.Slot(at.At(uintptr(len(attr))))
		call := c.Call(p.Path, unix.SYS_OPENAT, program.N(unix.AT_FDCWD), c.String(p.Path).Arg(), program.N(unix.O_PATH|unix.O_CLOEXEC|flags)).Store(fd)
		c.addRule(p.Path, unix.LANDLOCK_RULE_PATH_BENEATH, at)
		c.close(fd)
		return call
	}
	rule(unix.O_DIRECTORY, p.Dir).Catch(unix.ENOTDIR, file)
	c.Jump(done)
	c.Here(file)
	if p.File != 0 {
		rule(0, p.File)
	} else {
		c.Fail(1, p.Path+": is no directory, and all that is allowed concerns directories")
	}
	c.Here(done)
}

func (c *code) addRule(text string, kind int, attr program.Ref) {
	c.Call(text, unix.SYS_LANDLOCK_ADD_RULE, c.domain.Value(), program.N(kind), attr.Arg(), program.N(0))
}

// enterDomain puts the process, and all that will come of it, into the domain. Without
// no_new_privs that takes CAP_SYS_ADMIN, so it comes before the capabilities go, and
// before a filter that may forbid it.
func (c *code) enterDomain() {
	if c.proc.Landlock == nil {
		return
	}
	c.Call("landlock_restrict_self", unix.SYS_LANDLOCK_RESTRICT_SELF, c.domain.Value(), program.N(0))
	c.close(c.domain)
}
