package stage

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/mount"
)

// newSession makes the workload leader of its own session, out of reach of the
// terminal and the job control of whoever called the runtime.
func (s *stage) newSession() error {
	if _, err := unix.Setsid(); err != nil && err != unix.EPERM { // EPERM: already is
		return os.NewSyscallError("setsid", err)
	}
	return nil
}

// console gives an init a terminal of the container's own devpts and mounts it on
// /dev/console.
//
// Neither end is found by a path that the image controls: the master is opened
// through the devpts just made, and the peer by TIOCGPTPEER (CVE-2025-52565).
func (i *initStage) console() error {
	if !i.proc.Terminal {
		return nil
	}
	if i.devpts < 0 {
		return errors.New("process.terminal: needs a mount of type devpts on /dev/pts")
	}
	peer, err := i.openTerminal(i.devpts)
	if err != nil {
		return err
	}
	target, err := i.root.File("/dev/console")
	if err != nil {
		return err
	}
	defer unix.Close(target)
	if err := mount.Guard(target, "/dev/console"); err != nil {
		return err
	}
	mnt, err := mount.Clone(peer, false)
	if err != nil {
		return fmt.Errorf("/dev/console: %w", err)
	}
	defer unix.Close(mnt)
	if err := mount.Place(mnt, target); err != nil {
		return fmt.Errorf("/dev/console: move_mount: %w", err)
	}
	return i.takeTerminal(peer)
}

// execTerminal gives a command a terminal of the running container, whose /dev may
// be anything by now: only a real devpts with a real multiplexer is accepted.
func (s *stage) execTerminal() error {
	if !s.proc.Terminal {
		return nil
	}
	dir, err := unix.Open("/dev/pts", unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("process.terminal: the container's /dev/pts: %w", err)
	}
	defer unix.Close(dir)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(dir, &fs); err != nil || fs.Type != unix.DEVPTS_SUPER_MAGIC {
		return errors.New("process.terminal: the container's /dev/pts is not a devpts")
	}
	peer, err := s.openTerminal(dir)
	if err != nil {
		return err
	}
	return s.takeTerminal(peer)
}

// openTerminal makes a terminal of the devpts, sends its master to the caller of the
// runtime, and returns the peer.
func (s *stage) openTerminal(devpts int) (int, error) {
	master, err := unix.Openat2(devpts, "ptmx", &unix.OpenHow{
		Flags:   unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return -1, fmt.Errorf("process.terminal: /dev/pts/ptmx: %w", err)
	}
	defer unix.Close(master)
	var st unix.Stat_t
	if err := unix.Fstat(master, &st); err != nil || st.Rdev != unix.Mkdev(5, 2) {
		return -1, errors.New("process.terminal: /dev/pts/ptmx is not the terminal multiplexer")
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return -1, os.NewSyscallError("TIOCSPTLCK", err)
	}
	peer, err := openPeer(master)
	if err != nil {
		return -1, os.NewSyscallError("TIOCGPTPEER", err)
	}
	if s.proc.Rows > 0 && s.proc.Cols > 0 {
		size := &unix.Winsize{Row: s.proc.Rows, Col: s.proc.Cols}
		if err := unix.IoctlSetWinsize(peer, unix.TIOCSWINSZ, size); err != nil {
			return -1, os.NewSyscallError("TIOCSWINSZ", err)
		}
	}
	number, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		return -1, os.NewSyscallError("TIOCGPTN", err)
	}
	socket := s.take(s.proc.ConsoleFile)
	name := "/dev/pts/" + strconv.Itoa(number)
	if err := unix.Sendmsg(socket, []byte(name), unix.UnixRights(master), nil, unix.MSG_NOSIGNAL); err != nil {
		return -1, fmt.Errorf("sending the terminal to the console socket: %w", err)
	}
	unix.Close(socket)
	return peer, nil
}

// takeTerminal makes the terminal the standard streams and, unless it is the console
// of an init, the controlling one.
func (s *stage) takeTerminal(peer int) error {
	if !s.proc.Console {
		if err := unix.IoctlSetInt(peer, unix.TIOCSCTTY, 0); err != nil {
			return os.NewSyscallError("TIOCSCTTY", err)
		}
	}
	for fd := range 3 {
		if err := unix.Dup3(peer, fd, 0); err != nil {
			return os.NewSyscallError("dup3", err)
		}
	}
	if peer > 2 {
		unix.Close(peer)
	}
	return nil
}
