package rest

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
)

// Group is the group whose members may use the API.
const Group = "berth"

// probe bounds how long Listen waits for a socket's owner to answer.
const probe = time.Second

// Listen makes the API's socket: owned by root and the group berth, mode
// 0660; by root alone, mode 0600, where the host has no such group. The socket
// of a daemon that died is replaced, that of one that lives is refused.
//
// Two daemons that start at once cannot take the socket from each other: a
// daemon holds a lock beside its socket for as long as it listens. The kernel
// lets go of it when the daemon dies.
func Listen(path string) (_ net.Listener, err error) {
	const op = "listen"
	making := path + ".new"
	if longest := len(unix.RawSockaddrUnix{}.Path) - 1; len(making) > longest {
		return nil, api.E(op, api.Invalid, path, fmt.Errorf("the path of a socket has at most %d bytes; choose a shorter one with --socket", longest-len(".new")))
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, api.E(op, api.Invalid, path, err)
	}
	lock, err := lockBeside(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			unlock(lock)
		}
	}()
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// Nobody may connect before the owner and the mode are right: the socket
	// is made under another name, and renamed.
	if err := os.Remove(making); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, api.E(op, api.Invalid, path, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: making, Net: "unix"})
	if err != nil {
		return nil, api.E(op, api.Invalid, path, err)
	}
	l.SetUnlinkOnClose(false) // it goes by another name; listener removes it
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close(), os.Remove(making))
		}
	}()
	if err := own(making); err != nil {
		return nil, api.E(op, api.Denied, path, err)
	}
	if err := os.Rename(making, path); err != nil {
		return nil, api.E(op, api.Invalid, path, err)
	}
	return &listener{UnixListener: l, path: path, lock: lock}, nil
}

// listener removes its socket and its lock when it is closed.
type listener struct {
	*net.UnixListener
	path string
	lock *os.File
}

// Close implements net.Listener.
func (l *listener) Close() error {
	err := l.UnixListener.Close()
	if err == nil { // the first Close only: the name may be another daemon's by now
		_ = os.Remove(l.path)
		unlock(l.lock)
	}
	return err
}

// unlock removes a lock while it is still held, then lets go of it.
func unlock(lock *os.File) {
	_ = os.Remove(lock.Name())
	_ = lock.Close()
}

// lockBeside takes the lock that guards a socket's name.
func lockBeside(path string) (*os.File, error) {
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, api.E("listen", api.Denied, path, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(api.E("listen", api.InUse, path, errors.New("a berthd is serving this socket already; stop it, or choose another --socket")), f.Close())
	}
	return f, nil
}

// removeStale removes the socket of a daemon that has died.
func removeStale(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return api.E("listen", api.Invalid, path, err)
	}
	if st.Mode()&fs.ModeSocket == 0 {
		return api.E("listen", api.Exists, path, errors.New("exists and is not a socket; remove it, or choose another --socket"))
	}
	conn, err := net.DialTimeout("unix", path, probe)
	if err == nil {
		conn.Close()
		return api.E("listen", api.InUse, path, errors.New("a berthd is serving this socket already; stop it, or choose another --socket"))
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return api.E("listen", api.InUse, path, fmt.Errorf("cannot tell whether a berthd serves this socket: %w; stop it, or choose another --socket", err))
	}
	if err := os.Remove(path); err != nil {
		return api.E("listen", api.Denied, path, err)
	}
	return nil
}

// own gives a socket its owner and mode.
func own(path string) error {
	g, err := user.LookupGroup(Group)
	if _, missing := errors.AsType[user.UnknownGroupError](err); missing {
		return os.Chmod(path, 0o600)
	} else if err != nil {
		return fmt.Errorf("looking up the group %s: %w", Group, err)
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return err
	}
	if err := os.Chown(path, -1, gid); err != nil {
		return err
	}
	return os.Chmod(path, 0o660)
}
