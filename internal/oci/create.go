package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/bundle"
	"github.com/berthcloud/berth/internal/oci/cgroup"
	"github.com/berthcloud/berth/internal/oci/hook"
	"github.com/berthcloud/berth/internal/oci/mount"
	"github.com/berthcloud/berth/internal/oci/program"
	"github.com/berthcloud/berth/internal/oci/spawn"
	"github.com/berthcloud/berth/internal/oci/stage"
	"github.com/berthcloud/berth/internal/oci/wire"
	"github.com/berthcloud/berth/internal/undo"
)

// CreateOptions says how a container is made.
type CreateOptions struct {
	ID           string
	Bundle       *bundle.Bundle
	PidFile      string // written last, so that whoever sees it may go on; or ""
	Console      int    // connected unix socket that gets the terminal's master, or -1
	PreserveFDs  int    // the caller's descriptors 3… that the workload inherits
	NoPivot      bool
	NoNewKeyring bool
	NoCgroups    bool // leave the container in the caller's cgroups
	Stdio        [3]int

	// Attended says that the caller starts the container himself, by Container.Begin, and
	// nobody else can: there is no start socket.
	Attended bool
}

// Create makes a container and leaves it waiting for Start. When it fails, nothing
// is left behind.
func (r *Runtime) Create(ctx context.Context, o CreateOptions) (c *Container, err error) {
	b := o.Bundle
	if r.Entered {
		forgetUser(b.Spec)
	}
	if b.Spec.Process.Terminal != (o.Console >= 0) {
		if o.Console < 0 {
			return nil, errors.New("process.terminal: is set, so a --console-socket is needed to send the terminal to")
		}
		return nil, errors.New("process.terminal: is not set, so a --console-socket makes no sense")
	}
	d, err := r.reserve(o.ID)
	if err != nil {
		return nil, err
	}
	k := &creator{rt: r, o: o, b: b, dir: d, boxed: r.isBoxed(), netns: -1}
	defer func() { wire.CloseAll([]int{k.netns}) }() // after what is undone there
	var u undo.Stack
	defer u.Run(ctx, &err)
	k.undo = &u
	u.Add(func(context.Context) error { k.poststop(); return nil })
	u.Add(func(context.Context) error { return d.remove() })

	if err := k.create(ctx); err != nil {
		return nil, fmt.Errorf("%s: %w", o.ID, err)
	}
	u.Release()
	d.unlock()
	c = &Container{rt: r, path: d.path, rec: k.rec, group: k.group, conn: wire.Conn{FD: -1}}
	if o.Attended {
		c.conn, k.child.Conn.FD = k.child.Conn, -1
	}
	k.child.Close()
	return c, nil
}

// creator is one Create at work.
type creator struct {
	rt   *Runtime
	o    CreateOptions
	b    *bundle.Bundle
	dir  *dir
	undo *undo.Stack

	boxed bool // see isBoxed

	rec    record
	group  *cgroup.Group
	exe    int // this program, where the process needs it; see openExe
	ns     *namespaces
	child  *spawn.Child
	userns int
	listen int
	plan   stage.Init
	jobs   []wire.Job      // of helpers, in the order in which they are asked for
	state  json.RawMessage // for hooks, once there are any to run
	netns  int             // the container's network namespace where devices were moved there, else -1
	hooked bool            // hooks have been called, so that what they made may be to undo
}

// create makes one thing after another. What each made is undone in reverse order
// if a later step fails. The process is started as soon as it can be: the namespaces
// that it is born in are needed for the rest.
func (k *creator) create(ctx context.Context) error {
	k.exe, k.userns, k.listen = -1, -1, -1
	defer func() { wire.CloseAll([]int{k.exe, k.userns, k.listen}) }()
	for _, step := range []func() error{k.prepareCgroups, k.makeRecord, k.makeStartSocket, k.spawn} {
		if err := step(); err != nil {
			return err
		}
	}
	stop, err := killWhenDone(ctx, k.child)
	if err != nil {
		return err
	}
	defer stop()
	for _, step := range []func() error{k.completeCgroups, k.instruct, k.keepConfig, k.converse} {
		if err := step(); err != nil {
			return errors.Join(ctx.Err(), k.explain(err))
		}
	}
	return k.publish(k.child.Pid)
}

