// Package wire is the conversation between the runtime and the init stage: one
// socket pair, messages of JSON, descriptors beside them.
//
//	runtime                                 init stage (in the container's namespaces)
//	Init or Exec, descriptors ────────────▶
//	                                        mounts, devices, console
//	◀──────────────────────────── Report{Prepared} (only when the spec has hooks)
//	runs prestart and createRuntime hooks
//	Go ───────────────────────────────────▶
//	                                        createContainer hooks, pivot_root, sysctl, …
//	◀──────────────────────────── Report{Ready} or Report{Failure}
//	◀──────────────────────────── Report{Listening} (only with SCMP_ACT_NOTIFY)
//	watches the stage (see package listener)
//	Go ───────────────────────────────────▶
//	                                        seccomp, execve
//
// An exec ends the conversation by closing the socket in execve: end of file after
// Ready means success, a Report{Failure} the reason. A container's init instead
// listens on the start socket (see package oci) and reports there.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/fastjson"
)

// maxMessage bounds what is read from the other side, in bytes. The stage runs
// inside the container's namespaces: its words are checked like a stranger's.
const maxMessage = 16 << 20

// maxFiles is SCM_MAX_FD of the kernel, the most descriptors of one message.
const maxFiles = 253

// Phase says how far the stage has come.
type Phase string

// The phases a Report may carry.
const (
	Prepared  Phase = "prepared"  // mounts are in place, the root is not yet switched
	Ready     Phase = "ready"     // only execve is left
	Listening Phase = "listening" // only the filter is left, whose listener is wanted
	Failed    Phase = "failed"
)

// Report is a message of the stage.
//
//easyjson:json
type Report struct {
	Phase    Phase
	Failure  *Failure `json:",omitempty"`
	Warnings []string `json:",omitempty"` // what was asked for and could not be had, harmlessly
}

// Go is the runtime's answer to Prepared and to Listening.
//
//easyjson:json
type Go struct{ State json.RawMessage }

// Failure is an error with the exit status that berth-oci shall end with.
type Failure struct {
	Code int // 127: no such command; 126: not executable; 1: anything else
	Text string
}

func (f *Failure) Error() string { return f.Text }

// Fail makes a Failure of err, keeping the code of one that err wraps.
func Fail(err error) *Failure {
	if f, ok := errors.AsType[*Failure](err); ok {
		return &Failure{Code: f.Code, Text: err.Error()}
	}
	return &Failure{Code: 1, Text: err.Error()}
}

// Conn is one end of the socket.
type Conn struct{ FD int }

// Pair returns two connected ends, closed on exec.
func Pair() (runtime, stage Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Conn{-1}, Conn{-1}, os.NewSyscallError("socketpair", err)
	}
	return Conn{fds[0]}, Conn{fds[1]}, nil
}

// Close ends the conversation from this side.
func (c Conn) Close() { unix.Close(c.FD) }

// Send writes one message, with descriptors that the receiver gets copies of.
func (c Conn) Send(v fastjson.Encoder, files ...int) error {
	body, err := fastjson.Marshal(v)
	if err != nil {
		return err
	}
	// The head: length of the body, number of descriptors. Each further batch of
	// descriptors rides on one byte of its own.
	head := binary.LittleEndian.AppendUint32(nil, uint32(len(body)))
	head = binary.LittleEndian.AppendUint32(head, uint32(len(files)))
	if err := c.write(head); err != nil {
		return err
	}
	for len(files) > 0 {
		n := min(len(files), maxFiles)
		if err := unix.Sendmsg(c.FD, []byte{0}, unix.UnixRights(files[:n]...), nil, unix.MSG_NOSIGNAL); err != nil {
			return os.NewSyscallError("sendmsg", err)
		}
		files = files[n:]
	}
	return c.write(body)
}

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

// Receive reads one message into v and returns the descriptors that came with it,
// closed on exec. It returns io.EOF when the other side has gone.
func (c Conn) Receive(v fastjson.Decoder) ([]int, error) {
	var head [8]byte
	if err := c.readFull(head[:]); err != nil {
		return nil, err
	}
	size, count := binary.LittleEndian.Uint32(head[:4]), binary.LittleEndian.Uint32(head[4:])
	if size > maxMessage || count > 1<<16 {
		return nil, fmt.Errorf("message of %d bytes and %d descriptors is too large", size, count)
	}
	var files []int
	for len(files) < int(count) {
		batch, err := c.receiveFiles()
		if err != nil {
			CloseAll(files)
			return nil, err
		}
		files = append(files, batch...)
	}
	body := make([]byte, size)
	err := c.readFull(body)
	if err == nil {
		err = fastjson.Unmarshal(body, v)
	}
	if err != nil {
		CloseAll(files)
		return nil, err
	}
	return files, nil
}

func (c Conn) receiveFiles() ([]int, error) {
	oob := make([]byte, unix.CmsgSpace(maxFiles*4))
	var b [1]byte
	_, n, flags, _, err := unix.Recvmsg(c.FD, b[:], oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return nil, err
	}
	var files []int
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return files, err
		}
		files = append(files, fds...)
	}
	if flags&unix.MSG_CTRUNC != 0 || len(files) == 0 {
		CloseAll(files)
		return nil, errors.New("descriptors were lost on the way: the limit of open files is too low")
	}
	return files, nil
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

// CloseAll closes descriptors, skipping negative ones.
func CloseAll(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}
