package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/agent"
)

// command is what the reaper starts.
type command struct {
	process  agent.Process
	limits   []agent.Limit
	rights   rights
	files    [3]*os.File
	terminal bool     // files[0] becomes the controlling terminal
	cgroup   int      // to be born into, or -1
	apart    *os.File // that cgroup, where it is the command's alone; else nil
}

// process is a started command.
type process struct {
	pid  int
	done chan struct{} // closed once exit is set
	exit agent.Exit
}

func (p *process) wait() agent.Exit {
	<-p.done
	return p.exit
}

// reaper starts processes and collects all that end: as process 1 it inherits
// every orphan, so nobody else may wait.
type reaper struct {
	mu       sync.Mutex
	children map[int]*process
	traced   map[int]chan struct{} // closed at the stop before a traced child's first instruction
	born     *sync.Cond            // signals a new child to a reaper that has none
	running  bool
}

func newReaper() *reaper {
	r := &reaper{children: map[int]*process{}, traced: map[int]chan struct{}{}}
	r.born = sync.NewCond(&r.mu)
	return r
}

// start starts a command. The Exit says, in a shell's codes, why it could not.
func (r *reaper) start(cmd command) (p *process, failed *agent.Exit) {
	path, attr, failed := prepare(cmd)
	if failed != nil {
		return nil, failed
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// What the process must not have is given up by the thread that forks
		// it. The thread stays locked and so ends with this goroutine.
		runtime.LockOSThread()
		if err := cmd.rights.giveUp(); err != nil {
			failed = new(fault(err))
			return
		}
		p, failed = r.fork(cmd, path, attr)
	}()
	<-done
	return p, failed
}

// rights are what the user's processes keep of the agent's.
type rights struct {
	capabilities uint64 // bounding set
	newPrivs     bool
}

// giveUp makes the calling thread, and what it forks, keep no more than r.
func (r rights) giveUp() error {
	for c := range 64 {
		if r.capabilities&(1<<c) != 0 {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0)
		if err == unix.EINVAL {
			break // the kernel knows no capability of this number, nor above it
		}
		if err != nil {
			return os.NewSyscallError("drop a capability", err)
		}
	}
	if r.newPrivs {
		return nil
	}
	return os.NewSyscallError("no_new_privs", unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
}

// fork starts the process and sets its limits before its first instruction.
func (r *reaper) fork(cmd command, path string, attr *syscall.ProcAttr) (*process, *agent.Exit) {
	attr.Sys.Ptrace = len(cmd.limits) > 0
	p := &process{done: make(chan struct{})}
	stopped := make(chan struct{})

	r.mu.Lock() // held over the fork: the reaper must not meet a child it does not know
	pid, _, err := syscall.StartProcess(path, cmd.process.Args, attr)
	if err != nil {
		r.mu.Unlock()
		return nil, startFailure(cmd.process.Args[0], err)
	}
	p.pid = pid
	r.children[pid] = p
	if attr.Sys.Ptrace {
		r.traced[pid] = stopped
	}
	if !r.running {
		r.running = true
		go r.reap()
	}
	r.born.Signal()
	r.mu.Unlock()

	if !attr.Sys.Ptrace {
		return p, nil
	}
	select {
	case <-stopped:
	case <-p.done:
		return p, nil
	}
	for _, l := range cmd.limits {
		limit := unix.Rlimit{Cur: l.Soft, Max: l.Hard}
		if err := unix.Prlimit(pid, l.Resource, &limit, nil); err != nil {
			_ = unix.Kill(pid, unix.SIGKILL)
			return nil, new(fault(fmt.Errorf("resource limit %d: %w", l.Resource, err)))
		}
	}
	// Only the thread that started a traced child may let it go: this one.
	if err := syscall.PtraceDetach(pid); err != nil {
		_ = unix.Kill(pid, unix.SIGKILL)
		return nil, new(fault(os.NewSyscallError("ptrace", err)))
	}
	return p, nil
}

// reap collects children for as long as the machine lives.
func (r *reaper) reap() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WALL, nil)
		r.mu.Lock()
		switch {
		case err == unix.ECHILD:
			for len(r.children) == 0 {
				r.born.Wait()
			}
		case err != nil:
		case status.Stopped():
			if stopped := r.traced[pid]; stopped != nil {
				delete(r.traced, pid)
				close(stopped)
			}
		default:
			if p := r.children[pid]; p != nil {
				delete(r.children, pid)
				delete(r.traced, pid)
				p.exit = exitOf(status)
				close(p.done)
			}
		}
		r.mu.Unlock()
	}
}

