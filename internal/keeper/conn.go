package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Conn is a unix stream connection on an os.File, which parks its readers and
// writers in the runtime's poller and knows deadlines. Package net would do
// the same for another megabyte in every keeper.
type Conn struct{ *os.File }

// maxSocketPath is what fits sockaddr_un (unix(7)), without the final NUL.
const maxSocketPath = 107

// CheckSocketPath returns an error where no socket can have this path.
func CheckSocketPath(path string) error {
	if len(path) > maxSocketPath {
		return fmt.Errorf("socket path %s has %d bytes, more than the kernel's %d; choose a shorter run directory", path, len(path), maxSocketPath)
	}
	return nil
}

// Dial connects to the unix stream socket at path. A full backlog is waited
// for until ctx ends.
func Dial(ctx context.Context, path string) (*Conn, error) {
	if err := CheckSocketPath(path); err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		if err == nil {
			return &Conn{os.NewFile(uintptr(fd), path)}, nil
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			break
		}
		select {
		case <-ctx.Done():
			unix.Close(fd)
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
	unix.Close(fd)
	return nil, &os.PathError{Op: "connect", Path: path, Err: err}
}

// Listen makes a unix stream socket at path that only its owner may connect
// to. A file at path is replaced.
func Listen(path string) (*Conn, error) {
	if err := CheckSocketPath(path); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "bind", Path: path, Err: err}
	}
	// Nobody can connect between Bind and Chmod: there is no Listen yet.
	if err := errors.Join(os.Chmod(path, 0o600), unix.Listen(fd, 128)); err != nil {
		unix.Close(fd)
		os.Remove(path)
		return nil, &os.PathError{Op: "listen", Path: path, Err: err}
	}
	return &Conn{os.NewFile(uintptr(fd), path)}, nil
}

// Accept waits for the next connection. A Close of the listener, or a deadline
// on it, ends the wait with an error.
func (c *Conn) Accept() (*Conn, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var nfd int
	var aerr error
	err = raw.Read(func(fd uintptr) bool {
		nfd, _, aerr = unix.Accept4(int(fd), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		return aerr != unix.EAGAIN
	})
	if err = errors.Join(err, aerr); err != nil {
		return nil, err
	}
	return &Conn{os.NewFile(uintptr(nfd), c.Name())}, nil
}

// PeerUID returns the user id of the process at the other end.
func (c *Conn) PeerUID() (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var cerr error
	err = raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, cerr); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

// Closed reports whether the peer has closed the connection. It neither waits
// nor consumes anything.
func (c *Conn) Closed() bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	closed := false
	err = raw.Control(func(fd uintptr) { closed = peek(int(fd)) == peerGone })
	return err != nil || closed
}

// WaitClosed returns when the peer has closed the connection (true), or has
// sent something, or the read deadline has passed (false). It consumes
// nothing.
func (c *Conn) WaitClosed() bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	seen := peerSilent
	err = raw.Read(func(fd uintptr) bool {
		seen = peek(int(fd))
		return seen != peerSilent
	})
	return err == nil && seen == peerGone
}

// peerState is what one look at a connection tells.
type peerState int

const (
	peerSilent peerState = iota // there, and has sent nothing
	peerSpeaks                  // has sent something
	peerGone                    // has closed
)

func peek(fd int) peerState {
	var b [1]byte
	for {
		n, _, err := unix.Recvfrom(fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return peerSilent
		case err != nil || n == 0:
			return peerGone
		default:
			return peerSpeaks
		}
	}
}
