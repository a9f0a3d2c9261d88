package guest

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/agent"
)

// openTerminal makes a pseudoterminal of the given size.
func openTerminal(size agent.Size) (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("open ptmx", err)
	}
	master = os.NewFile(uintptr(fd), "ptmx")
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = resize(master, size)
	}
	if err == nil {
		slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		master.Close()
		return nil, nil, err
	}
	return master, slave, nil
}

// resize sets a terminal's size; zero means unknown and changes nothing.
func resize(terminal *os.File, size agent.Size) error {
	if size == (agent.Size{}) {
		return nil
	}
	return os.NewSyscallError("TIOCSWINSZ", unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ,
		&unix.Winsize{Row: size.Rows, Col: size.Cols}))
}
