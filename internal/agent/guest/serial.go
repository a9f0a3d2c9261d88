package guest

import (
	"encoding/binary"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/agent"
)

// A machine without virtio has a serial line for each port, on a PCI slot that
// tells which. A line carries bytes and nothing else: it shows neither that a
// host has come or gone nor the end of a stream, and what comes while nobody
// reads is lost.

// serialLine returns the device of the serial line that stands for a port, or "".
// Every guest asks, so it is one system call where there are none.
func serialLine(number int) string {
	dir, err := os.Open("/sys/bus/pci/devices/0000:00:" + strconv.FormatInt(int64(agent.SerialSlot(number)), 16) + ".0/tty")
	if err != nil {
		return ""
	}
	defer dir.Close()
	names, err := dir.Readdirnames(1)
	if err != nil {
		return ""
	}
	return "/dev/" + names[0]
}

// openLine opens a serial line that passes every byte as it is.
func openLine(path string, mode int) (int, error) {
	// The kernel waits for no carrier then.
	fd, err := unix.Open(path, mode|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("open "+path, err)
	}
	raw := unix.Termios{Cflag: unix.CS8 | unix.CREAD | unix.CLOCAL | unix.B115200}
	raw.Cc[unix.VMIN] = 1
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &raw); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("tcsetattr "+path, err)
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("fcntl "+path, err)
	}
	return fd, nil
}

// askInterval is how often a frame is asked for that does not come: the host may
// not have been there to hear it.
const askInterval = 1000 // milliseconds

// copyFrames copies standard input from a serial line, on which it comes in
// frames that are asked for one by one (package keeper, Stdio.StdinAsked): so the
// line never carries more than the entrypoint takes, and has an end.
func copyFrames(to int, path string) error {
	fd, err := openLine(path, unix.O_RDWR)
	if err != nil {
		return err
	}
	line := os.NewFile(uintptr(fd), path)
	defer line.Close()
	for {
		if err := ask(fd); err != nil {
			return err
		}
		var head [2]byte
		if _, err := io.ReadFull(line, head[:]); err != nil {
			return err
		}
		data := make([]byte, binary.BigEndian.Uint16(head[:]))
		if _, err := io.ReadFull(line, data); err != nil {
			return err
		}
		if len(data) == 0 || !writeAll(to, data) {
			return nil
		}
	}
}

// ask asks for a frame until one begins.
func ask(line int) error {
	for {
		if !writeAll(line, []byte{'?'}) {
			return io.ErrClosedPipe
		}
		ready := []unix.PollFd{{Fd: int32(line), Events: unix.POLLIN}}
		n, err := unix.Poll(ready, askInterval)
		if n > 0 || err != nil && err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
	}
}
