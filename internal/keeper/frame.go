package keeper

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/berthcloud/berth/api"
)

// FrameType says what a frame carries. The streams have the numbers of the
// REST API's attach channels.
type FrameType byte

// The types of frame.
const (
	FrameStdin   FrameType = '0' // client → keeper: bytes for standard input
	FrameStdout  FrameType = '1' // keeper → client
	FrameStderr  FrameType = '2' // keeper → client
	FrameControl FrameType = '3' // both ways: Control
	FrameRequest FrameType = 'q' // client → keeper: Request, first and only
	FrameReply   FrameType = 'r' // keeper → client: Reply
)

// A frame is the type, the length of the payload as 32 bits, big endian, and
// the payload.
const (
	// FrameHeader is the length of a frame's header in bytes.
	FrameHeader = 5
	// MaxFrame bounds a payload: a command line with its environment fits, an
	// attack on the keeper's memory does not.
	MaxFrame = 1 << 20
)

// Request is what a client asks.
type Request struct {
	Op      string         `json:"op"`
	ID      string         `json:"id,omitempty"`
	Process *Process       `json:"process,omitempty"` // start
	Wait    bool           `json:"wait,omitempty"`    // start: a second reply, as of wait, follows on the same connection
	Attach  *AttachOptions `json:"attach,omitempty"`  // start, attach
	Signal  int            `json:"signal,omitempty"`  // signal
	Size    Size           `json:"size,omitzero"`     // resize
	Program string         `json:"program,omitempty"` // warm
}

// The operations of a Request.
const (
	OpPing     = "ping"
	OpStart    = "start"
	OpWait     = "wait"
	OpAttach   = "attach"
	OpResize   = "resize"
	OpSignal   = "signal"
	OpStatus   = "status"
	OpList     = "list"
	OpForget   = "forget"
	OpWarm     = "warm"
	OpShutdown = "shutdown"
)

// Reply answers a Request.
type Reply struct {
	Error  *WireError `json:"error,omitempty"`
	Status *Status    `json:"status,omitempty"`
	List   []Status   `json:"list,omitempty"`
	Info   *Info      `json:"info,omitempty"`
}

// Info describes a keeper.
type Info struct {
	Version string `json:"version"`
	PID     int    `json:"pid"`
	Kept    int    `json:"kept"` // processes, ended ones included

	Goroutines int `json:"goroutines"` // for whoever looks for a leak
}

// WireError is an api.Error on the wire.
type WireError struct {
	Kind    api.ErrorKind `json:"kind"`
	Text    string        `json:"text"`
	Command bool          `json:"command,omitempty"` // it is a CommandError
	Code    int           `json:"code,omitempty"`    // of the CommandError
}

// Control is a message beside the streams of an attachment.
type Control struct {
	Resize     *Size      `json:"resize,omitempty"`      // client → keeper
	CloseStdin bool       `json:"close_stdin,omitempty"` // client → keeper: this client writes no more
	Exit       *Exit      `json:"exit,omitempty"`        // keeper → client: the process ended, all output was sent
	Error      *WireError `json:"error,omitempty"`       // keeper → client: cut off
}

// ReadFrame reads one frame. The payload is stored in buf where it fits and is
// valid until buf's next use. It returns io.EOF between frames and an error of
// kind Corrupt for what cannot be a frame.
func ReadFrame(r io.Reader, buf []byte) (FrameType, []byte, error) {
	var header [FrameHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = api.E("read frame", api.Corrupt, "", fmt.Errorf("the stream ends inside a header"))
		}
		return 0, nil, err
	}
	t, n := FrameType(header[0]), binary.BigEndian.Uint32(header[1:])
	switch t {
	case FrameStdin, FrameStdout, FrameStderr, FrameControl, FrameRequest, FrameReply:
	default:
		return 0, nil, api.E("read frame", api.Corrupt, "", fmt.Errorf("unknown frame type %#x", header[0]))
	}
	if n > MaxFrame {
		return 0, nil, api.E("read frame", api.Corrupt, "", fmt.Errorf("%d bytes exceed the limit of %d", n, MaxFrame))
	}
	if int(n) > len(buf) {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if _, err := io.ReadFull(r, buf); err != nil {
		return 0, nil, api.E("read frame", api.Corrupt, "", fmt.Errorf("the stream ends inside a payload"))
	}
	return t, buf, nil
}

// AppendFrame appends a frame to dst. The payload is at most MaxFrame long.
func AppendFrame(dst []byte, t FrameType, payload []byte) []byte {
	dst = append(dst, byte(t))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(payload)))
	return append(dst, payload...)
}

// WriteJSON writes one frame whose payload is v as JSON.
func WriteJSON(w io.Writer, t FrameType, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(payload) > MaxFrame {
		return fmt.Errorf("message of %d bytes exceeds the limit of %d", len(payload), MaxFrame)
	}
	_, err = w.Write(AppendFrame(make([]byte, 0, FrameHeader+len(payload)), t, payload))
	return err
}

// readJSON reads one frame of type want into v.
func readJSON(r io.Reader, want FrameType, v any) error {
	t, payload, err := ReadFrame(r, nil)
	if err != nil {
		return err
	}
	if t != want {
		return fmt.Errorf("got a frame of type %q, want %q", t, want)
	}
	return json.Unmarshal(payload, v)
}
