package guest

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// hostLine is the control port as a stream that hosts connect to and leave.
//
// While no host is connected a read finds the end at once. To wait for the
// next host without a clock, the port stands in an edge-triggered epoll set
// from the beginning: whatever happens after await has returned wakes the next
// await.
type hostLine struct {
	port, epoll int
}

func newHostLine(port int) (*hostLine, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll", err)
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLET}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, port, &event); err != nil {
		unix.Close(epoll)
		return nil, os.NewSyscallError("epoll", err)
	}
	return &hostLine{port: port, epoll: epoll}, nil
}

// await returns once a host is connected.
func (l *hostLine) await() {
	events := make([]unix.EpollEvent, 1)
	for {
		n, err := unix.EpollWait(l.epoll, events, -1)
		if err != nil && err != unix.EINTR {
			return
		}
		// The kernel says HUP for as long as no host is connected.
		if n > 0 && events[0].Events&unix.EPOLLHUP == 0 {
			return
		}
	}
}

// Read reads what the host sends; io.EOF means that it has gone.
func (l *hostLine) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(l.port, p)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// write writes one frame. It waits for as long as no host is connected.
func (l *hostLine) write(p []byte) error {
	if !writeAll(l.port, p) {
		return io.ErrClosedPipe
	}
	return nil
}
