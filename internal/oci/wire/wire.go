// Package wire is the conversation between the runtime and the process that becomes a
// container's: one socket pair, and later, for a container's first process, a
// connection to its start socket. How the process gets into its namespaces comes before:
// see package spawn.
//
//	runtime                                the process (a machine of package program)
//	second segment, descriptors ──────────▶
//	                                       mounts, devices, console
//	◀─────────────────────── Terminal, the terminal's master (only with one)
//	◀─────────────────────── Prepared (only when the spec has hooks)
//	runs prestart and createRuntime hooks
//	byte ─────────────────────────────────▶
//	                                       createContainer hooks, pivot_root, sysctl, …
//	◀─────────────────────── Placed
//	third segment ────────────────────────▶
//	◀─────────────────────── Ready
//	◀─────────────────────── Listening (only with SCMP_ACT_NOTIFY)
//	watches the process (see package listener)
//	byte ─────────────────────────────────▶
//	                                       seccomp, execve
//
// At any time the process may say Help: then a helper of ours (package stage) runs
// inside the container, gets a Job, and answers Done. Failed ends the conversation.
//
// An exec ends the conversation by closing the socket in execve: end of file after
// Ready means success. A container's init instead listens on the start socket (see
// package oci), waits for a byte and goes on there.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/program"
)

// maxText bounds what is read from the other side, in bytes. The process is inside the
// container's namespaces: its words are checked like a stranger's.
const maxText = 1 << 20

// Failure is an error with the exit status that berth-oci shall end with.
type Failure struct {
	Code int // 127: no such command; 126: not executable; 1: anything else
	Text string

	errno unix.Errno // what the text ends with, or 0
}

func (f *Failure) Error() string { return f.Text }

func (f *Failure) Unwrap() error {
	if f.errno == 0 {
		return nil
	}
	return f.errno
}

// Fail makes a Failure of err, keeping the code of one that err wraps.
func Fail(err error) *Failure {
	if f, ok := errors.AsType[*Failure](err); ok {
		return &Failure{Code: f.Code, Text: err.Error(), errno: f.errno}
	}
	return &Failure{Code: 1, Text: err.Error()}
}

// Conn is one end of the socket.
type Conn struct{ FD int }

// Pair returns two connected ends, closed on exec.
func Pair() (runtime, process Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Conn{-1}, Conn{-1}, os.NewSyscallError("socketpair", err)
	}
	return Conn{fds[0]}, Conn{fds[1]}, nil
}

// Close ends the conversation from this side.
func (c Conn) Close() { unix.Close(c.FD) }

// SendFiles sends descriptors, of which the process gets copies.
func (c Conn) SendFiles(files []int) error {
	for len(files) > 0 {
		n := min(len(files), program.MaxFiles)
		if err := unix.Sendmsg(c.FD, []byte{0}, unix.UnixRights(files[:n]...), nil, unix.MSG_NOSIGNAL); err != nil {
			return os.NewSyscallError("sendmsg", err)
		}
		files = files[n:]
	}
	return nil
}

// SendSegment sends what the process is to do.
func (c Conn) SendSegment(b *program.Builder) error {
	segment, err := b.Encode()
	if err != nil {
		return err
	}
	return c.write(segment)
}

// Go lets a process go on that waits for a byte.
func (c Conn) Go() error { return c.write([]byte{0}) }

func (c Conn) write(b []byte) error {
	for len(b) > 0 {
		n, err := unix.SendmsgN(c.FD, b, nil, nil, unix.MSG_NOSIGNAL)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("sendmsg", err)
		}
		b = b[n:]
	}
	return nil
}

// Message is what the process says.
type Message struct {
	program.Header
	Text    string
	Failure *Failure // of Failed
	File    int      // of Terminal, else -1; closed on exec
}

