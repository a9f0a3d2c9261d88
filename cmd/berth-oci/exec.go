package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci"
	"github.com/berthcloud/berth/internal/oci/capability"
)

// list is an option that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// execFlags are the options of exec.
type execFlags struct {
	process, pidFile, console, cwd, user, apparmor, label string
	env, caps, groups                                     list
	pidfd, cgroup                                         string
	tty, detach, noNewPrivs, ignorePaused                 bool
	preserve                                              int
}

func (f *execFlags) add(fs *flags) {
	fs.StringVar(&f.process, "process", "", "process.json to run instead of COMMAND")
	fs.StringVar(&f.process, "p", "", "same as --process")
	fs.StringVar(&f.pidFile, "pid-file", "", "file to write the pid to")
	fs.StringVar(&f.console, "console-socket", "", "unix socket that receives the terminal")
	fs.StringVar(&f.cwd, "cwd", "", "working directory")
	fs.StringVar(&f.user, "user", "", "user or user:group, by name or id, as the container knows them")
	fs.StringVar(&f.user, "u", "", "same as --user")
	fs.StringVar(&f.apparmor, "apparmor", "", "AppArmor profile")
	fs.StringVar(&f.label, "process-label", "", "SELinux label")
	fs.Var(&f.env, "env", "NAME=value, may be repeated")
	fs.Var(&f.env, "e", "same as --env")
	fs.Var(&f.caps, "cap", "capability to add, may be repeated")
	fs.Var(&f.caps, "c", "same as --cap")
	fs.Var(&f.groups, "additional-gids", "group id to add, may be repeated")
	fs.Var(&f.groups, "g", "same as --additional-gids")
	fs.BoolVar(&f.tty, "tty", false, "give the command a terminal")
	fs.BoolVar(&f.tty, "t", false, "same as --tty")
	fs.BoolVar(&f.detach, "detach", false, "do not wait for the command")
	fs.BoolVar(&f.detach, "d", false, "same as --detach")
	fs.BoolVar(&f.noNewPrivs, "no-new-privs", false, "set no_new_privs")
	fs.IntVar(&f.preserve, "preserve-fds", 0, "pass `N` descriptors beyond the standard streams on")
	fs.StringVar(&f.pidfd, "pidfd-socket", "", "unix socket that receives a pidfd of the command")
	fs.StringVar(&f.cgroup, "cgroup", "", "cgroup below the container's to join, as `PATH`, or CONTROLLER:PATH with cgroup v1")
	fs.BoolVar(&f.ignorePaused, "ignore-paused", false, "do not refuse in a paused container: the command runs once it is resumed")
}

// execFailed is the exit status of an exec that did not come to run its command, as
// runc's and crun's: 1 could be the command's own.
const execFailed = 255

func (c *cli) exec(fs *flags, args []string) (int, error) {
	status, err := c.execute(fs, args)
	if err != nil {
		status = execFailed
	}
	return status, err
}

func (c *cli) execute(fs *flags, args []string) (int, error) {
	var f execFlags
	f.add(fs)
	args, err := fs.parse(args, 1, -1)
	if err != nil {
		return 0, err
	}
	if c.standby && (!f.detach || f.preserve != 0) {
		return 0, errors.New("exec: a process that stands by knows --detach only, and no --preserve-fds")
	}
	rt := c.runtime()
	o := oci.ExecOptions{
		ID: args[0], PidFile: f.pidFile, Console: -1, PreserveFDs: f.preserve, Cgroup: f.cgroup, IgnorePaused: f.ignorePaused, Stdio: c.stdio,
	}
	if o.Process, err = f.build(rt, args); err != nil {
		return 0, err
	}
	if f.console != "" {
		if o.Console, err = dial(f.console); err != nil {
			return 0, fmt.Errorf("--console-socket: %s: %w", f.console, err)
		}
	}
	var term *terminal
	if o.Process.Terminal && o.Console < 0 && !f.detach {
		if term, o.Console, err = newTerminal(); err != nil {
			return 0, err
		}
		defer term.close()
	}
	return c.runCommand(rt, o, term, f.pidfd, f.detach)
}

// build makes the process from process.json or from the options.
func (f *execFlags) build(rt *oci.Runtime, args []string) (*specs.Process, error) {
	if f.process != "" {
		if len(args) > 1 {
			return nil, errors.New("--process: gives the command already; remove the arguments after the id")
		}
		p, err := oci.ReadProcess(f.process)
		if err == nil && f.tty {
			p.Terminal = true
		}
		return p, err
	}
	if len(args) < 2 {
		return nil, fmt.Errorf("%w: berth-oci exec: a command is missing after the id", errFlags)
	}
	p, err := rt.ExecProcess(args[0])
	if err != nil {
		return nil, err
	}
	p.Args, p.Terminal = args[1:], f.tty
	p.Env = append(p.Env, f.env...)
	if f.cwd != "" {
		p.Cwd = f.cwd
	}
	if f.user != "" {
		p.User = specs.User{Username: f.user, Umask: p.User.Umask}
	}
	if f.apparmor != "" {
		p.ApparmorProfile = f.apparmor
	}
	if f.label != "" {
		p.SelinuxLabel = f.label
	}
	p.NoNewPrivileges = p.NoNewPrivileges || f.noNewPrivs
	return p, f.extend(p)
}

// extend adds groups and capabilities.
func (f *execFlags) extend(p *specs.Process) error {
	for _, g := range f.groups {
		id, err := strconv.ParseUint(g, 10, 31)
		if err != nil {
			return fmt.Errorf("--additional-gids: %q is not a group id", g)
		}
		p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(id))
	}
	if len(f.caps) == 0 {
		return nil
	}
	caps := specs.LinuxCapabilities{}
	if p.Capabilities != nil {
		caps = *p.Capabilities
	}
	for _, name := range f.caps {
		if capability.Number(name) < 0 {
			return fmt.Errorf("--cap: unknown capability %q", name)
		}
		// Not inheritable: CVE-2022-29162.
		for _, set := range []*[]string{&caps.Bounding, &caps.Effective, &caps.Permitted} {
			*set = append(append([]string(nil), *set...), name)
		}
	}
	p.Capabilities = &caps
	return nil
}

// runCommand runs the command and, unless detached, awaits it.
func (c *cli) runCommand(rt *oci.Runtime, o oci.ExecOptions, term *terminal, pidfd string, detach bool) (int, error) {
	var sig *forwarder
	if !detach {
		sig = catchSignals()
	}
	pid, err := rt.Exec(c.ctx, o)
	if o.Console >= 0 {
		unix.Close(o.Console)
	}
	if err == nil {
		err = sendPidfd(pidfd, pid)
	}
	if err != nil {
		return 0, err
	}
	if detach {
		return 0, nil
	}
	if term != nil {
		if err := term.begin(); err != nil {
			return 0, err
		}
	}
	sig.forward(pid, term)
	status := reap(pid)
	if term != nil {
		term.end()
	}
	return status, nil
}