// killWhenDone ends the child when ctx does, so that nobody waits for its word any
// more, until stop is called.
func killWhenDone(ctx context.Context, child *spawn.Child) (stop func(), err error) {
	if ctx.Done() == nil {
		return func() {}, nil
	}
	// A descriptor of its own: the child's may be closed, and its number mean
	// another process, before stop is called.
	pidfd, err := unix.FcntlInt(uintptr(child.Pidfd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	killed := make(chan struct{})
	forget := context.AfterFunc(ctx, func() {
		_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
		close(killed)
	})
	return func() {
		if !forget() {
			<-killed
		}
		unix.Close(pidfd)
	}, nil
}

func (k *creator) prepareCgroups() error {
	if k.o.NoCgroups {
		if wantsLimits(k.b.Spec.Linux.Resources) {
			k.rt.warn("linux.resources: the limits are left out, for cgroups are disabled")
		}
		return nil
	}
	named := cgroup.New
	if k.rt.SystemdCgroup {
		named = cgroup.NewScope
	}
	g, err := named(k.o.ID, k.b.Spec.Linux.CgroupsPath, k.b.Spec.Linux.Resources)
	if err != nil {
		return err
	}
	if k.boxed {
		if g.Scope() != "" {
			return errors.New("--systemd-cgroup: is for containers of the host's root; run berth-oci itself in a scope with systemd-run --user --scope --property=Delegate=yes")
		}
		if any, err := g.Claim(); err != nil || !any {
			if err == nil && wantsLimits(k.b.Spec.Linux.Resources) {
				k.rt.warn("linux.resources: the limits are left out, for no cgroup is delegated to this user; systemd-run --user --scope --property=Delegate=yes gives one on a host with cgroup v2")
			}
			return err
		}
		if err := g.Lacks(k.b.Spec.Linux.Resources); err != nil {
			return err
		}
	}
	// Before anything of it is ours to undo: it may be another container's.
	if err := g.Vacant(); err != nil {
		return err
	}
	k.group = g
	// The paths are on disk before the directories exist: whatever kills us, delete
	// finds them.
	if err := k.makeRecord(); err != nil {
		return err
	}
	k.undo.Add(func(context.Context) error { return g.Destroy() })
	return g.Prepare()
}

// meanwhile completes the cgroups while the process is born, where they do not concern
// it: that takes half as long as its namespaces do.
func (k *creator) meanwhile() error {
	if k.group == nil || !k.group.Apart() {
		return nil
	}
	return k.settleCgroups(0)
}

// completeCgroups completes the cgroups that a process is born into.
func (k *creator) completeCgroups() error {
	if k.group == nil || k.group.Apart() {
		return nil
	}
	return k.settleCgroups(k.child.Pid)
}

// settleCgroups completes the cgroups. Where systemd manages them the process, still
// outside, becomes their first member.
func (k *creator) settleCgroups(pid int) error {
	if k.group == nil {
		return nil
	}
	if err := k.group.Settle(pid); err != nil {
		return err
	}
	if err := k.group.Complete(); err != nil {
		return err
	}
	if uid, ok := delegate(k.b.Spec); ok {
		return k.group.Delegate(uid)
	}
	return nil
}

// delegate returns to whom on the host the container's cgroup belongs: to its own
// user, where that is another one than the host's, and sees the cgroup as the root
// of a cgroup namespace and writable (config-linux.md, Cgroup ownership).
func delegate(s *specs.Spec) (uid int, ok bool) {
	if bundle.Namespace(s, specs.UserNamespace) == nil || bundle.Namespace(s, specs.CgroupNamespace) == nil {
		return 0, false
	}
	for _, m := range s.Mounts {
		if (m.Type == "cgroup" || m.Type == "cgroup2") && !slices.Contains(m.Options, "ro") {
			for _, ids := range s.Linux.UIDMappings {
				if id := s.Process.User.UID; id >= ids.ContainerID && id-ids.ContainerID < ids.Size {
					return int(ids.HostID + id - ids.ContainerID), true
				}
			}
		}
	}
	return 0, false
}

// makeRecord writes the first state.json, without a pid.
func (k *creator) makeRecord() error {
	if k.rec.ID != "" {
		return nil
	}
	k.rec = record{
		Version: k.b.Spec.Version, ID: k.o.ID, Bundle: k.b.Dir, Rootfs: rootPath(k.b),
		Created: time.Now().UTC(), Annotations: k.b.Spec.Annotations,
		OwnPids: bundle.Namespace(k.b.Spec, specs.PIDNamespace) != nil && bundle.Namespace(k.b.Spec, specs.PIDNamespace).Path == "",
	}
	if h := k.b.Spec.Hooks; h != nil {
		k.rec.LateHooks = len(h.Poststart)+len(h.Poststop) > 0
	}
	if k.group != nil {
		k.rec.Cgroups, k.rec.Scope = k.group.Paths(), k.group.Scope()
	}
	return k.dir.writeRecord(&k.rec)
}

// keepConfig keeps the specification that the container is made of: later commands
// must not depend on the bundle.
func (k *creator) keepConfig() error {
	return os.WriteFile(k.dir.file(configFile), k.b.Raw, 0o600)
}

// makeStartSocket listens where start will knock. The process inherits the socket;
// when it is gone, connecting fails, which tells a dead container at once.
func (k *creator) makeStartSocket() error {
	if k.o.Attended {
		return nil
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	k.listen = fd
	// Through the descriptor of the directory, whose path may be too long for a
	// socket's address.
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: startAddress(k.dir.fd)}); err != nil {
		return fmt.Errorf("start socket: %w", err)
	}
	return os.NewSyscallError("listen", unix.Listen(fd, 8))
}

func startAddress(dir int) string { return "/proc/self/fd/" + strconv.Itoa(dir) + "/" + startFile }

// spawn starts the container's first process in its namespaces, where it waits to be
// told what to do.
func (k *creator) spawn() error {
	birth := -1
	var err error
	if k.group != nil {
		if birth, err = k.group.OpenBirth(); err != nil {
			return err
		}
		defer wire.CloseAll([]int{birth})
	}
	if k.ns, err = openNamespaces(k.b.Spec); err != nil {
		return err
	}
	defer k.ns.close()
	files := append(inherited(k.o.Stdio, k.o.PreserveFDs), -1, k.listen)
	if k.needsHelper() {
		if k.exe, err = openExe(); err != nil {
			return err
		}
		files = append(files, k.exe)
	}
	var cgroups error
	k.child, err = spawn.Start(&spawn.Cmd{
		Files: files, Conn: 3 + k.o.PreserveFDs,
		Join: k.ns.join, New: k.ns.create, Time: k.ns.newTime, TimeOffsets: timeOffsets(k.b.Spec.Linux.TimeOffsets),
		Cgroup: birth, Sibling: k.rt.Siblings,
		Meanwhile: func() error { cgroups = k.meanwhile(); return cgroups },
	})
	if err != nil {
		if errors.Is(err, unix.EAGAIN) && k.group != nil && cgroups == nil {
			err = fmt.Errorf("linux.resources.pids.limit: no process fits into the cgroup any more, or into one above it: %w", err)
		}
		return err
	}
	child := k.child
	k.undo.Add(func(context.Context) error { child.Kill(); return nil })
	if k.ns.create&unix.CLONE_NEWUSER != 0 {
		if err := writeIDMaps(child.Pid, k.b.Spec.Linux.UIDMappings, k.b.Spec.Linux.GIDMappings); err != nil {
			return err
		}
	}
	for _, step := range []func() error{k.moveDevices, k.joinResctrl} {
		if err := step(); err != nil {
			return err
		}
	}
	if err := k.rt.prepareProcess(child.Pid, k.b.Spec.Process); err != nil {
		return err
	}
	if hasUserNamespace(k.b.Spec) {
		if k.userns, err = openUserNamespace(child.Pid); err != nil {
			return err
		}
	}
	return nil
}

// needsHelper reports whether the process executes this program at some point: for hooks
// in the container, tmpcopyup, or as the reaping init.
func (k *creator) needsHelper() bool {
	s := k.b.Spec
	if s.Annotations[InitAnnotation] == InitReap || s.Hooks != nil && len(s.Hooks.CreateContainer)+len(s.Hooks.StartContainer) > 0 {
		return true
	}
	for _, m := range s.Mounts {
		if slices.Contains(m.Options, "tmpcopyup") {
			return true
		}
	}
	return false
}

// inherited lists what the process finds as descriptors 0…: the standard streams and
// what is to be preserved. Its own come after them, in the order of package stage.
func inherited(stdio [3]int, preserve int) []int {
	files := stdio[:]
	for i := range preserve {
		files = append(files, 3+i)
	}
	return files
}

// timeOffsets formats linux.timeOffsets as /proc/PID/timens_offsets wants them.
func timeOffsets(offsets map[string]specs.LinuxTimeOffset) string {
	var b strings.Builder
	for clock, o := range offsets {
		fmt.Fprintf(&b, "%s %d %d\n", clock, o.Secs, o.Nanosecs)
	}
	return b.String()
}

// instruct tells the process what to do.
func (k *creator) instruct() error {
	s := k.b.Spec
	process, err := k.rt.planProcess(s.Process, s, k.child.Pid)
	if err != nil {
		return err
	}
	p := &planner{b: k.b, userns: k.userns, group: k.group, label: k.mountLabel(), boxed: k.boxed}
	defer p.close()
	k.plan = stage.Init{
		Process: process, NoPivot: k.o.NoPivot,
		Hostname: s.Hostname, Domainname: s.Domainname, Sysctl: s.Linux.Sysctl, NewCgroup: k.ns.newCgroup,
		Reap: s.Annotations[InitAnnotation] == InitReap,
	}
	plan := &k.plan
	if h := s.Hooks; h != nil {
		plan.CreateContainer, plan.StartContainer = len(h.CreateContainer) > 0, len(h.StartContainer) > 0
		plan.HookRound = len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer)+len(h.StartContainer) > 0
	}
	if err := p.filesystem(plan); err != nil {
		return err
	}
	k.planJobs()
	plan.Attended, plan.Helper = k.o.Attended, k.exe >= 0
	plan.Process.Keyring, plan.Process.Preserve, plan.Process.Root = !k.o.NoNewKeyring, k.o.PreserveFDs, hasUserNamespace(s)
	plan.Process.Console = s.Annotations[InitAnnotation] == InitSystem
	if k.group != nil {
		tasks, err := k.group.OpenTasks()
		if err != nil {
			return err
		}
		for _, fd := range tasks {
			plan.Process.CgroupFiles = append(plan.Process.CgroupFiles, p.send(fd))
		}
	}
	proc, err := hostProc()
	if err != nil {
		return err
	}
	plan.HostProc = p.send(proc)
	plan.Files = len(p.files)
	if err := k.child.Conn.SendSegment(plan.Compile()); err != nil {
		return err
	}
	return k.child.Conn.SendFiles(p.files)
}

