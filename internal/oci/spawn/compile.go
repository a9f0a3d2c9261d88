package spawn

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/program"
)

// entry is the first segment of a machine: how it gets into its namespaces.
type entry struct {
	*program.Builder
	cmd     *Cmd
	files   []int // more descriptors of the machine's, closed in the child
	passing int   // how many processes pass before the one that clones the child
}

// compile turns cmd into what the machine does up to the child's wait.
func compile(cmd *Cmd) *entry {
	p := &entry{Builder: program.Begin(cmd.Conn), cmd: cmd}
	cgroup := 0
	if cmd.Cgroup >= 0 {
		cgroup = p.file(cmd.Cgroup)
	}
	joins := len(cmd.Join) > 0 || cmd.Time
	if joins {
		// Not to be traced by what already runs in the namespaces (CVE-2016-9962). Its
		// children inherit it.
		p.Call("prctl(PR_SET_DUMPABLE)", unix.SYS_PRCTL, program.N(unix.PR_SET_DUMPABLE), program.N(0), program.N(0), program.N(0), program.N(0))
	}
	if joins && cmd.Cgroup >= 0 {
		// At once: a process that has entered a user namespace may not.
		p.passing++
		p.clone(0, cgroup, program.Passed)
		cgroup = 0
	}
	if cmd.Time {
		// First, while /proc is still the host's.
		p.timeNamespace()
	}
	for _, j := range cmd.Join {
		p.Call("setns to the "+flagNames(j.Type)+" namespace", unix.SYS_SETNS, program.N(p.file(j.FD)), program.N(j.Type))
		if j.Type&unix.CLONE_NEWUSER != 0 {
			BecomeRoot(p.Builder)
		}
	}
	if joins {
		// What already runs in the PID namespace sees the child from its first moment on,
		// and may have the right to take its descriptors: none leads to the host.
		p.closeOthers()
	}
	p.clone(cmd.New, cgroup, program.Born)
	if !joins {
		p.closeOthers() // not before clone3 has used the cgroup
	}
	p.Load(program.Second)
	return p
}

// closeOthers closes all descriptors but the child's.
func (p *entry) closeOthers() {
	p.Call("close_range", unix.SYS_CLOSE_RANGE, program.N(len(p.cmd.Files)), program.N(^uint32(0)), program.N(0))
}

// file hands the machine one more descriptor, and returns its number there.
func (p *entry) file(fd int) int {
	p.files = append(p.files, fd)
	return len(p.cmd.Files) + len(p.files) - 1
}

// clone goes on in a child of the machine's parent. The machine tells its pid and ends.
func (p *entry) clone(flags uintptr, cgroup int, kind program.Kind) {
	flags |= unix.CLONE_PARENT
	if cgroup != 0 {
		flags |= unix.CLONE_INTO_CGROUP
	}
	var args []byte // struct clone_args, version 2 (Linux 5.7)
	for _, v := range [...]uint64{uint64(flags), 0, 0, 0, 0, 0, 0, 0, 0, 0, uint64(cgroup)} {
		args = binary.NativeEndian.AppendUint64(args, v)
	}
	text := "clone3 with namespaces " + flagNames(flags)
	report, child := p.Report(kind), p.NewLabel()
	p.Call(text, unix.SYS_CLONE3, p.Bytes(args).Arg(), program.N(len(args))).Store(report.Code)
	parent := p.NewLabel()
	p.TestSlot(report.Code, 0, parent)
	p.Jump(child)
	p.Here(parent)
	p.SayReport(report)
	p.Call("exit_group", unix.SYS_EXIT_GROUP, program.N(0))
	p.Here(child)
}

// BecomeRoot makes a process uid and gid 0 of its user namespace, without supplementary
// groups where it may give them up: an unmapped identity would lose every capability
// there in execve (capabilities(7)).
func BecomeRoot(b *program.Builder) {
	zero := program.N(0)
	// Denied where an ordinary user has mapped only himself; he keeps his groups then.
	b.Call("setgroups", unix.SYS_SETGROUPS, zero, zero).Ignore()
	b.Call("setresgid", unix.SYS_SETRESGID, zero, zero, zero)
	b.Call("setresuid", unix.SYS_SETRESUID, zero, zero, zero)
}

// timeNamespace unshares the time namespace, which takes effect in children, and writes
// the offsets, which must be there before the first of them exists.
func (p *entry) timeNamespace() {
	p.Call("unshare of the time namespace", unix.SYS_UNSHARE, program.N(unix.CLONE_NEWTIME))
	offsets := p.cmd.TimeOffsets
	if offsets == "" {
		return
	}
	fd, at := p.Slot(-1), unix.AT_FDCWD
	p.Call("open timens_offsets", unix.SYS_OPENAT, program.N(at), p.String("/proc/self/timens_offsets").Arg(), program.N(unix.O_WRONLY|unix.O_CLOEXEC)).Store(fd)
	p.Call("write timens_offsets", unix.SYS_WRITE, fd.Value(), p.String(offsets).Arg(), program.N(len(offsets)))
}
