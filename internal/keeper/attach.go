package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/berthcloud/berth/api"
)

// Attachment is a client's connection to the streams of a kept process. Next
// is called by one goroutine; the other methods by any, concurrently.
type Attachment struct {
	id   string
	conn *Conn
	buf  []byte // of Next

	mu sync.Mutex // one frame at a time goes out
}

// attach makes a call whose connection becomes an Attachment.
func (c *Client) attach(ctx context.Context, op, id string, req Request) (Status, *Attachment, error) {
	conn, err := c.dial(ctx, op, id)
	if err != nil {
		return Status{}, nil, err
	}
	r, err := exchange(ctx, conn, op, id, req)
	if err != nil {
		conn.Close()
		return Status{}, nil, err
	}
	conn.SetDeadline(time.Time{}) // in case ctx ended just now
	return statusOf(r), &Attachment{id: id, conn: conn, buf: make([]byte, 4<<10)}, nil
}

// Event is what Next returns.
type Event struct {
	Stream FrameType // FrameStdout or FrameStderr; 0 where Exit is set
	Data   []byte    // valid until the next call of Next
	Exit   *Exit     // the process has ended, and this is the last event
}

// Next waits for the next output or the end of the process. After the exit it
// returns io.EOF. Kind Exhausted: the client was too slow and was cut off;
// Unavailable: the keeper died.
func (a *Attachment) Next() (Event, error) {
	for {
		t, payload, err := ReadFrame(a.conn, a.buf)
		if err != nil {
			if api.KindOf(err) == api.Corrupt || errors.Is(err, io.EOF) {
				err = errors.New("the keeper closed the connection")
			}
			return Event{}, api.E("attach", api.Unavailable, a.id, err)
		}
		if cap(payload) > len(a.buf) && cap(payload) <= 64<<10 {
			a.buf = payload[:cap(payload)]
		}
		switch t {
		case FrameStdout, FrameStderr:
			return Event{Stream: t, Data: payload}, nil
		case FrameControl:
			var ctl Control
			if err := json.Unmarshal(payload, &ctl); err != nil {
				return Event{}, api.E("attach", api.Corrupt, a.id, err)
			}
			if ctl.Error != nil {
				return Event{}, ctl.Error.err("attach", a.id)
			}
			if ctl.Exit != nil {
				return Event{Exit: ctl.Exit}, nil
			}
		default:
			return Event{}, api.E("attach", api.Corrupt, a.id, fmt.Errorf("unexpected frame of type %q", t))
		}
	}
}

// maxStdin is how much input one frame carries.
const maxStdin = 32 << 10

// Write sends input to the process. It waits while the process does not read.
func (a *Attachment) Write(p []byte) (int, error) {
	n := 0
	for len(p) > 0 {
		part := p[:min(len(p), maxStdin)]
		if err := a.send(FrameStdin, part); err != nil {
			return n, err
		}
		n += len(part)
		p = p[len(part):]
	}
	return n, nil
}

// CloseStdin says that this client writes no more. The process sees the end of
// its input where Stdio.StdinOnce is set; otherwise its input stays open for
// the next client.
func (a *Attachment) CloseStdin() error { return a.control(Control{CloseStdin: true}) }

// Resize changes the size of the process's terminal, in order with Write.
func (a *Attachment) Resize(size Size) error { return a.control(Control{Resize: &size}) }

// Close detaches. The process goes on.
func (a *Attachment) Close() error { return a.conn.Close() }

func (a *Attachment) control(c Control) error {
	payload, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return a.send(FrameControl, payload)
}

func (a *Attachment) send(t FrameType, payload []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, err := a.conn.Write(AppendFrame(make([]byte, 0, FrameHeader+len(payload)), t, payload))
	return api.E("attach", api.Unavailable, a.id, err)
}

// Copy moves output to the writers until the process has ended, and returns
// how it ended. A nil writer drops its stream; an error of a writer ends the
// copy. The end of ctx ends it too and detaches.
func (a *Attachment) Copy(ctx context.Context, stdout, stderr io.Writer) (Exit, error) {
	stop := context.AfterFunc(ctx, func() { a.conn.Close() })
	defer stop()
	for {
		ev, err := a.Next()
		switch {
		case ctx.Err() != nil:
			return Exit{}, api.E("attach", api.Canceled, a.id, ctx.Err())
		case err != nil:
			return Exit{}, err
		case ev.Exit != nil:
			return *ev.Exit, nil
		}
		w := stdout
		if ev.Stream == FrameStderr {
			w = stderr
		}
		if w == nil {
			continue
		}
		if _, err := w.Write(ev.Data); err != nil {
			return Exit{}, err
		}
	}
}
