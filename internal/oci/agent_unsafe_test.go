package oci_test

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// notification is struct seccomp_notif of linux/seccomp.h.
type notification struct {
	id         uint64
	pid, flags uint32
	nr         int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

// response is struct seccomp_notif_resp.
type response struct {
	id    uint64
	value int64
	errno int32 // negative
	flags uint32
}

// agent answers the system calls of containers, as a seccomp agent does: with what
// its table says, and with "carry on" for what is not there.
type agent struct {
	t        *testing.T
	path     string
	listener *net.UnixListener
	answers  map[int32]response
	done     sync.WaitGroup

	mu     sync.Mutex
	states []specs.ContainerProcessState // guarded by mu
	asked  []int32                       // numbers of calls; guarded by mu
}

// newAgent lets an agent listen in a directory, for everybody.
func newAgent(t *testing.T, dir string, answers map[int32]response) *agent {
	t.Helper()
	a := &agent{t: t, path: filepath.Join(dir, "agent"), answers: answers}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: a.path, Net: "unix"})
	must(t, err)
	must(t, os.Chmod(a.path, 0o666))
	a.listener = l
	a.done.Go(func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			a.done.Go(func() { a.serve(conn) })
		}
	})
	return a
}

// close ends the agent, which waits for its containers.
func (a *agent) close() {
	a.listener.Close()
	a.done.Wait()
}

// seen returns the states that were sent, and whether a call was asked about.
func (a *agent) seen(nr int32) ([]specs.ContainerProcessState, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.states), slices.Contains(a.asked, nr)
}

func (a *agent) serve(conn *net.UnixConn) {
	state, fd, err := receiveState(conn)
	if err != nil {
		a.t.Errorf("agent: %v", err)
		return
	}
	defer unix.Close(fd)
	a.mu.Lock()
	a.states = append(a.states, state)
	a.mu.Unlock()
	for {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); err == unix.EINTR {
			continue
		}
		if poll[0].Revents&unix.POLLIN == 0 {
			return // the last process with the filter has gone
		}
		var n notification
		if notifyIoctl(fd, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)) != nil {
			continue // the caller has been killed
		}
		a.mu.Lock()
		a.asked = append(a.asked, n.nr)
		a.mu.Unlock()
		r, ok := a.answers[n.nr]
		if !ok {
			r.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
		}
		r.id = n.id
		_ = notifyIoctl(fd, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r)) // ENOENT: killed
	}
}

// receiveState reads the one message of a connection.
func receiveState(conn *net.UnixConn) (state specs.ContainerProcessState, fd int, err error) {
	defer conn.Close()
	body, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4*4))
	n, oobn, _, _, err := conn.ReadMsgUnix(body, oob)
	if err != nil {
		return state, -1, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		return state, -1, errors.Join(err, errors.New("not one control message"))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return state, -1, errors.Join(err, errors.New("not one descriptor"))
	}
	rest, err := io.ReadAll(conn) // to the end: one state for each connection
	if err == nil {
		err = json.Unmarshal(append(body[:n], rest...), &state)
	}
	return state, fds[0], err
}

func notifyIoctl(fd int, request uintptr, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}
