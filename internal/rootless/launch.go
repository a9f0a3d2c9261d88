package rootless

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	enter "github.com/berthcloud/berth/internal/oci/rootless"
	"github.com/berthcloud/berth/internal/oci/spawn"
)

// Launcher starts berthd for an ordinary user. Its program is that of hold and forward.
type Launcher struct {
	Run    string // the daemon's run directory
	Daemon string // path of berthd
	Cgroup string // the cgroup to divide, counted from the root of the hierarchies; "" for what there is

	Say func(line string) // tells the user what is not as it could be
}

// Dir is where hold and forward have their sockets.
func Dir(run string) string { return filepath.Join(run, "rootless") }

// EnteredArg is the first argument of a daemon that is inside already.
const EnteredArg = "entered"

// lifeline is the descriptor on which the daemon inside sees its launcher's end.
const lifeline = 3

// Launch runs the daemon with EnteredArg and args as root of the user's namespaces,
// passes signals on to it, and returns its exit status. hold and forward are started
// where they do not run, and ended afterwards where nothing is left for them.
func (l *Launcher) Launch(ctx context.Context, args []string) (status int, err error) {
	dir := Dir(l.Run)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, fmt.Errorf("%w; choose another directory with --run", err)
	}
	unlock, err := lock(filepath.Join(dir, "lock"))
	if err != nil {
		return 0, err
	}
	cgroup, namespaces, err := l.prepare(ctx, dir)
	unlock()
	if err != nil {
		return 0, err
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	pid, line, err := l.start(namespaces, append(args, "--cgroup", cgroup))
	closeFiles(namespaces)
	if err != nil {
		return 0, err
	}
	defer line.Close()
	go func() {
		for s := range signals {
			_ = unix.Kill(pid, s.(syscall.Signal)) // our own child, not yet reaped
		}
	}()
	status, err = wait(pid)
	l.retire(ctx, dir, cgroup)
	return status, err
}

// prepare returns the cgroup to divide, and the namespaces, with hold and forward at
// work.
func (l *Launcher) prepare(ctx context.Context, dir string) (cgroup string, namespaces []*os.File, err error) {
	if cgroup, err = l.settle(ctx, dir); err != nil {
		return "", nil, err
	}
	if namespaces, err = l.prepareNamespaces(ctx, dir, cgroup); err != nil {
		moveOut(ctx, cgroup)
	}
	return cgroup, namespaces, err
}

func (l *Launcher) prepareNamespaces(ctx context.Context, dir, cgroup string) ([]*os.File, error) {
	_, namespaces, err := ask(ctx, dir, holdSocket, request{Op: opNamespaces})
	if err == nil {
		if answers("unixpacket", filepath.Join(dir, forwardSocket)) {
			return namespaces, nil
		}
	} else if absent(err) {
		// One that is there still leads to namespaces that nobody keeps.
		_, _, _ = ask(ctx, dir, forwardSocket, request{Op: opEnd})
		if err = l.startHold(dir); err == nil {
			_, namespaces, err = ask(ctx, dir, holdSocket, request{Op: opNamespaces})
		}
	}
	if err != nil {
		return nil, fmt.Errorf("the user's namespaces: %w", err)
	}
	if err := l.startForward(dir); err != nil {
		closeFiles(namespaces)
		l.retire(ctx, dir, cgroup)
		return nil, fmt.Errorf("the way into the user's namespaces: %w", err)
	}
	return namespaces, nil
}

// answers reports whether somebody listens at a socket.
func answers(network, socket string) bool {
	conn, err := net.Dial(network, socket)
	if err == nil {
		conn.Close()
	}
	return err == nil
}

// absent reports whether nobody listens at a socket.
func absent(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED)
}

// startHold makes the namespaces and the process that keeps them. Where instances
// run still, but hold was killed, it keeps theirs.
func (l *Launcher) startHold(dir string) error {
	c := enter.Command{Args: []string{"berth-rootless", "hold", dir}, Env: os.Environ()}
	namespaces, err := l.keepersNamespaces()
	defer closeFiles(namespaces)
	if err != nil {
		return err
	}
	if namespaces != nil {
		c.Join = joins(namespaces)
	} else {
		c.New = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWNET
		if c.UIDs, c.GIDs, err = identity(); err != nil {
			return err
		}
	}
	return detached(dir, func(files []*os.File) error {
		for _, f := range files {
			c.Files = append(c.Files, int(f.Fd()))
		}
		_, err := enter.Start(c)
		return err
	})
}

