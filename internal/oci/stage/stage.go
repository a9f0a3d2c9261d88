// Package stage is what happens inside a container before its workload: it compiles
// what is to be done into a list of system calls (package program), which the
// container's first process, or that of an exec, carries out in its namespaces. The
// runtime sends the list and follows the process (package wire).
//
// For a container's first process the list has two parts. The first one ends in the
// container's root; then Resolve looks up there, from outside, the user and the program,
// and the second part waits for the start and executes the workload.
//
// What cannot be said in system calls is done by a helper, this program once more, as a
// child of the process in its namespaces: hooks that run in the container, and tmpcopyup.
// A container with one of them pays for the start of a Go program, others do not.
package stage

import (
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/program"
	"github.com/berthcloud/berth/internal/oci/spawn"
)

// Descriptors of the process, besides the standard streams and those that the workload
// inherits.
const (
	connFile   = iota // the conversation with the runtime
	listenFile        // the start socket, of a container's first process
	exeFile           // the runtime's own program, where there is a Helper
	labelFile         // the file of /proc that takes the label of the workload
	ownFiles
)

// number returns a descriptor of the process.
func (p *Process) number(file int) int { return 3 + p.Preserve + file }

// Compile makes the first part for a container's first process.
func (p *Init) Compile() *program.Builder {
	c := &initCode{code: newCode(program.Second, &p.Process), plan: p}
	c.target, c.cover = c.Slot(-1), c.Slot(-1)
	c.files = c.Receive(p.Files)
	c.begin()
	c.joinCgroups()
	if p.NewCgroup {
		c.Call("unshare of the cgroup namespace", unix.SYS_UNSHARE, program.N(unix.CLONE_NEWCGROUP))
	}
	c.newSession()
	c.keyring()
	c.filesystem()
	c.switchRoot()
	c.names()
	c.sysctls()
	c.openLabel(c.ownAttr(c.file(p.HostProc)))
	c.closeOthers(p.kept()...)
	c.Say(program.Placed, "")
	c.Load(program.Third)
	c.subroutines()
	return c.end()
}

// kept lists the descriptors that are needed to the end.
func (p *Init) kept() (files []int) {
	if !p.Attended {
		files = append(files, listenFile)
	}
	if p.Helper {
		files = append(files, exeFile)
	}
	return files
}

// CompileStart makes the second part, once Process is resolved.
func (p *Init) CompileStart() *program.Builder {
	c := newCode(program.Third, &p.Process)
	c.enterCwd()
	c.makeDomain()
	c.Say(program.Ready, "")
	if p.Attended {
		c.Await(c.gone)
	} else {
		c.awaitStart()
	}
	if len(p.Process.Args) == 0 {
		c.Fail(1, noProcess)
		return c.end()
	}
	if p.StartContainer {
		c.help(nil)
	}
	c.finish(p.Reap)
	return c.end()
}

// Compile makes the only part for a process that is in the container already; Process
// is resolved.
func (p *Exec) Compile() *program.Builder {
	c := newCode(program.Second, &p.Process)
	c.files = c.Receive(p.Files)
	c.begin()
	c.joinCgroups()
	c.newSession()
	c.execTerminal()
	c.keyring()
	if p.Process.HasLabel() {
		c.openLabel(c.file(p.Attr))
	}
	c.closeOthers()
	c.enterCwd()
	c.makeDomain()
	c.Say(program.Ready, "")
	c.finish(false)
	return c.end()
}

// begin prepares the process itself.
func (c *code) begin() {
	// Unreadable through /proc and not to be traced by what already runs in the
	// namespaces (CVE-2016-9962); lasts until execve.
	c.prctl("prctl(PR_SET_DUMPABLE)", unix.PR_SET_DUMPABLE, 0, 0)
	// Until now its name is the number of a descriptor.
	c.Call("prctl(PR_SET_NAME)", unix.SYS_PRCTL, program.N(unix.PR_SET_NAME), c.String("berth-oci").Arg(), program.N(0), program.N(0), program.N(0))
	if c.proc.Root {
		spawn.BecomeRoot(c.Builder)
	}
	c.HandleSignals(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM)
	c.Call("close_range", unix.SYS_CLOSE_RANGE, program.N(c.proc.number(0)), program.N(c.proc.number(ownFiles)-1), program.N(unix.CLOSE_RANGE_CLOEXEC))
	c.Call("umask", unix.SYS_UMASK, program.N(0)) // modes are meant as they stand in the plan
}

func (c *code) joinCgroups() {
	for _, i := range c.proc.CgroupFiles {
		c.Call("joining a cgroup", unix.SYS_WRITE, c.file(i).Value(), c.String("0").Arg(), program.N(1))
		c.close(c.file(i))
	}
}

func (c *code) newSession() {
	c.Call("setsid", unix.SYS_SETSID).Ignore(unix.EPERM) // already is
}

// keyring joins a session keyring of the container's own, so that it cannot read
// the caller's keys. A kernel without keys, or one that forbids them to us, has none to
// read.
func (c *code) keyring() {
	if !c.proc.Keyring {
		return
	}
	full, done := c.NewLabel(), c.NewLabel()
	c.Call("keyctl(KEYCTL_JOIN_SESSION_KEYRING)", unix.SYS_KEYCTL, program.N(unix.KEYCTL_JOIN_SESSION_KEYRING), c.String("berth").Arg()).
		Ignore(unix.ENOSYS, unix.EPERM).Catch(unix.EDQUOT, full).Jump(done)
	c.Jump(done)
	c.Here(full)
	c.Say(program.Warning, "session keyring: the quota of keys is used up; the container shares its caller's")
	c.Here(done)
}

// awaitStart waits for whoever starts the container.
func (c *code) awaitStart() {
	again := c.NewLabel()
	c.Here(again)
	// Create ends here; it has what it wanted. Later: someone only looked whether we are
	// here, or was killed.
	c.close(c.Conn())
	c.Call("accept of the start socket", unix.SYS_ACCEPT4, program.N(c.proc.number(listenFile)), program.N(0), program.N(0), program.N(unix.SOCK_CLOEXEC)).
		Store(c.Conn()).Catch(unix.ECONNABORTED, again)
	c.Await(again)
	if len(c.proc.Args) == 0 {
		// An error leaves the container as it was (runtime.md, Errors).
		c.Say(program.Failed, noProcess)
		c.Jump(again)
	}
}

const noProcess = `process: missing, but required to start the container (runtime.md: "This operation MUST generate an error if process was not set")`