// Receive reads one message. It returns io.EOF when the other side has gone.
func (c Conn) Receive() (Message, error) {
	m := Message{File: -1}
	var head [program.HeaderSize]byte
	var err error
	if m.File, err = c.receiveHead(head[:]); err != nil {
		return m, err
	}
	h := program.ParseHeader(head)
	text, err := c.readText(h.Length)
	if err != nil {
		return m, err
	}
	m.Header, m.Text = h, text
	if h.Kind != program.Failed {
		return m, nil
	}
	log, err := c.readText(program.LogSize)
	if err != nil {
		return m, err
	}
	if h.Errno != 0 {
		text += ": " + h.Errno.Error()
	}
	// What the kernel says about a filesystem begins with "e " or "w ".
	if log = strings.TrimSpace(strings.TrimRight(log, "\x00")); len(log) > 2 {
		text += " (" + log[2:] + ")"
	}
	m.Failure = &Failure{Code: int(h.Code), Text: text, errno: h.Errno}
	return m, nil
}

// receiveHead fills b, and returns a descriptor that comes along, or -1.
func (c Conn) receiveHead(b []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := unix.Recvmsg(c.FD, b, oob, unix.MSG_CMSG_CLOEXEC)
	for errors.Is(err, unix.EINTR) {
		n, oobn, _, _, err = unix.Recvmsg(c.FD, b, oob, unix.MSG_CMSG_CLOEXEC)
	}
	if err != nil {
		return -1, os.NewSyscallError("recvmsg", err)
	}
	if n == 0 {
		return -1, io.EOF
	}
	file := -1
	if oobn > 0 {
		if file, err = theRight(oob[:oobn]); err != nil {
			return -1, err
		}
	}
	if err := c.readFull(b[n:]); err != nil {
		CloseAll([]int{file})
		return -1, err
	}
	return file, nil
}

// theRight returns the one descriptor of a control message.
func theRight(oob []byte) (int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return -1, err
	}
	if len(messages) != 1 {
		return -1, fmt.Errorf("%d control messages where one was expected", len(messages))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return -1, err
	}
	if len(fds) != 1 {
		CloseAll(fds)
		return -1, fmt.Errorf("%d descriptors where one was expected", len(fds))
	}
	return fds[0], nil
}

func (c Conn) readText(size uint32) (string, error) {
	if size > maxText {
		return "", fmt.Errorf("message of %d bytes is too large", size)
	}
	b := make([]byte, size)
	err := c.readFull(b)
	return string(b), err
}

func (c Conn) readFull(b []byte) error {
	for len(b) > 0 {
		n, err := unix.Read(c.FD, b)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return os.NewSyscallError("read", err)
		case n == 0:
			return io.EOF
		}
		b = b[n:]
	}
	return nil
}

// Job is what a helper does inside the container.
type Job struct {
	Point string          `json:",omitempty"` // of the lifecycle, whose hooks are to be run
	Hooks []specs.Hook    `json:",omitempty"`
	State json.RawMessage `json:",omitempty"` // for them

	CopyUp bool `json:",omitempty"` // copy what directory 1 holds to the new filesystem 2
}

// SendJob answers Help.
func (c Conn) SendJob(j Job) error {
	body, err := json.Marshal(j)
	if err != nil {
		return err
	}
	return c.write(append(binary.NativeEndian.AppendUint32(nil, uint32(len(body))), body...))
}

// ReceiveJob is the helper's end of SendJob.
func (c Conn) ReceiveJob() (j Job, err error) {
	var head [4]byte
	if err = c.readFull(head[:]); err != nil {
		return j, err
	}
	body, err := c.readText(binary.NativeEndian.Uint32(head[:]))
	if err == nil {
		err = json.Unmarshal([]byte(body), &j)
	}
	return j, err
}

// SendResult is the helper's answer to a job: nil, or why it could not be done.
func (c Conn) SendResult(err error) error {
	if err == nil {
		return c.write(program.Message(program.Done, 0, ""))
	}
	f := Fail(err)
	return c.write(program.Message(program.Failed, f.Code, f.Text))
}

// CloseAll closes descriptors, skipping negative ones.
func CloseAll(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}
