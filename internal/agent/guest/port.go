package guest

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/agent"
)

var errNoPort = errors.New("the host gave this machine no such port")

// openPort opens a port in blocking mode: then a write returns only after the
// host has taken the bytes, and powering off loses none. A port of virtio-serial
// has a node that appears a moment after its driver was loaded; the open waits
// for it.
func openPort(number, mode int) (fd int, err error) {
	if line := serialLine(number); line != "" {
		return openLine(line, mode)
	}
	err = awaitDevice(func() error {
		fd, err = tryPort(number, mode)
		return err
	}, errNoPort)
	return fd, err
}

// tryPort opens the port if its node /dev/vportDpN exists. D is the number of
// the virtio device, which depends on what else the machine has.
func tryPort(number, mode int) (int, error) {
	dev, err := os.Open("/dev")
	if err != nil {
		return -1, err
	}
	defer dev.Close()
	names, err := dev.Readdirnames(-1)
	if err != nil {
		return -1, err
	}
	suffix := "p" + strconv.Itoa(number)
	for _, name := range names {
		if strings.HasPrefix(name, "vport") && strings.HasSuffix(name, suffix) {
			return openNew("/dev/"+name, mode)
		}
	}
	return -1, errNoPort
}

// openNew opens a port whose node is there. The driver knows the port only a moment
// after it has made the node (add_port in drivers/char/virtio_console.c), and says
// ENXIO until then; nothing tells when.
func openNew(path string, mode int) (int, error) {
	for deadline := time.Now().Add(devicePatience); ; <-time.After(time.Millisecond) {
		fd, err := unix.Open(path, mode|unix.O_CLOEXEC, 0)
		if err != unix.ENXIO || time.Now().After(deadline) {
			return fd, os.NewSyscallError("open "+path, err)
		}
	}
}

// copyInput copies what comes on the port of standard input until its end.
func copyInput(to int) error {
	if line := serialLine(agent.PortStdin); line != "" {
		return copyFrames(to, line)
	}
	port, err := openInput(agent.PortStdin)
	if err != nil {
		return err
	}
	pump(to, port)
	// Left open, the port would accept bytes that nobody reads.
	return unix.Close(port)
}

// openInput opens a port to read from, once the host has connected to it.
//
// The kernel shows a host that has not come yet and one that has gone in the
// same way, as the end of the stream; and QEMU reads from its host only while
// the port is open. So a host that sends little and ends could come and go
// between an open and any look at the port. Before the open nothing can be
// lost, and only debugfs tells then whether the host is there.
func openInput(number int) (int, error) {
	if err := awaitHost(number); err != nil {
		return -1, err
	}
	return openPort(number, unix.O_RDONLY)
}

// awaitHost returns once the host is connected to a port.
func awaitHost(number int) error {
	const dir = "/sys/kernel/debug"
	if err := mount("debugfs", dir, "debugfs", noSetuid, ""); err != nil {
		return err
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	// The file has no way to wait for its content to change.
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		states, err := filepath.Glob(dir + "/virtio-ports/vport*p" + strconv.Itoa(number))
		if err != nil {
			return err
		}
		for _, file := range states {
			state, err := os.ReadFile(file)
			if err == nil && strings.Contains(string(state), "host_connected: 1") {
				return nil
			}
		}
		<-time.After(wait)
	}
}

// pump copies with plain blocking calls until the source ends.
func pump(to, from int) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := unix.Read(from, buffer)
		if err == unix.EINTR {
			continue
		}
		if n <= 0 || !writeAll(to, buffer[:n]) {
			return
		}
	}
}

func writeAll(to int, p []byte) bool {
	for len(p) > 0 {
		n, err := unix.Write(to, p)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return false
		}
		p = p[n:]
	}
	return true
}
