package netdev

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// order is that of netlink: the machine's.
var order = binary.NativeEndian

// conn is an rtnetlink socket.
type conn struct {
	fd  int
	seq uint32
}

// dial opens a socket in a network namespace, -1 for the caller's own. The socket stays
// in it wherever it is used.
func dial(ns int) (*conn, error) {
	if ns >= 0 {
		runtime.LockOSThread()
		own, closeOwn, err := namespace(-1)
		if err != nil {
			runtime.UnlockOSThread()
			return nil, err
		}
		defer closeOwn()
		if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			return nil, os.NewSyscallError("setns to the network namespace", err)
		}
		defer func() {
			// A thread that cannot come back stays locked and ends with its goroutine.
			if unix.Setns(own, unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
		}()
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("netlink socket", err)
	}
	return &conn{fd: fd}, nil
}

func (c *conn) close() { unix.Close(c.fd) }

// request sends one message and returns the bodies of the answers up to the end of the
// dump or the acknowledgment.
func (c *conn) request(kind uint16, flags uint16, body []byte) ([][]byte, error) {
	c.seq++
	m := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(body))
	order.PutUint32(m, uint32(unix.SizeofNlMsghdr+len(body)))
	order.PutUint16(m[4:], kind)
	order.PutUint16(m[6:], flags|unix.NLM_F_REQUEST)
	order.PutUint32(m[8:], c.seq)
	if err := unix.Sendto(c.fd, append(m, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, os.NewSyscallError("netlink send", err)
	}
	var replies [][]byte
	for {
		part, done, err := c.receive()
		replies = append(replies, part...)
		if done || err != nil {
			return replies, err
		}
	}
}

// receive reads one datagram of answers.
func (c *conn) receive() (replies [][]byte, done bool, err error) {
	buf := make([]byte, 64<<10)
	n, _, err := unix.Recvfrom(c.fd, buf, 0)
	if err != nil {
		return nil, false, os.NewSyscallError("netlink receive", err)
	}
	for b := buf[:n]; len(b) >= unix.SizeofNlMsghdr; {
		size := int(order.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return nil, false, errors.New("netlink: a message that is cut off")
		}
		body := b[unix.SizeofNlMsghdr:size]
		if order.Uint32(b[8:]) == c.seq {
			switch order.Uint16(b[4:]) {
			case unix.NLMSG_DONE:
				return replies, true, nil
			case unix.NLMSG_ERROR:
				if len(body) >= 4 && order.Uint32(body) != 0 {
					return nil, true, unix.Errno(-int32(order.Uint32(body)))
				}
				return replies, true, nil
			}
			replies = append(replies, body)
		}
		b = b[min(align(size), len(b)):]
	}
	return replies, false, nil
}

// attribute is struct rtattr with its value.
type attribute struct {
	kind  uint16
	value []byte
}

const attributeHeader = unix.SizeofRtAttr

func attributes(b []byte) []attribute {
	var list []attribute
	for len(b) >= attributeHeader {
		size := int(order.Uint16(b))
		if size < attributeHeader || size > len(b) {
			break
		}
		list = append(list, attribute{order.Uint16(b[2:]), b[attributeHeader:size]})
		b = b[min(align(size), len(b)):]
	}
	return list
}

func appendAttribute(b []byte, kind uint16, value []byte) []byte {
	b = order.AppendUint16(b, uint16(attributeHeader+len(value)))
	b = order.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, align(len(b))-len(b))...)
}

// align rounds up to NLMSG_ALIGNTO.
func align(n int) int { return (n + 3) &^ 3 }
