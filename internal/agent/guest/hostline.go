package guest

import (
	"io"
	"os"
	"time"

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

// Read reads what the host sends; io.EOF means that it has gone, and no other has come.
func (l *hostLine) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(l.port, p)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0:
			if !l.back() {
				return 0, io.EOF
			}
		default:
			return n, nil
		}
	}
}

// backWithin is how soon the next host comes that has followed another at once.
const backWithin = time.Second

// back reports whether a host is connected after all: where one follows another, the
// kernel may tell that the first has gone behind what the second has sent already, which
// would end a call that has just begun.
func (l *hostLine) back() bool {
	events := make([]unix.PollFd, 1)
	for until := time.Now().Add(backWithin); ; {
		events[0] = unix.PollFd{Fd: int32(l.port)}
		if _, err := unix.Poll(events, 0); err == nil && events[0].Revents&unix.POLLHUP == 0 {
			return true
		}
		left := time.Until(until)
		if left <= 0 {
			return false
		}
		_, _ = unix.EpollWait(l.epoll, make([]unix.EpollEvent, 1), int(left.Milliseconds())+1)
	}
}

// write writes one frame. It waits for as long as no host is connected.
func (l *hostLine) write(p []byte) error {
	if !writeAll(l.port, p) {
		return io.ErrClosedPipe
	}
	return nil
}
