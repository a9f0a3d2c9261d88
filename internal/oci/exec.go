package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/bundle"
	"github.com/berthcloud/berth/internal/oci/program"
	"github.com/berthcloud/berth/internal/oci/spawn"
	"github.com/berthcloud/berth/internal/oci/stage"
	"github.com/berthcloud/berth/internal/oci/wire"
	"github.com/berthcloud/berth/internal/undo"
)

// ExecOptions says what to run in a container.
type ExecOptions struct {
	ID          string
	Process     *specs.Process // complete; see ExecProcess
	PidFile     string
	Console     int // as in CreateOptions
	PreserveFDs int
	Stdio       [3]int

	Cgroup       string // one below the container's to join: PATH, or CONTROLLER,…:PATH with cgroup v1; or ""
	IgnorePaused bool   // do not refuse in a paused container, where the command waits
}

// ExecProcess returns the container's own process as the pattern of a further one:
// same user, environment, capabilities, limits; neither terminal nor arguments.
func (r *Runtime) ExecProcess(id string) (*specs.Process, error) {
	c, err := r.Load(id)
	if err != nil {
		return nil, err
	}
	s, err := c.spec()
	if err != nil {
		return nil, err
	}
	p := *s.Process
	p.Terminal, p.ConsoleSize, p.Args = false, nil, nil
	return &p, nil
}

// Exec runs a command in a running container and returns its pid, a child of the
// caller's, once it has been executed.
func (r *Runtime) Exec(ctx context.Context, o ExecOptions) (pid int, err error) {
	if err := bundle.CheckProcess(o.Process); err != nil {
		return 0, err
	}
	if o.Process.Terminal && o.Console < 0 {
		return 0, errors.New("process.terminal: is set, so a --console-socket is needed to send the terminal to")
	}
	c, err := r.Load(o.ID)
	if err != nil {
		return 0, err
	}
	var u undo.Stack
	defer u.Run(ctx, &err)
	pid, err = c.exec(ctx, o, &u)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", o.ID, err)
	}
	u.Release()
	return pid, nil
}

func (c *Container) exec(ctx context.Context, o ExecOptions, u *undo.Stack) (int, error) {
	status, err := c.Status()
	if err != nil {
		return 0, err
	}
	switch status {
	case specs.StateRunning, specs.StateCreated:
	case StatusPaused:
		if !o.IgnorePaused {
			return 0, ErrPaused
		}
	default:
		return 0, ErrNotRunning
	}
	s, err := c.spec()
	if err != nil {
		return 0, err
	}
	process, err := c.rt.planProcess(o.Process, s, c.rec.Pid)
	if err != nil {
		return 0, err
	}
	process.Keyring = true
	cpus := o.Process.ExecCPUAffinity
	if cpus == nil {
		cpus = s.Process.ExecCPUAffinity
	}
	initial, final, err := affinity(cpus)
	if err != nil {
		return 0, err
	}
	process.CPUs = final

	joins, closeJoins, err := c.namespaces()
	if err != nil {
		return 0, err
	}
	defer closeJoins()
	if err := c.resolve(&process, joins); err != nil {
		return 0, err
	}
	birth, tasks, err := c.openCgroups(o.Cgroup)
	if err != nil {
		return 0, err
	}
	defer wire.CloseAll(append(tasks, birth))

	child, err := c.enter(o, joins, initial, birth, u)
	if err != nil {
		return 0, err
	}
	defer child.Close()
	stop, err := killWhenDone(ctx, child)
	if err != nil {
		return 0, err
	}
	defer stop()

	files := slices.Clip(tasks)
	plan := stage.Exec{Process: process, Attr: stage.None}
	if process.HasLabel() {
		attr, err := attributes(child.Pid)
		if err != nil {
			return 0, err
		}
		defer unix.Close(attr)
		plan.Attr = len(files)
		files = append(files, attr)
	}
	plan.Files = len(files)
	plan.Process.Preserve, plan.Process.Root = o.PreserveFDs, hasUserNamespace(s)
	for i := range tasks {
		plan.Process.CgroupFiles = append(plan.Process.CgroupFiles, i)
	}
	if err := c.execConverse(child, s, status, &plan, files, o.Console); err != nil {
		return 0, err
	}
	return child.Pid, writePidFile(o.PidFile, child.Pid)
}

// attributes returns a mount of nothing but a process's attributes: whoever in the
// container takes the descriptor from the process gets no further in the host's procfs.
func attributes(pid int) (int, error) {
	path := "/proc/" + strconv.Itoa(pid) + "/attr"
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	return fd, nil
}

// openCgroups opens what a command needs to join the container's cgroups, or one below
// them.
func (c *Container) openCgroups(below string) (birth int, tasks []int, err error) {
	g, err := c.cgroups()
	if err != nil || g == nil {
		return -1, nil, err
	}
	if below != "" {
		if g, err = g.Below(below); err != nil {
			return -1, nil, fmt.Errorf("--cgroup: %w", err)
		}
	}
	if birth, err = g.OpenBirthOf(c.rec.Pid); err != nil {
		return -1, nil, err
	}
	if tasks, err = g.OpenTasks(); err != nil {
		wire.CloseAll([]int{birth})
	}
	return birth, tasks, err
}

