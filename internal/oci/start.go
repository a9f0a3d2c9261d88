package oci

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/hook"
	"github.com/berthcloud/berth/internal/oci/listener"
	"github.com/berthcloud/berth/internal/oci/program"
	"github.com/berthcloud/berth/internal/oci/wire"
)

// Start lets a created container run its workload. It returns once the workload
// has been executed, or with the reason why it could not be, in which case the
// container is stopped.
func (r *Runtime) Start(id string) error {
	d, err := r.lockDir(id)
	if err != nil {
		return err
	}
	defer d.unlock()
	c, err := r.Load(id)
	if err != nil {
		return err
	}
	if err := c.start(d); err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	return nil
}

func (c *Container) start(d *dir) error {
	// Whoever answers at the socket waits for start: no need to ask for the status.
	conn, err := dialStart(d.fd)
	if err != nil {
		status, serr := c.Status()
		if serr != nil {
			return serr
		}
		return fmt.Errorf(`%w but %s (runtime.md: "Attempting to start a container that is not created MUST generate an error")`, ErrNotCreated, status)
	}
	defer conn.Close()
	if err := c.letGo(conn); err != nil {
		return err
	}
	// Now nobody waits at the socket any more.
	_ = os.Remove(d.file(startFile))
	return c.poststart()
}

// Begin lets the workload of an attended container run. It returns as Start does.
func (c *Container) Begin() error {
	defer c.conn.Close()
	err := c.letGo(c.conn)
	if err == nil {
		err = c.poststart()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.rec.ID, err)
	}
	return nil
}

// letGo lets the process that waits at conn go on to its execve.
func (c *Container) letGo(conn wire.Conn) error {
	if err := conn.Go(); err != nil {
		return err
	}
	return awaitExec(conn, func() error { return c.startHooks(conn) }, func() error { return c.startListener(conn) })
}

// awaitExec follows a process that is ready to its execve, which closes the socket. help
// is called when a helper waits for its job, listening when the filter's listener is to
// be handed to the agent.
func awaitExec(conn wire.Conn, help, listening func() error) error {
	for {
		m, err := conn.Receive()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET):
			return nil
		case err != nil:
			return err
		case m.Kind == program.Failed:
			return m.Failure
		case m.Kind == program.Listening:
			err = listening()
		case m.Kind == program.Help && help != nil:
			err = help()
		case m.Kind == program.Done:
		default:
			err = fmt.Errorf("the container's process says %d", m.Kind)
		}
		if err != nil {
			return err
		}
	}
}

// startHooks gives the helper that runs the startContainer hooks its job.
func (c *Container) startHooks(conn wire.Conn) error {
	spec, err := c.spec()
	if err != nil {
		return err
	}
	state, err := c.document(specs.StateCreated)
	if err != nil {
		return err
	}
	return conn.SendJob(wire.Job{Point: "startContainer", Hooks: spec.Hooks.StartContainer, State: state})
}

// poststart runs the hooks after the workload has begun. Their failure ends the
// container, as with runc.
func (c *Container) poststart() error {
	if !c.rec.LateHooks {
		return nil
	}
	spec, err := c.spec()
	if err != nil || spec.Hooks == nil || len(spec.Hooks.Poststart) == 0 {
		return err
	}
	state, err := c.document(specs.StateRunning)
	if err != nil {
		return err
	}
	if err := hook.Run("poststart", spec.Hooks.Poststart, state); err != nil {
		_ = c.signal(unix.SIGKILL)
		return err
	}
	return nil
}

// startListener hands the listener of the first process's filter to the agent.
func (c *Container) startListener(conn wire.Conn) error {
	spec, err := c.spec()
	if err != nil {
		return err
	}
	pidfd, err := c.pidfd()
	if err != nil {
		return err
	}
	defer unix.Close(pidfd)
	return c.handListener(spec, specs.StateCreated, conn, c.rec.Pid, pidfd)
}

// handListener hands the listener of a process's filter to the profile's agent.
func (c *Container) handListener(s *specs.Spec, status Status, conn wire.Conn, pid, pidfd int) error {
	state := &specs.ContainerProcessState{
		Version: specs.Version, Fds: []string{specs.SeccompFdName}, Pid: pid,
		Metadata: s.Linux.Seccomp.ListenerMetadata, State: c.ociState(status),
	}
	return listener.Hand(listener.Process{Pid: pid, Pidfd: pidfd, Go: conn.Go}, s.Linux.Seccomp.ListenerPath, state)
}

// waiting reports whether the first process still waits for start. The file alone
// does not tell: whoever started the container may have been killed before it
// removed it.
func (c *Container) waiting() bool {
	fd, err := unix.Open(c.path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	if _, err := os.Lstat(filepath.Join(c.path, startFile)); err != nil {
		return false
	}
	conn, err := dialStart(fd)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// dialStart connects to the start socket in an open directory.
func dialStart(dir int) (wire.Conn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return wire.Conn{FD: -1}, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: startAddress(dir)}); err != nil {
		unix.Close(fd)
		return wire.Conn{FD: -1}, err
	}
	return wire.Conn{FD: fd}, nil
}