// planJobs lists what helpers will be asked to do. The hooks' state is added when they
// are.
func (k *creator) planJobs() {
	for i := range k.plan.Mounts {
		if k.plan.Mounts[i].CopyUp {
			k.jobs = append(k.jobs, wire.Job{CopyUp: true})
		}
	}
	if k.plan.CreateContainer {
		k.jobs = append(k.jobs, wire.Job{Point: "createContainer", Hooks: k.b.Spec.Hooks.CreateContainer})
	}
}

// hostProc opens the host's /proc, which nothing in an image can forge.
func hostProc() (int, error) {
	fd, err := unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("the host's /proc: %w", err)
	}
	const rootInode = 1
	var st unix.Stat_t
	ok, err := mount.IsProc(fd)
	if err == nil {
		err = unix.Fstat(fd, &st)
	}
	if err == nil && (!ok || st.Ino != rootInode) {
		err = errors.New("is not a procfs")
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("the host's /proc: %w", err)
	}
	return fd, nil
}

// mountLabel returns linux.mountLabel, or "" where the kernel has no SELinux: then no
// filesystem takes a context and nobody asks for one.
func (k *creator) mountLabel() string {
	label := k.b.Spec.Linux.MountLabel
	if label != "" && unix.Access("/sys/fs/selinux", unix.F_OK) != nil {
		k.rt.warn("linux.mountLabel: this kernel has no SELinux, so the mounts stay without the label %q", label)
		return ""
	}
	return label
}

