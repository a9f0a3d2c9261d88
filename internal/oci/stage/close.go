package stage

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/program"
)

// closeOthers closes everything that was needed up to here, before a path of the
// specification is looked up: /proc/self/fd/N as a working directory must find
// nothing (CVE-2024-21626). Of the process's own descriptors the conversation stays, the
// file of the label, and those that are kept.
func (c *code) closeOthers(kept ...int) {
	p := c.proc
	label := p.number(labelFile)
	if c.label != noSlot {
		// It may have that number already.
		c.Call("dup3", unix.SYS_DUP3, c.label.Value(), program.N(label), program.N(unix.O_CLOEXEC)).Ignore(unix.EINVAL)
		kept = append(kept, labelFile)
	}
	for file := connFile + 1; file < ownFiles; file++ {
		if !slices.Contains(kept, file) {
			c.Call("close", unix.SYS_CLOSE, program.N(p.number(file))).Ignore(unix.EBADF)
		}
	}
	c.Call("close_range", unix.SYS_CLOSE_RANGE, program.N(p.number(ownFiles)), program.N(^uint32(0)), program.N(0))
}
