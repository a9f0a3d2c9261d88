package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/keeper"
	"github.com/berthcloud/berth/internal/keeper/standby"
)

const (
	// startTimeout bounds a Runtime command whose Process does not say.
	startTimeout = 60 * time.Second
	// maxStderr is how much of a failed command's message is kept.
	maxStderr = 16 << 10
)

// start starts a process, and attaches the caller where it wants that. It
// reports whether the connection lives on.
func (s *Server) start(conn *keeper.Conn, req *keeper.Request) bool {
	if err := checkProcess(req.Process); err != nil {
		reply(conn, keeper.Reply{Error: wireError(err)})
		return false
	}
	id := req.Process.ID
	if err := s.reserve(id); err != nil {
		reply(conn, keeper.Reply{Error: wireError(err)})
		return false
	}
	p, err := s.startReserved(conn, req.Process)
	if err != nil {
		s.unreserve(id, nil)
		reply(conn, keeper.Reply{Error: wireError(err)})
		return false
	}
	var c *client
	if req.Attach != nil {
		// Before the first byte is read: this client misses nothing.
		c = newClient(conn, *req.Attach)
		p.clients = append(p.clients, c)
		if req.Process.Ephemeral {
			p.leave = func() { s.drop(p) }
		}
	}
	s.unreserve(id, p)
	p.run(s.dir)
	if c == nil {
		st := p.status()
		reply(conn, keeper.Reply{Status: &st})
		if req.Wait {
			p.serveWaiter(conn)
		}
		return req.Wait
	}
	p.serveClient(c)
	return true
}

func checkProcess(spec *keeper.Process) error {
	var why string
	switch {
	case spec == nil:
		return api.E("start", api.Invalid, "", errors.New("no process is given"))
	case spec.Mode != keeper.Direct && spec.Mode != keeper.Runtime:
		why = fmt.Sprintf("unknown mode %q", spec.Mode)
	case len(spec.Args) == 0 || !filepath.IsAbs(spec.Args[0]):
		why = "the command must be an absolute path"
	case spec.Mode == keeper.Runtime && spec.PIDFile == "":
		why = "mode runtime needs a pid file"
	case spec.Mode == keeper.Runtime && spec.Stdio.Kind == keeper.Sockets:
		why = "mode runtime has no socket streams"
	case spec.Stdio.Console && (spec.Stdio.Kind != keeper.Sockets || spec.Ephemeral):
		why = "only a lasting process with socket streams has a serial console"
	}
	switch spec.Stdio.Kind {
	case keeper.Null, keeper.Pipes, keeper.PTY, keeper.Sockets:
	default:
		why = fmt.Sprintf("unknown kind of streams %q", spec.Stdio.Kind)
	}
	if why == "" {
		return nil
	}
	return api.E("start", api.Invalid, spec.ID, errors.New(why))
}

// startReserved starts the process. On failure nothing is left of it.
func (s *Server) startReserved(conn *keeper.Conn, spec *keeper.Process) (_ *proc, err error) {
	p := newProc(spec)
	if !spec.Ephemeral {
		if err := os.Mkdir(p.dir(s.dir), 0o700); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			p.release()
			os.RemoveAll(p.dir(s.dir))
		}
	}()
	stdio, err := p.openStdio(s.dir)
	if err != nil {
		return nil, err
	}
	defer stdio.close()
	if spec.Mode == keeper.Direct {
		err = p.startDirect(spec, &stdio)
	} else {
		err = p.startRuntime(s, conn, spec, &stdio)
	}
	if err != nil {
		return nil, err
	}
	p.started = time.Now()
	if p.birth == 0 {
		if st, serr := readStat(p.pid); serr == nil {
			p.birth = st.birth
		}
	}
	if conn.Closed() {
		p.kill()
		return nil, api.E("start", api.Canceled, p.id, errors.New("the client went away"))
	}
	if err := p.save(s.dir); err != nil {
		p.kill()
		return nil, err
	}
	return p, nil
}

// startDirect starts the kept process itself.
func (p *proc) startDirect(spec *keeper.Process, stdio *childStdio) error {
	args, files := spec.Args, []*os.File{stdio.in, stdio.out, stdio.err}
	var stage *stageReport
	if needsStage(spec) {
		var err error
		if stage, err = newStage(spec); err != nil {
			return err
		}
		defer stage.close()
		args, files = stage.args, append(files, stage.theirs)
	}
	err := p.spawn(spec, args, files, stdio.tty)
	if err == nil && stage != nil {
		err = stage.wait()
		if err != nil {
			p.kill()
		}
	}
	return execError(spec.Args[0], err)
}

