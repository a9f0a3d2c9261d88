package stage

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/program"
	"github.com/berthcloud/berth/internal/oci/wire"
)

// setRlimits sets the limits. Hard limits above the present ones were raised by the
// runtime.
func (c *code) setRlimits() {
	for _, r := range c.proc.Rlimits {
		resource, _ := wire.Rlimit(r.Type)
		limit := binary.NativeEndian.AppendUint64(nil, r.Soft)
		limit = binary.NativeEndian.AppendUint64(limit, r.Hard)
		c.Call(fmt.Sprintf("process.rlimits: %s %d:%d", r.Type, r.Soft, r.Hard), unix.SYS_PRLIMIT64, program.N(0), program.N(resource), c.Bytes(limit).Arg(), program.N(0))
	}
}

func (c *code) setScheduling() {
	if s := c.proc.Scheduler; s != nil {
		var attr []byte // struct sched_attr
		attr = binary.NativeEndian.AppendUint32(attr, unix.SizeofSchedAttr)
		attr = binary.NativeEndian.AppendUint32(attr, s.Policy)
		attr = binary.NativeEndian.AppendUint64(attr, s.Flags)
		attr = binary.NativeEndian.AppendUint32(attr, uint32(s.Nice))
		attr = binary.NativeEndian.AppendUint32(attr, s.Priority)
		for _, v := range [...]uint64{s.Runtime, s.Deadline, s.Period, 0} {
			attr = binary.NativeEndian.AppendUint64(attr, v)
		}
		c.Call("process.scheduler", unix.SYS_SCHED_SETATTR, program.N(0), c.Bytes(attr).Arg(), program.N(0))
	}
	if p := c.proc.IOPriority; p != nil {
		const whoProcess = 1 // IOPRIO_WHO_PROCESS
		c.Call("process.ioPriority", unix.SYS_IOPRIO_SET, program.N(whoProcess), program.N(0), program.N(*p))
	}
}

// setPlacement says on which processors and memory nodes the workload runs, within what
// its cgroups leave.
func (c *code) setPlacement() {
	if cpus := c.proc.CPUs; len(cpus) > 0 {
		set := make([]byte, sizeofCPUSet)
		for _, cpu := range cpus {
			if cpu/8 < len(set) {
				set[cpu/8] |= 1 << (cpu % 8)
			}
		}
		c.Call(fmt.Sprintf("process.execCPUAffinity.final: processors %v", cpus), unix.SYS_SCHED_SETAFFINITY, program.N(0), program.N(len(set)), c.Bytes(set).Arg())
	}
	if m := c.proc.MemoryPolicy; m != nil {
		var nodes []byte
		for _, n := range m.Nodes {
			nodes = binary.NativeEndian.AppendUint64(nodes, n)
		}
		at := program.N(0)
		if len(nodes) > 0 {
			at = c.Bytes(nodes).Arg()
		}
		// The kernel takes one from the number of bits (get_nodes in mm/mempolicy.c).
		c.Call("linux.memoryPolicy", unix.SYS_SET_MEMPOLICY, program.N(m.Mode), at, program.N(len(nodes)*8+1))
	}
}

func (c *code) setPersonality() {
	if p := c.proc.Personality; p != nil {
		c.Call("linux.personality", unix.SYS_PERSONALITY, program.N(*p))
	}
}