// converse follows the process's messages until it is ready.
func (k *creator) converse() error {
	for {
		m, err := k.child.Conn.Receive()
		if err != nil {
			return err
		}
		switch m.Kind {
		case program.Failed:
			return m.Failure
		case program.Warning:
			k.rt.warn("%s", m.Text)
		case program.Terminal:
			err = sendTerminal(m.File, k.o.Console)
		case program.Prepared:
			err = k.hooks()
		case program.Help:
			err = k.help()
		case program.Done:
		case program.Placed:
			err = k.finish()
		case program.Ready:
			return nil
		default:
			err = fmt.Errorf("the container's first process says %d", m.Kind)
		}
		if err != nil {
			return err
		}
	}
}

// finish tells the process, now in the container's root, what to execute.
func (k *creator) finish() error {
	if err := resolve(&k.plan.Process, rootOf(k.child.Pid)); err != nil {
		return err
	}
	return k.child.Conn.SendSegment(k.plan.CompileStart())
}

// rootOf returns a path to the root of a process.
func rootOf(pid int) string { return "/proc/" + strconv.Itoa(pid) + "/root" }

// resolve looks up the user and the program in a root.
func resolve(p *stage.Process, path string) error {
	root, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("the container's root: %w", err)
	}
	defer unix.Close(root)
	return p.Resolve(mount.Root{FD: root})
}

