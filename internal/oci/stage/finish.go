package stage

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/program"
)

// finish turns the process into the workload, or into the reaping init. Nothing of a
// Go runtime is left that could undo any of it.
func (c *code) finish(reap bool) {
	p := c.proc
	early := !p.NoNewPrivs
	c.setRlimits()
	c.setScheduling()
	c.setPlacement()
	c.setPersonality()
	c.applyLabel()
	c.ownStreams()
	c.noNewPrivileges()
	c.enterDomain()
	// Without no_new_privs, installing a filter takes CAP_SYS_ADMIN, so it must come
	// before the capabilities go. With it the filter comes last, to have only execve
	// left to pass.
	if early {
		c.filter()
	}
	c.becomeUser()
	c.enterCwdAsUser()
	if !early {
		c.filter()
	}
	c.execute(reap)
}

// execute executes the workload. What cannot be executed is told as a shell tells it:
// 127 where there is nothing, 126 where there is something else.
func (c *code) execute(reap bool) {
	p := c.proc
	env := c.Strings(p.Env).Arg()
	absent, strange := c.NewLabel(), c.NewLabel()
	c.In("process.args[0]: "+p.path, func() {
		var call program.Call
		if reap {
			args := c.Strings(append([]string{ReaperName, "--", p.path}, p.Args...)).Arg()
			call = c.Call("execveat", unix.SYS_EXECVEAT, program.N(p.number(exeFile)), c.empty(), args, env, program.N(unix.AT_EMPTY_PATH))
		} else {
			call = c.Call("execve", unix.SYS_EXECVE, c.String(p.path).Arg(), c.Strings(p.Args).Arg(), env)
		}
		call.Code(126).Catch(unix.ENOENT, absent).Catch(unix.ENOEXEC, strange)
		if d := p.Landlock; d != nil && d.FS&unix.LANDLOCK_ACCESS_FS_EXECUTE != 0 {
			denied := c.NewLabel()
			call.Catch(unix.EACCES, denied)
			c.Here(denied)
			c.Fail(126, "permission denied; the Landlock domain has to allow execute for it and its interpreter")
		}
		c.Here(absent)
		c.Fail(127, "no such file or directory, or its interpreter is missing")
		c.Here(strange)
		c.Fail(126, "not a program for this machine, and no #! line")
	})
}

// ownStreams gives the user the pipes and terminals among the standard streams, so that
// /dev/stderr can be opened by its name. Files and devices such as the host's
// /dev/null stay whose they are, and so does what an id not mapped here owns.
func (c *code) ownStreams() {
	for fd := range 3 {
		chown, next, other := c.NewLabel(), c.NewLabel(), c.NewLabel()
		c.Try(next, func() {
			c.Call("fstat", unix.SYS_FSTAT, program.N(fd), c.stat.Arg())
			c.Test(c.stat.At(offsetUID), allBits, c.proc.UID, other)
			c.Jump(next)
			c.Here(other)
			terminal := c.NewLabel()
			c.Test(c.stat.At(offsetMode), unix.S_IFMT, unix.S_IFIFO, terminal)
			c.Jump(chown)
			c.Here(terminal)
			c.Call("TCGETS", unix.SYS_IOCTL, program.N(fd), program.N(unix.TCGETS), c.path.Arg())
			c.Here(chown)
			c.Call("fchown", unix.SYS_FCHOWN, program.N(fd), program.N(c.proc.UID), program.N(^uint32(0)))
		})
		c.Here(next)
	}
}

func (c *code) noNewPrivileges() {
	umask := c.proc.Umask
	if umask < 0 {
		umask = 0o022
	}
	c.Call("umask", unix.SYS_UMASK, program.N(umask))
	if c.proc.NoNewPrivs {
		c.Call("prctl(PR_SET_NO_NEW_PRIVS)", unix.SYS_PRCTL, program.N(unix.PR_SET_NO_NEW_PRIVS), program.N(1), program.N(0), program.N(0), program.N(0))
	}
}

// filter installs the seccomp filter. The runtime takes the listener out of the process
// (package listener): the process itself may not be able to do anything any more.
func (c *code) filter() {
	p := c.proc
	if len(p.Seccomp) == 0 {
		return
	}
	if p.SeccompFlags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 {
		c.Say(program.Listening, "")
		c.Await(c.gone)
	}
	var prog []byte // struct sock_fprog
	prog = binary.NativeEndian.AppendUint64(prog, uint64(len(p.Seccomp)/unix.SizeofSockFilter))
	prog = binary.NativeEndian.AppendUint64(prog, uint64(c.Bytes(p.Seccomp)))
	c.Call("linux.seccomp: the kernel refuses the filter", unix.SYS_SECCOMP, program.N(unix.SECCOMP_SET_MODE_FILTER), program.N(p.SeccompFlags), c.Bytes(prog).Arg())
}