// signal sends a signal to a process that has not been collected yet, so that
// its pid cannot have been given to another.
func (r *reaper) signal(p *process, sig unix.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.children[p.pid] != p {
		return errEnded
	}
	return unix.Kill(p.pid, sig)
}

var errEnded = errors.New("the process has ended")

func exitOf(status unix.WaitStatus) agent.Exit {
	if status.Signaled() {
		return agent.Exit{Code: 128 + int(status.Signal())}
	}
	return agent.Exit{Code: status.ExitStatus()}
}

// prepare resolves the command, the user and the directory.
func prepare(cmd command) (string, *syscall.ProcAttr, *agent.Exit) {
	p := cmd.process
	if len(p.Args) == 0 {
		return "", nil, new(fault(errors.New("no command")))
	}
	who, err := accountFor(p.User)
	if err != nil {
		return "", nil, &agent.Exit{Code: agent.CodeNotRunnable, Error: err.Error()}
	}
	env := p.Env
	if _, found := variable(env, "HOME"); !found {
		env = append(slices.Clip(env), "HOME="+who.home)
	}
	dir := p.Dir
	if dir == "" {
		dir = "/"
	}
	// docker makes a working directory that the image lacks.
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, new(fault(fmt.Errorf("working directory: %w", err)))
	}
	path, err := lookCommand(p.Args[0], dir, env)
	if err != nil {
		return "", nil, startFailure(p.Args[0], err)
	}
	attr := &syscall.ProcAttr{Dir: dir, Env: env, Sys: &syscall.SysProcAttr{
		Credential: who.credential(), Setsid: true, Setctty: cmd.terminal,
	}}
	if cmd.cgroup >= 0 {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, cmd.cgroup
	}
	for _, f := range cmd.files {
		attr.Files = append(attr.Files, f.Fd())
	}
	return path, attr, nil
}

// startFailure puts a failed start into a shell's codes.
func startFailure(name string, err error) *agent.Exit {
	if errors.Is(err, fs.ErrNotExist) {
		return &agent.Exit{Code: agent.CodeNotFound, Error: name + ": command not found in the image"}
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		err = errno
	}
	return &agent.Exit{Code: agent.CodeNotRunnable, Error: name + ": not executable: " + err.Error()}
}

// lookCommand finds a command as execvp(3) does, with the command's own PATH.
func lookCommand(name, dir string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return name, executable(name)
	}
	path, found := variable(env, "PATH")
	if !found {
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	failure := fs.ErrNotExist // or the last better reason
	for _, d := range filepath.SplitList(path) {
		if !filepath.IsAbs(d) {
			d = filepath.Join(dir, d)
		}
		candidate := filepath.Join(d, name)
		err := executable(candidate)
		if err == nil {
			return candidate, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			failure = err
		}
	}
	return "", failure
}

func executable(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return syscall.EISDIR
	case info.Mode()&0o111 == 0:
		return syscall.EACCES
	}
	return nil
}

// variable returns the last value of a variable in an environment.
func variable(env []string, name string) (string, bool) {
	for _, e := range slices.Backward(env) {
		if value, found := strings.CutPrefix(e, name+"="); found {
			return value, true
		}
	}
	return "", false
}
