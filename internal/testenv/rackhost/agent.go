package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/berthcloud/berth/internal/testenv/rackwire"
)

// agent runs what the test asks for.
type agent struct {
	mu   sync.Mutex // guards enc and jobs
	enc  *json.Encoder
	jobs map[int]*job
}

// job is one running command.
type job struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
}

// serve answers requests until the port is closed, which never happens while
// QEMU lives.
func serve() error {
	vm, err := holdVM()
	if err != nil {
		return err
	}
	defer vm.Close()
	port, err := openPort(rackwire.Port)
	if err != nil {
		return err
	}
	defer port.Close()
	a := &agent{enc: json.NewEncoder(port), jobs: map[int]*job{}}
	a.say(rackwire.Response{Ready: true})
	for dec := json.NewDecoder(port); ; {
		var r rackwire.Request
		if err := dec.Decode(&r); err != nil {
			return err
		}
		a.handle(r)
	}
}

// openPort opens a virtio-serial port by its name; there is no udev to make
// links in /dev/virtio-ports.
func openPort(name string) (*os.File, error) {
	files, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(text)) == name {
			return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(f)), os.O_RDWR, 0)
		}
	}
	return nil, fmt.Errorf("no virtio-serial port %q", name)
}

func (a *agent) say(r rackwire.Response) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.enc.Encode(r); err != nil {
		fmt.Fprintln(os.Stderr, "rackhost: answer:", err)
	}
}

func (a *agent) handle(r rackwire.Request) {
	if r.Argv != nil {
		if err := a.start(r); err != nil {
			a.say(rackwire.Response{ID: r.ID, Done: true, Exit: 127, Error: err.Error()})
		}
		return
	}
	a.mu.Lock()
	j := a.jobs[r.ID]
	a.mu.Unlock()
	if j == nil {
		return // it has ended meanwhile
	}
	if len(r.Stdin) > 0 {
		j.stdin.Write(r.Stdin)
	}
	if r.CloseStdin {
		j.stdin.Close()
	}
	if r.Kill {
		// The whole session: a shell's children too.
		syscall.Kill(-j.cmd.Process.Pid, syscall.SIGKILL)
	}
}

// start runs a command in a session of its own.
func (a *agent) start(r rackwire.Request) error {
	cmd := exec.Command(r.Argv[0], r.Argv[1:]...)
	cmd.Env = append(os.Environ(), r.Env...)
	cmd.Dir = "/root"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.WaitDelay = time.Second // a daemon that it started may keep its output open
	cmd.Stdout = stream(func(p []byte) { a.say(rackwire.Response{ID: r.ID, Stdout: p}) })
	cmd.Stderr = stream(func(p []byte) { a.say(rackwire.Response{ID: r.ID, Stderr: p}) })
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	a.mu.Lock()
	a.jobs[r.ID] = &job{cmd: cmd, stdin: stdin}
	a.mu.Unlock()
	go func() {
		err := cmd.Wait()
		a.mu.Lock()
		delete(a.jobs, r.ID)
		a.mu.Unlock()
		end := rackwire.Response{ID: r.ID, Done: true, Exit: cmd.ProcessState.ExitCode()}
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
			end.Error = err.Error()
		}
		a.say(end)
	}()
	return nil
}

// stream is a writer that hands on what is written.
type stream func([]byte)

func (s stream) Write(p []byte) (int, error) {
	s(p)
	return len(p), nil
}
