package fake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// run implements instance.Handle, Execer, Attacher, Pauser, Statser, Topper.
type run struct {
	world *World
	p     *instance.Prepared
	cmd   *exec.Cmd
	stdin io.WriteCloser // nil without OpenStdin
	log   *os.File
	done  chan struct{} // closed when exit is set

	created time.Time

	mu      sync.Mutex
	started bool
	paused  bool
	exit    api.Exit
	readers map[*instance.Streams]struct{}
}

func newRun(w *World, p *instance.Prepared, path string) (*run, error) {
	r := &run{world: w, p: p, created: time.Now(), done: make(chan struct{}), readers: make(map[*instance.Streams]struct{})}
	r.cmd = &exec.Cmd{Path: path, Args: p.Process.Args, Env: append(p.Process.Env, "PATH="+os.Getenv("PATH"))}
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	r.cmd.Stdout = &fan{r: r, stream: "stdout"}
	r.cmd.Stderr = &fan{r: r, stream: "stderr"}
	if !p.Process.OpenStdin {
		return r, nil
	}
	var err error
	r.stdin, err = r.cmd.StdinPipe()
	return r, err
}

// fan writes output to the log and to every attached reader.
type fan struct {
	r      *run
	stream string
}

func (f *fan) Write(b []byte) (int, error) {
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	for line := range bytes.Lines(b) {
		fmt.Fprintf(f.r.log, "%s %s F %s\n", time.Now().UTC().Format("2006-01-02T15:04:05.000000000Z"), f.stream, bytes.TrimSuffix(line, []byte("\n")))
	}
	for s := range f.r.readers {
		w := s.Stdout
		if f.stream == "stderr" {
			w = s.Stderr
		}
		if w != nil {
			_, _ = w.Write(b)
		}
	}
	return len(b), nil
}

func (r *run) Start(context.Context) (instance.Status, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.started {
		return instance.Status{}, r.conflict("start", "it was started before")
	}
	var err error
	if r.log, err = os.OpenFile(r.p.LogPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return instance.Status{}, err
	}
	if err := r.cmd.Start(); err != nil {
		return instance.Status{}, errors.Join(err, r.log.Close())
	}
	r.started = true
	go r.reap()
	return r.status(), nil
}

func (r *run) reap() {
	_ = r.cmd.Wait()
	status := r.cmd.ProcessState.Sys().(syscall.WaitStatus)
	code := status.ExitStatus()
	if status.Signaled() {
		code = 128 + int(status.Signal())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.log.Close()
	r.exit = api.Exit{Code: code, Time: time.Now()}
	close(r.done)
}

func (r *run) conflict(op, why string) error {
	return api.E(op, api.Conflict, r.p.Spec.Name, errors.New(why))
}

func (r *run) alive() bool {
	select {
	case <-r.done:
		return false
	default:
		return r.started
	}
}

func (r *run) Signal(_ context.Context, signal int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.alive() {
		return r.conflict("kill", "it is not running")
	}
	return syscall.Kill(-r.cmd.Process.Pid, syscall.Signal(signal))
}

func (r *run) Stop(ctx context.Context, signal int, grace time.Duration) error {
	if err := r.Signal(ctx, signal); err != nil {
		return nil //nolint:nilerr // a run that has ended is stopped
	}
	select {
	case <-r.done:
		return nil
	case <-time.After(grace):
	case <-ctx.Done():
		return ctx.Err()
	}
	_ = r.Signal(ctx, int(syscall.SIGKILL))
	<-r.done
	return nil
}

func (r *run) Wait(ctx context.Context) (api.Exit, error) {
	select {
	case <-r.done:
		return r.exit, nil
	case <-ctx.Done():
		return api.Exit{}, ctx.Err()
	}
}

func (r *run) Status(context.Context) (instance.Status, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status(), nil
}

// status is called with mu held.
func (r *run) status() instance.Status {
	s := instance.Status{State: api.Running, Created: r.created}
	switch {
	case !r.started:
		s.State = api.Created
		return s
	case !r.alive():
		s.State = api.Exited
		return s
	case r.paused:
		s.State = api.Paused
	}
	s.PID = r.cmd.Process.Pid
	return s
}

func (r *run) Update(context.Context, api.Limits) error { return nil }

func (r *run) Delete(ctx context.Context) error {
	if err := r.Signal(ctx, int(syscall.SIGKILL)); err == nil {
		<-r.done
	}
	r.world.mu.Lock()
	defer r.world.mu.Unlock()
	delete(r.world.runs, r.p.ID)
	return nil
}

func (r *run) Pause(ctx context.Context) error   { return r.freeze(ctx, syscall.SIGSTOP, true) }
func (r *run) Unpause(ctx context.Context) error { return r.freeze(ctx, syscall.SIGCONT, false) }

func (r *run) freeze(ctx context.Context, signal syscall.Signal, paused bool) error {
	if err := r.Signal(ctx, int(signal)); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.paused = paused
	return nil
}

func (r *run) Attach(ctx context.Context, s instance.Streams, ready func()) error {
	r.mu.Lock()
	r.readers[&s] = struct{}{}
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.readers, &s)
	}()
	if ready != nil {
		ready()
	}
	if s.Stdin != nil && r.p.Process.OpenStdin {
		go r.feed(s.Stdin)
	}
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// feed copies a client's standard input to the process; its end is passed on
// where the first client's is the last.
func (r *run) feed(in io.Reader) {
	_, err := io.Copy(r.stdin, in)
	if err == nil && r.p.Process.StdinOnce {
		_ = r.stdin.Close()
	}
}

func (r *run) Exec(ctx context.Context, e api.Exec, s instance.Streams) (api.Exit, error) {
	r.mu.Lock()
	alive := r.alive()
	r.mu.Unlock()
	if !alive {
		return api.Exit{}, r.conflict("exec", "it is not running; start it first")
	}
	if len(e.Command) == 0 {
		return api.Exit{}, api.E("exec", api.Invalid, r.p.Spec.Name, errors.New("no command was given"))
	}
	path, err := lookup(e.Command[0])
	if err != nil {
		return api.Exit{}, err
	}
	cmd := exec.CommandContext(ctx, path, e.Command[1:]...)
	cmd.Env = append(os.Environ(), e.Env...)
	cmd.Dir = e.WorkingDir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.Stdin, s.Stdout, s.Stderr
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return api.Exit{}, err
	}
	return api.Exit{Code: cmd.ProcessState.ExitCode(), Time: time.Now()}, ctx.Err()
}

func (r *run) Stats(context.Context) (api.Stats, error) {
	return api.Stats{ID: r.p.ID, Name: r.p.Spec.Name, Time: time.Now(), PIDs: 1}, nil
}

func (r *run) Top(context.Context) (api.Top, error) {
	return api.Top{Processes: []api.Process{{PID: 1, User: "0", State: "S", Command: r.cmd.Path}}}, nil
}