// keepersNamespaces opens those of the keeper, or returns nil where there is none.
func (l *Launcher) keepersNamespaces() ([]*os.File, error) {
	conn, err := net.Dial("unix", l.keeperSocket())
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	var peer *unix.Ucred
	var perr error
	err = raw.Control(func(fd uintptr) { peer, perr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, perr); err != nil {
		return nil, err
	}
	return openNamespaces("/proc/" + strconv.Itoa(int(peer.Pid)) + "/ns/")
}

// joins enters namespaces in the order of openNamespaces.
func joins(namespaces []*os.File) []spawn.Join {
	list := make([]spawn.Join, len(namespaces))
	for i, flag := range []uintptr{unix.CLONE_NEWUSER, unix.CLONE_NEWNS, unix.CLONE_NEWNET} {
		list[i] = spawn.Join{FD: int(namespaces[i].Fd()), Type: flag}
	}
	return list
}

func (l *Launcher) startForward(dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return detached(dir, func(files []*os.File) error {
		p, err := os.StartProcess(self, []string{"berth-rootless", "forward", dir}, &os.ProcAttr{Dir: "/", Env: os.Environ(), Files: files})
		if err == nil {
			err = p.Release()
		}
		return err
	})
}

// detached starts a process that outlives this one, with the log as its output, and
// waits until it says on its descriptor 3 that it is ready: "ok", or what is wrong.
func detached(dir string, start func(files []*os.File) error) error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	err = start([]*os.File{null, log, log, w})
	w.Close()
	if err != nil {
		return err
	}
	said, err := io.ReadAll(io.LimitReader(r, maxMessage))
	if err == nil && string(said) != "ok" {
		err = errors.New(strings.TrimSpace(string(said)))
		if len(said) == 0 {
			err = fmt.Errorf("a process of Berth died at its start; %s may say why", log.Name())
		}
	}
	return err
}

// start starts the daemon inside. line is closed, by our end at the latest, to end it.
func (l *Launcher) start(namespaces []*os.File, args []string) (pid int, line *os.File, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	defer r.Close()
	pid, err = enter.Start(enter.Command{
		Program: l.Daemon, Args: append([]string{"berthd", EnteredArg}, args...), Env: os.Environ(), Files: []int{0, 1, 2, int(r.Fd())}, Join: joins(namespaces),
	})
	if err != nil {
		w.Close()
		return 0, nil, err
	}
	return pid, w, nil
}

// Inside is called by the daemon inside, at once: it ends with its launcher as if both
// were one process, also when that is killed.
func Inside() {
	unix.CloseOnExec(lifeline)
	go func() {
		var b [1]byte
		for {
			if _, err := unix.Read(lifeline, b[:]); err != unix.EINTR {
				break
			}
		}
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	}()
}

// retire ends hold, which refuses while an instance runs, and then forward. The cgroup
// is left as it was found.
func (l *Launcher) retire(ctx context.Context, dir, cgroup string) {
	ctx = context.WithoutCancel(ctx)
	refused := true
	soon(ctx, 5*time.Second, func() bool {
		_, _, err := ask(ctx, dir, holdSocket, request{Op: opEnd})
		_, refused = errors.AsType[*remoteError](err) // one that ends may not get to say so
		// A keeper that keeps nothing was told to end, and on a busy host takes its time.
		return !refused || answers("unix", l.keeperSocket())
	})
	if refused {
		return
	}
	_, _, _ = ask(ctx, dir, forwardSocket, request{Op: opEnd})
	moveOut(ctx, cgroup)
}

// keeperSocket is the one of package keeper.
func (l *Launcher) keeperSocket() string { return filepath.Join(l.Run, "keeper.sock") }

func wait(pid int) (status int, err error) {
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &ws, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, os.NewSyscallError("wait4", err)
		}
		if ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return ws.ExitStatus(), nil
	}
}

// lock waits for the lock at path. Two launchers must not both start hold.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, os.NewSyscallError("flock", err)
	}
	return func() { f.Close() }, nil
}
