package testenv

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
)

// ethernetSwitch joins the hosts of a rack. Each connection is a host's
// network card: QEMU's "stream" back end, which sends every Ethernet frame
// after its length (four bytes, big endian). The switch learns no addresses:
// every frame goes to every other port, and the network cards filter.
type ethernetSwitch struct {
	listener net.Listener
	done     sync.WaitGroup

	mu    sync.Mutex // guards ports and writes to them
	ports map[net.Conn]bool
}

// maxFrame is more than any network card of a rack sends: 64 KiB of payload
// where it segments TCP itself, and the headers.
const maxFrame = 68 << 10

// newSwitch begins to accept network cards on a Unix socket.
func newSwitch(path string) (*ethernetSwitch, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	s := &ethernetSwitch{listener: l, ports: map[net.Conn]bool{}}
	s.done.Go(s.accept)
	return s, nil
}

func (s *ethernetSwitch) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.ports[conn] = true
		s.mu.Unlock()
		s.done.Go(func() { s.forward(conn) })
	}
}

// forward sends what comes from one port to all others until the port closes.
func (s *ethernetSwitch) forward(from net.Conn) {
	defer func() {
		s.mu.Lock()
		delete(s.ports, from)
		s.mu.Unlock()
		from.Close()
	}()
	frame := make([]byte, 4+maxFrame)
	for {
		if _, err := io.ReadFull(from, frame[:4]); err != nil {
			return
		}
		n := binary.BigEndian.Uint32(frame)
		if n > maxFrame {
			return
		}
		if _, err := io.ReadFull(from, frame[4:4+n]); err != nil {
			return
		}
		s.mu.Lock()
		for to := range s.ports {
			if to != from {
				to.Write(frame[:4+n]) // a port that fails is closed by its own reader
			}
		}
		s.mu.Unlock()
	}
}

// close disconnects all hosts.
func (s *ethernetSwitch) close() {
	s.listener.Close()
	s.mu.Lock()
	for conn := range s.ports {
		conn.Close()
	}
	s.mu.Unlock()
	s.done.Wait()
}
