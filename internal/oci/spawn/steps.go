package spawn

import (
	"os"

	"golang.org/x/sys/unix"
)

// step is one system call of the child.
type step struct {
	name  string // for errors
	nr    uintptr
	args  [6]uintptr
	kind  kind
	clone *cloneArgs // of kindClone
}

// kind says what the interpreter does with a step's result.
type kind uint8

const (
	kindCall  kind = iota // fail on errno
	kindTry               // go on whatever comes
	kindRead              // fail unless one byte was read: the parent gave up
	kindLast              // like kindCall, with the previous step's result as first argument
	kindClone             // the child of the clone goes on; the caller reports its pid and exits
)

// program is a list of steps together with the memory and descriptors they point to.
type program struct {
	steps  []step
	memory []any // keeps what the steps point to alive
	files  []int // temporary descriptors of the parent
	status int   // the status pipe, out of the way of Cmd.Files
}

func (p *program) close() {
	for _, fd := range p.files {
		unix.Close(fd)
	}
}

func (p *program) call(name string, nr uintptr, args ...uintptr) {
	s := step{name: name, nr: nr}
	copy(s.args[:], args)
	p.steps = append(p.steps, s)
}

// compile turns cmd into the child's steps. It moves the files out of the way of
// their final numbers first, because the child can only dup downwards.
func compile(cmd *Cmd, sync, release, status int) (*program, error) {
	p := &program{}
	high := len(cmd.Files)
	lift := func(fd int) (int, error) {
		n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, high)
		if err != nil {
			return -1, os.NewSyscallError("dup", err)
		}
		p.files = append(p.files, n)
		return n, nil
	}
	lifted, err := liftAll(lift, append([]int{cmd.Exe, sync, status}, cmd.Files...))
	if err != nil {
		p.close()
		return nil, err
	}
	exe, sync, files := lifted[0], lifted[1], lifted[3:]
	p.status = lifted[2]

	// The child has a copy of the parent's end too; with it, it would never see that
	// the parent has died.
	p.call("close", unix.SYS_CLOSE, uintptr(release))
	p.namespaces(cmd)
	p.await(sync)
	p.identity(cmd)
	for i, fd := range files {
		p.call("dup3", unix.SYS_DUP3, uintptr(fd), uintptr(i), 0)
	}
	p.call("close_range", unix.SYS_CLOSE_RANGE, uintptr(high), uintptr(^uint32(0)), unix.CLOSE_RANGE_CLOEXEC)
	p.exec(exe, cmd.Args, cmd.Env)
	return p, nil
}

func liftAll(lift func(int) (int, error), fds []int) ([]int, error) {
	lifted := make([]int, len(fds))
	for i, fd := range fds {
		var err error
		if lifted[i], err = lift(fd); err != nil {
			return nil, err
		}
	}
	return lifted, nil
}

// namespaces adds the entry into existing namespaces and the second clone.
func (p *program) namespaces(cmd *Cmd) {
	if !cmd.joins() {
		return
	}
	if cmd.Time {
		// First, while /proc is still the host's.
		p.timeNamespace(cmd.TimeOffsets)
	}
	for _, j := range cmd.Join {
		p.call("setns to the "+flagNames(j.Type)+" namespace", unix.SYS_SETNS, uintptr(j.FD), j.Type)
		if j.Type&unix.CLONE_NEWUSER != 0 {
			p.identity(cmd)
		}
	}
	args := &cloneArgs{flags: uint64(cmd.New) | unix.CLONE_PARENT}
	p.memory = append(p.memory, args)
	p.steps = append(p.steps, step{name: "clone3 with namespaces " + flagNames(cmd.New), kind: kindClone, clone: args})
}

// identity makes the child root of its user namespace.
func (p *program) identity(cmd *Cmd) {
	if !cmd.Root {
		return
	}
	// Denied where an ordinary user has mapped only himself; he keeps his groups then.
	p.steps = append(p.steps, step{name: "setgroups", kind: kindTry, nr: unix.SYS_SETGROUPS})
	p.call("setresgid", unix.SYS_SETRESGID, 0, 0, 0)
	p.call("setresuid", unix.SYS_SETRESUID, 0, 0, 0)
}
