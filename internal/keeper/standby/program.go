package standby

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// idle is how long a program stands by for nothing before it is let go: it costs
// a few megabytes, and commands come in bursts.
const idle = time.Second

// Program is a program that stands by while there is something to do. It may be
// used from many goroutines.
type Program struct {
	Path string

	mu      sync.Mutex
	proc    *process // nil while none stands by
	expires *time.Timer
}

// process is one start of the program.
type process struct {
	socket int
	file   unix.Stat_t // of the program when it was started
	users  int         // command lines under way, guarded by Program.mu
	stale  bool        // to be let go when the last user has gone
}

// Run carries out a command line. It returns its exit status and what it had to
// say, or an error where it could not be carried out to its end. When ctx ends it is
// told to stop, and awaited.
func (p *Program) Run(ctx context.Context, args []string, stdio [3]*os.File) (status int, text string, err error) {
	body, err := json.Marshal(request{args})
	if err != nil {
		return 0, "", err
	}
	if len(body) > maxRequest {
		return 0, "", fmt.Errorf("%s: a command line of %d bytes, more than %d", p.Path, len(body), maxRequest)
	}
	for again := false; ; again = true {
		proc, err := p.acquire()
		if err != nil {
			return 0, "", err
		}
		reply, err := proc.ask(ctx, body, stdio)
		if len(reply) > 1 && err == nil {
			p.release(proc)
			var a answer
			err = json.Unmarshal(reply[1:], &a)
			return a.Status, a.Text, err
		}
		// It was killed. Where it has not seen the command line, another one can.
		p.retire(proc)
		p.release(proc)
		if again || len(reply) > 0 || ctx.Err() != nil {
			return 0, "", fmt.Errorf("%s: it has died: %w", p.Path, cmp.Or(err, io.ErrUnexpectedEOF))
		}
	}
}

// ask hands over a command line and returns all that comes back. When ctx ends, the
// process is told.
func (proc *process) ask(ctx context.Context, body []byte, stdio [3]*os.File) ([]byte, error) {
	back, err := proc.send(body, stdio)
	if err != nil {
		return nil, err
	}
	defer back.Close()
	// Half closed is enough for the other side to stop, and lets it answer.
	stop := context.AfterFunc(ctx, func() { _ = shutdown(back) })
	defer stop()
	return io.ReadAll(io.LimitReader(back, maxRequest))
}

func shutdown(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
}

// Warm makes sure that the program stands by for a moment.
func (p *Program) Warm() error {
	proc, err := p.acquire()
	if err != nil {
		return err
	}
	p.release(proc)
	return nil
}

// acquire returns a process of the program, as it is on disk now.
func (p *Program) acquire() (*process, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var st unix.Stat_t
	if err := unix.Stat(p.Path, &st); err != nil {
		return nil, &os.PathError{Op: "start", Path: p.Path, Err: err}
	}
	if old := p.proc; old != nil && (old.file.Dev != st.Dev || old.file.Ino != st.Ino || old.file.Ctim != st.Ctim) {
		p.drop(old) // another version has been installed
	}
	if p.proc == nil {
		proc, err := start(p.Path)
		if err != nil {
			return nil, err
		}
		proc.file = st
		p.proc = proc
	}
	if p.expires != nil {
		p.expires.Stop()
	}
	p.proc.users++
	return p.proc, nil
}

func (p *Program) release(proc *process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	proc.users--
	if proc.users > 0 {
		return
	}
	if proc.stale {
		unix.Close(proc.socket)
		return
	}
	p.expires = time.AfterFunc(idle, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.proc == proc && proc.users == 0 {
			p.drop(proc)
		}
	})
}

// retire makes sure that nobody else gets a process that does not work.
func (p *Program) retire(proc *process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proc == proc {
		p.drop(proc)
	}
}

// drop lets the process go once nobody uses it. The caller holds mu.
func (p *Program) drop(proc *process) {
	p.proc = nil
	proc.stale = true
	if proc.users == 0 {
		unix.Close(proc.socket)
	}
}

// start starts the program with nothing but its end of the socket. It is not waited
// for: whoever calls reaps its children.
func start(path string) (*process, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(pair[1])
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Close(pair[0])
		return nil, &os.PathError{Op: "open", Path: os.DevNull, Err: err}
	}
	defer unix.Close(null)
	// One thread of Go code: what the program does is system calls, during which others
	// may run, and a thread less does not have to be woken.
	_, err = syscall.ForkExec(path, []string{path, Command}, &syscall.ProcAttr{
		Dir: "/", Env: []string{"GOMAXPROCS=1"},
		Files: []uintptr{uintptr(null), uintptr(null), uintptr(null), socketFD: uintptr(pair[1])},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		unix.Close(pair[0])
		return nil, &os.PathError{Op: "start", Path: path, Err: err}
	}
	return &process{socket: pair[0]}, nil
}

// send hands over a command line and returns our end of its answer.
func (proc *process) send(body []byte, stdio [3]*os.File) (*os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(pair[1])
	files := make([]int, 0, 4)
	for _, f := range stdio {
		files = append(files, int(f.Fd()))
	}
	rights := unix.UnixRights(append(files, pair[1])...)
	for {
		err = unix.Sendmsg(proc.socket, body, rights, nil, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		unix.Close(pair[0])
		return nil, os.NewSyscallError("sendmsg", err)
	}
	return os.NewFile(uintptr(pair[0]), "answer"), nil
}