// spawn forks and executes args in a session of its own and opens its pidfd.
func (p *proc) spawn(spec *keeper.Process, args []string, files []*os.File, tty bool) error {
	fds := make([]uintptr, len(files))
	for i, f := range files {
		fds[i] = f.Fd()
	}
	dir := spec.Dir
	if dir == "" {
		dir = "/"
	}
	var flags uintptr
	if spec.Alone {
		flags = unix.CLONE_NEWPID
	}
	pidfd := -1
	sys := &syscall.SysProcAttr{Setsid: true, Setctty: tty, PidFD: &pidfd, Cloneflags: flags}
	if spec.Birthplace != "" {
		cgroup, err := unix.Open(spec.Birthplace, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "enter cgroup", Path: spec.Birthplace, Err: err}
		}
		defer unix.Close(cgroup)
		sys.UseCgroupFD, sys.CgroupFD = true, cgroup
	}
	pid, err := syscall.ForkExec(args[0], args, &syscall.ProcAttr{Dir: dir, Env: spec.Env, Files: fds, Sys: sys})
	if err != nil {
		return err
	}
	p.pid = pid
	if err := unix.SetNonblock(pidfd, true); err != nil {
		unix.Close(pidfd)
		unix.Kill(pid, unix.SIGKILL)
		return err
	}
	p.pidfd = os.NewFile(uintptr(pidfd), "pidfd")
	return nil
}

// execError turns the failure to execute path into a CommandError.
func execError(path string, err error) error {
	code := 126
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		code = 127
	case !errors.Is(err, fs.ErrPermission) && !errors.Is(err, unix.ENOEXEC):
		return api.E("start", api.Internal, path, err)
	}
	return &keeper.CommandError{Code: code, Stderr: fmt.Sprintf("%s: %v", path, err)}
}

// kill ends a process that was started and is not wanted.
func (p *proc) kill() {
	if p.pidfd == nil {
		return
	}
	_ = p.signal(unix.SIGKILL)
	p.pidfd.SetReadDeadline(time.Now().Add(5 * time.Second)) // a process in an uninterruptible wait is left to reapStrays
	p.waitExit()
}

// startRuntime has the command line carried out by a program that stands by, and
// takes over the process it leaves behind.
func (p *proc) startRuntime(s *Server, conn *keeper.Conn, spec *keeper.Process, stdio *childStdio) error {
	console, err := p.listenConsole()
	if err != nil {
		return err
	}
	if console != nil {
		defer os.Remove(console.Name())
		defer console.Close()
	}
	if err := unix.Unlink(spec.PIDFile); err != nil && err != unix.ENOENT {
		return &os.PathError{Op: "remove", Path: spec.PIDFile, Err: err}
	}
	err = p.carryOut(s.runtime(spec.Args[0]), conn, spec, stdio)
	if err == nil {
		err = p.findLeftBehind(spec)
	}
	if err == nil && console != nil {
		err = p.receiveConsole(console)
	}
	if err != nil && (p.pidfd != nil || p.findLeftBehind(spec) == nil) {
		p.kill() // what a half-done command has left
	}
	return err
}

// carryOut awaits a Runtime command. It is told to stop when its time is over or the
// client has gone.
func (p *proc) carryOut(program *standby.Program, conn *keeper.Conn, spec *keeper.Process, stdio *childStdio) error {
	timeout := spec.StartTimeout
	if timeout <= 0 {
		timeout = startTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	watched := make(chan bool, 1)
	go func() {
		left := conn.WaitClosed()
		if left {
			cancel()
		}
		watched <- left
	}()
	status, text, err := program.Run(ctx, spec.Args[1:], [3]*os.File{stdio.in, stdio.out, stdio.err})
	conn.SetReadDeadline(time.Unix(1, 0))
	left := <-watched
	conn.SetReadDeadline(time.Time{})
	switch {
	case left:
		return api.E("start", api.Canceled, p.id, errors.New("the client went away"))
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return api.E("start", api.Unavailable, p.id, fmt.Errorf("the runtime did not finish within %v and was stopped", timeout))
	case err != nil:
		return execError(spec.Args[0], err)
	case status != 0:
		text = strings.TrimSpace(text)
		return &keeper.CommandError{Code: status, Stderr: text[:min(len(text), maxStderr)]}
	}
	return nil
}

// findLeftBehind opens the process that the command has left. It is a child of
// the keeper now, so its pid is its own until it is reaped, even if it has
// ended already.
func (p *proc) findLeftBehind(spec *keeper.Process) error {
	data, err := os.ReadFile(spec.PIDFile)
	if err != nil {
		return api.E("start", api.Internal, p.id, fmt.Errorf("the runtime left no pid file: %w", err))
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return api.E("start", api.Internal, p.id, fmt.Errorf("the runtime's pid file holds %.20q, not a pid", data))
	}
	st, err := readStat(pid)
	if err != nil || st.ppid != os.Getpid() {
		return api.E("start", api.Internal, p.id, fmt.Errorf("the runtime named process %d, which it did not leave to the keeper", pid))
	}
	p.pid, p.birth = pid, st.birth
	return p.openPidfd()
}

// stageReport is how the stage (stage.go) says that it could not execute the
// command: a pipe that its exec closes.
type stageReport struct {
	args         []string
	ours, theirs *os.File
}

func (r *stageReport) close() {
	r.ours.Close()
	r.theirs.Close()
}

// wait returns once the stage has executed the command, or why it could not.
func (r *stageReport) wait() error {
	r.theirs.Close()
	text, err := io.ReadAll(io.LimitReader(r.ours, maxStderr))
	if err != nil {
		return err
	}
	if len(text) == 0 {
		return nil
	}
	number, what, _ := strings.Cut(string(text), " ")
	errno, _ := strconv.Atoi(number)
	return fmt.Errorf("%s: %w", what, unix.Errno(errno))
}