// resolve looks up the user and the program where the command is going to be.
func (c *Container) resolve(p *stage.Process, joins []spawn.Join) error {
	for _, j := range joins {
		if j.Type&unix.CLONE_NEWNS != 0 {
			return resolve(p, rootOf(c.rec.Pid))
		}
	}
	return resolve(p, "/")
}

// enter starts a process in the container's namespaces, on the given processors, where
// it waits to be told what to do.
func (c *Container) enter(o ExecOptions, joins []spawn.Join, cpus []int, birth int, u *undo.Stack) (*spawn.Child, error) {
	child, err := startOn(cpus, &spawn.Cmd{
		Files: append(inherited(o.Stdio, o.PreserveFDs), -1), Conn: 3 + o.PreserveFDs,
		Join: joins, Cgroup: birth, Sibling: c.rt.Siblings,
	})
	if err != nil {
		return nil, err
	}
	u.Add(func(context.Context) error { child.Kill(); return nil })
	return child, c.prepareExec(child.Pid, o.Process)
}

// prepareExec does from outside what a command may not do itself.
func (c *Container) prepareExec(pid int, p *specs.Process) error {
	if c.rec.Resctrl != nil {
		if err := c.rec.Resctrl.Join(pid); err != nil {
			return fmt.Errorf("linux.intelRdt: %w", err)
		}
	}
	return c.rt.prepareProcess(pid, p)
}

// namespaces returns those of the first process that are not ours: all of them in
// one setns through its pidfd, which also proves that it still is that process.
func (c *Container) namespaces() (joins []spawn.Join, closeAll func(), err error) {
	var flags uintptr
	for _, ns := range [...]struct {
		file string
		flag uintptr
	}{
		{"user", unix.CLONE_NEWUSER}, {"mnt", unix.CLONE_NEWNS}, {"pid", unix.CLONE_NEWPID}, {"net", unix.CLONE_NEWNET},
		{"ipc", unix.CLONE_NEWIPC}, {"uts", unix.CLONE_NEWUTS}, {"cgroup", unix.CLONE_NEWCGROUP}, {"time", unix.CLONE_NEWTIME},
	} {
		// Entering the user namespace that one is in already is an error; for the others
		// it is a waste.
		var own, theirs unix.Stat_t
		if unix.Stat("/proc/self/ns/"+ns.file, &own) != nil {
			continue // not in this kernel
		}
		if err := unix.Stat("/proc/"+strconv.Itoa(c.rec.Pid)+"/ns/"+ns.file, &theirs); err != nil {
			return nil, nil, ErrNotRunning
		}
		if own.Ino != theirs.Ino || own.Dev != theirs.Dev {
			flags |= ns.flag
		}
	}
	fd, err := c.pidfd()
	if err != nil {
		return nil, nil, ErrNotRunning
	}
	if flags == 0 {
		unix.Close(fd)
		return nil, func() {}, nil
	}
	return []spawn.Join{{FD: fd, Type: flags}}, func() { unix.Close(fd) }, nil
}

// execConverse tells the process what to do and follows it to its execve.
func (c *Container) execConverse(child *spawn.Child, s *specs.Spec, status Status, plan *stage.Exec, files []int, console int) error {
	conn := child.Conn
	err := conn.SendSegment(plan.Compile())
	if err == nil {
		err = conn.SendFiles(files)
	}
	for err == nil {
		var m wire.Message
		if m, err = conn.Receive(); err != nil {
			break
		}
		switch m.Kind {
		case program.Failed:
			return m.Failure
		case program.Warning:
			c.rt.warn("%s", m.Text)
		case program.Terminal:
			if err := sendTerminal(m.File, console); err != nil {
				return err
			}
		case program.Ready:
			return awaitExec(conn, nil, func() error { return c.handListener(s, status, conn, child.Pid, child.Pidfd) })
		default:
			return fmt.Errorf("the new process says %d", m.Kind)
		}
	}
	return fmt.Errorf("the new process died while it was set up: %w", err)
}

// ReadProcess reads the process.json of exec --process.
func ReadProcess(path string) (*specs.Process, error) {
	f, err := os.Open(path) // it may be a pipe, such as a shell's <(…)
	if err != nil {
		return nil, fmt.Errorf("--process: %w", err)
	}
	defer f.Close()
	raw, err := bundle.ReadAll(f, 0)
	if err != nil {
		return nil, fmt.Errorf("--process: %w", err)
	}
	p, err := bundle.ParseProcess(raw)
	if err != nil {
		return nil, fmt.Errorf("--process: %s: %w", path, err)
	}
	return p, nil
}