// help gives the helper its job.
func (k *creator) help() error {
	if len(k.jobs) == 0 {
		return errors.New("the container's first process asks for help that nobody planned")
	}
	job := k.jobs[0]
	k.jobs = k.jobs[1:]
	job.State = k.state
	return k.child.Conn.SendJob(job)
}

// sendTerminal sends a terminal's master side to the console socket, and closes it.
func sendTerminal(master, socket int) error {
	defer unix.Close(master)
	number, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		return os.NewSyscallError("TIOCGPTN", err)
	}
	name := "/dev/pts/" + strconv.Itoa(number)
	if err := unix.Sendmsg(socket, []byte(name), unix.UnixRights(master), nil, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("sending the terminal to the console socket: %w", err)
	}
	return nil
}

// hooks runs those that belong into the runtime's namespaces while the process waits.
// They see the status "created", which begins after step 2 of the lifecycle, and they
// are steps 3 to 5 (runtime.md, State and Lifecycle).
func (k *creator) hooks() error {
	k.rec.Pid = k.child.Pid
	k.hooked = true
	c := Container{rec: k.rec}
	var err error
	if k.state, err = c.document(specs.StateCreated); err != nil {
		return err
	}
	if err := hook.Run("prestart", k.b.Spec.Hooks.Prestart, k.state); err != nil {
		return err
	}
	if err := hook.Run("createRuntime", k.b.Spec.Hooks.CreateRuntime, k.state); err != nil {
		return err
	}
	return k.child.Conn.Go()
}

// poststop runs the last hooks of a container whose creation has failed once its
// first hooks had been called: the lifecycle goes on at step 12 (runtime.md).
func (k *creator) poststop() {
	if k.hooked {
		c := Container{rt: k.rt, rec: k.rec}
		c.runPoststop(k.b.Spec.Hooks.Poststop)
	}
}

// explain replaces "the other side has gone" by why it has.
func (k *creator) explain(err error) error {
	if !errors.Is(err, io.EOF) && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		return err
	}
	for { // it may have said so before we wrote
		m, rerr := k.child.Conn.Receive()
		if rerr != nil {
			break
		}
		if m.Kind == program.Failed {
			return m.Failure
		}
	}
	if k.group != nil {
		if n, oerr := k.group.OOMKills(); oerr == nil && n > 0 {
			return errors.New("linux.resources.memory.limit: too small to start the container: the kernel killed its first process")
		}
	}
	return errors.New("the container's first process died while it was set up")
}

// publish makes the container known: state first, pid file last.
func (k *creator) publish(pid int) error {
	start, _, err := processStart(pid)
	if err != nil {
		return fmt.Errorf("the container's first process: %w", err)
	}
	k.rec.Pid, k.rec.StartTime = pid, start
	if err := k.dir.writeRecord(&k.rec); err != nil {
		return err
	}
	return writePidFile(k.o.PidFile, k.rec.Pid)
}

// writePidFile writes a pid file in one step.
func writePidFile(path string, pid int) error {
	if path == "" {
		return nil
	}
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")
	if err := os.WriteFile(tmp, []byte(strconv.Itoa(pid)), 0o644); err != nil {
		return fmt.Errorf("--pid-file: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		os.Remove(tmp)
		return fmt.Errorf("--pid-file: %w", err)
	}
	return nil
}

func readInt(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}
