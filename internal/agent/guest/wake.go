package guest

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/agent"
)

// sleep holds a machine that becomes a template: what runs before it is saved once
// for all copies, what runs after it each copy does by itself. It returns in a copy
// that has been given its clock and its randomness.
//
// Nothing before it may ask the kernel for randomness that a secret is made of, and
// nothing but the agent runs: so a copy's kernel makes its boot id, its hash seeds
// and its sequence numbers after it.
func sleep() error {
	port, err := openPort(agent.PortWake, unix.O_RDWR)
	if err != nil {
		return err
	}
	defer unix.Close(port)
	line, err := newHostLine(port)
	if err != nil {
		return err
	}
	defer unix.Close(line.epoll)
	record := make([]byte, agent.WakeSize)
	for {
		line.await()
		if err := line.write([]byte{agent.Asleep}); err != nil {
			return err
		}
		_, err := io.ReadFull(line, record)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			continue // that host only looked
		}
		if err != nil {
			return err
		}
		return wake(record)
	}
}

// wake takes the clock and the randomness of a record.
func wake(record []byte) error {
	w, err := agent.DecodeWake(record)
	if err != nil {
		return err
	}
	now := unix.NsecToTimespec(w.Time.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &now); err != nil {
		return os.NewSyscallError("set the clock", err)
	}
	return stir(w.Seed[:])
}
