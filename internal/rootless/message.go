package rootless

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Port is a port of the host and where it leads.
type Port struct {
	Network string         `json:"network"` // tcp or udp
	Host    netip.AddrPort `json:"host"`
	To      netip.AddrPort `json:"to"`
}

// request is what hold and forward are asked, one to a connection.
type request struct {
	Op    string         `json:"op"`
	Ports []Port         `json:"ports,omitempty"`
	From  netip.AddrPort `json:"from,omitzero"` // of a socket; zero for any
}

// Operations of hold.
const (
	opNamespaces = "namespaces" // the namespaces' files: user, mount, network
	opConnect    = "connect"    // a socket from From to Ports[0].To
)

// Operations of forward.
const (
	opTry  = "try"  // could Ports[0] be listened on?
	opLead = "lead" // lead Ports and no others
)

// opEnd ends either. hold refuses while a process lives in its namespaces. There is no
// answer but the end of the connection, which is that of the process.
const opEnd = "end"

// reply answers a request.
type reply struct {
	Errno unix.Errno `json:"errno,omitempty"` // where there is one, for errors.Is
	Error string     `json:"error,omitempty"`
	PID   int        `json:"pid"` // of who answers
}

// maxMessage bounds a message, in bytes: some 1,500 ports.
const maxMessage = 128 << 10

// patience bounds how long either side of a conversation waits for the other.
const patience = 10 * time.Second

// remoteError is an error of the other process.
type remoteError struct{ reply }

func (e *remoteError) Error() string { return e.reply.Error }
func (e *remoteError) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

// ask sends a request to the socket in dir and returns the answer and its files, which
// the caller closes.
func ask(ctx context.Context, dir, socket string, r request) (reply, []*os.File, error) {
	var answer reply
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unixpacket", filepath.Join(dir, socket))
	if err != nil {
		return answer, nil, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	body, err := json.Marshal(r)
	if err != nil {
		return answer, nil, err
	}
	if len(body) > maxMessage {
		return answer, nil, fmt.Errorf("%d published ports are more than one request holds", len(r.Ports))
	}
	if _, err := conn.Write(body); err != nil {
		return answer, nil, err
	}
	files, err := receive(conn.(*net.UnixConn), &answer)
	if err == nil && answer.Error != "" {
		err = &remoteError{answer}
	}
	return answer, files, err
}

// receive reads one message and the descriptors that came with it.
func receive(conn *net.UnixConn, v any) ([]*os.File, error) {
	body, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*4))
	n, oobn, _, _, err := conn.ReadMsgUnix(body, oob)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, io.EOF
	}
	var files []*os.File
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	for _, m := range messages {
		fds, perr := unix.ParseUnixRights(&m)
		err = errors.Join(err, perr)
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	if err == nil {
		err = json.Unmarshal(body[:n], v)
	}
	if err != nil {
		closeFiles(files)
		return nil, err
	}
	return files, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// handler answers a request. The files it returns are closed once they are sent.
type handler func(context.Context, request) ([]*os.File, error)

// serve answers requests until ctx ends, or until it is asked to end.
func serve(ctx context.Context, l *net.UnixListener, h handler) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		conn, err := l.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(patience))
			answer(ctx, conn, h, end)
		}()
	}
}

func answer(ctx context.Context, conn *net.UnixConn, h handler, end func()) {
	var r request
	if files, err := receive(conn, &r); err != nil || len(files) > 0 {
		closeFiles(files)
		return
	}
	files, err := h(ctx, r)
	defer closeFiles(files)
	if r.Op == opEnd && err == nil {
		end()
		select {} // the process takes the connection with it
	}
	say := reply{PID: os.Getpid()}
	if err != nil {
		say.Error = err.Error()
		errors.As(err, &say.Errno)
	}
	body, err := json.Marshal(say)
	if err != nil {
		return
	}
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	_, _, _ = conn.WriteMsgUnix(body, oob, nil)
}

// listen makes the socket in dir. A directory of mode 0700 keeps others from it.
func listen(dir, socket string) (*net.UnixListener, error) {
	path := filepath.Join(dir, socket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err == nil {
		l.SetUnlinkOnClose(false) // the name may be the next one's by then
	}
	return l, err
}

const (
	holdSocket    = "hold.sock"
	forwardSocket = "forward.sock"
)
