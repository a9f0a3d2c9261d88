package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/coder/websocket"

	"github.com/berthcloud/berth/api"
)

// Streams are the client's ends of a command's standard streams. Nil fields
// are not connected.
//
// A Stdin whose Read blocks keeps one goroutine until that Read returns. Its
// end (io.EOF) closes the command's standard input; any other error ends the
// stream and is returned by Attach or Exec.
type Streams struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Resize <-chan api.Size
}

// AttachOptions says how to attach.
type AttachOptions struct {
	Start   bool             // start the instance once attached, in the same request
	Size    api.Size         // of the terminal; zero where there is none
	Started func(api.Status) // with Start: called once the instance runs; may be nil
}

// RunOptions says how to run in the foreground.
type RunOptions struct {
	Size    api.Size           // of the terminal; zero where there is none
	Created func(api.Identity) // called once the instance is made; may be nil
	Started func(api.Status)   // called once it runs; may be nil
}

// message is the most one message of a stream carries, channel included.
const message = 32<<10 + 1

// Attach connects to the streams of an instance's entrypoint and returns how
// it ended. With Start no output is missed, and Exit of an instance with
// auto_remove arrives once it is removed.
//
//	client                                     server
//	  GET …/attach?start=true&stdin=true  ────▶
//	  ◀──── 101
//	                                             attach, then start
//	  ◀──── control {started: status}            (with start=true)
//	  stdin, control {resize|close_stdin} ────▶
//	  ◀──── stdout, stderr
//	  ◀──── control {exit: …} or {problem: …}    last message
//
// A stream that ends without a last message fails with kind Unavailable: the
// instance goes on.
func (c *Client) Attach(ctx context.Context, ref string, o AttachOptions, s Streams) (api.Exit, error) {
	path, err := at("instances", ref, "attach")
	if err != nil {
		return api.Exit{}, err
	}
	q := query("start", flag(o.Start), "stdin", flag(s.Stdin != nil))
	addSize(q, o.Size)
	return c.stream(ctx, path, q, nil, s, heard{started: o.Started})
}

func addSize(q url.Values, size api.Size) {
	if size != (api.Size{}) {
		q.Set("rows", strconv.Itoa(int(size.Rows)))
		q.Set("cols", strconv.Itoa(int(size.Cols)))
	}
}

// Console connects to the serial console of a VM, from before or during its boot on,
// and returns how it ended. What was kept of its output comes first; Stderr and
// Resize of the streams are not used, and an end of Stdin has no effect.
func (c *Client) Console(ctx context.Context, ref string, s Streams) (api.Exit, error) {
	path, err := at("instances", ref, "console")
	if err != nil {
		return api.Exit{}, err
	}
	return c.stream(ctx, path, query("stdin", flag(s.Stdin != nil)), nil, s, heard{})
}

// VNC connects a VNC client, whose bytes s carries by Stdin and Stdout, to the display of
// a VM until either leaves.
func (c *Client) VNC(ctx context.Context, ref string, s Streams) error {
	path, err := at("instances", ref, "vnc")
	if err != nil {
		return err
	}
	_, err = c.stream(ctx, path, nil, nil, s, heard{})
	return err
}

// RunAttached makes an instance, connects to its streams, starts it, and returns how
// it ended. Where the start fails, nothing is left of it. The specification travels
// as the first message, a text message; after control {created: identity} the stream
// is the one of Attach with Start.
func (c *Client) RunAttached(ctx context.Context, spec api.Spec, o RunOptions, s Streams) (api.Exit, error) {
	q := query("stdin", flag(s.Stdin != nil))
	addSize(q, o.Size)
	return c.stream(ctx, "/v1/run", q, spec, s, heard{created: o.Created, started: o.Started})
}

// Exec runs a command in a running instance and returns how it ended. The
// command travels as the first message, a text message; from then on the
// stream is the one of Attach.
func (c *Client) Exec(ctx context.Context, ref string, e api.Exec, s Streams) (api.Exit, error) {
	path, err := at("instances", ref, "exec")
	if err != nil {
		return api.Exit{}, err
	}
	return c.stream(ctx, path, nil, e, s, heard{})
}

// ExecDetached starts a command in a running instance and returns.
func (c *Client) ExecDetached(ctx context.Context, ref string, e api.Exec) error {
	path, err := at("instances", ref, "exec")
	if err != nil {
		return err
	}
	return c.send(ctx, request{method: "POST", path: path, body: e})
}

// heard is whom the server's news concern.
type heard struct {
	created func(api.Identity)
	started func(api.Status)
}

// stream opens a websocket and carries s over it until the last message. It sends
// first first, unless that is nil.
func (c *Client) stream(ctx context.Context, path string, q url.Values, first any, s Streams, news heard) (api.Exit, error) {
	conn, res, err := websocket.Dial(ctx, c.url(path, q), &websocket.DialOptions{HTTPClient: c.http})
	if err != nil {
		if res != nil && res.StatusCode != http.StatusSwitchingProtocols {
			return api.Exit{}, responseError(res)
		}
		return api.Exit{}, c.transportError(ctx, err)
	}
	// Whoever ends the stream has said its last word: no closing handshake,
	// which would cost a round trip.
	defer conn.CloseNow()
	conn.SetReadLimit(maxProblem)

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if first != nil {
		text, err := json.Marshal(first)
		if err != nil {
			return api.Exit{}, api.E("", api.Invalid, "", err)
		}
		if err := conn.Write(ctx, websocket.MessageText, text); err != nil {
			return api.Exit{}, c.transportError(ctx, err)
		}
	}
	if s.Stdin != nil {
		go func() {
			if err := sendStdin(ctx, conn, s.Stdin); err != nil {
				cancel(err)
			}
		}()
	}
	if s.Resize != nil {
		go sendResizes(ctx, conn, s.Resize)
	}
	exit, err := receive(ctx, conn, s, news)
	if lost, ok := errors.AsType[lostError](err); ok {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
			return exit, cause // standard input's own failure, such as a detach
		}
		err = c.transportError(ctx, lost.err)
	}
	return exit, err
}

// lostError marks a failure of the connection, as against one of the
// command's or of the client's own writers.
type lostError struct{ err error }

func (e lostError) Error() string { return e.err.Error() }

// receive handles the server's messages up to the last.
func receive(ctx context.Context, conn *websocket.Conn, s Streams, news heard) (api.Exit, error) {
	buf := make([]byte, message)
	for {
		kind, r, err := conn.Reader(ctx)
		if err != nil {
			return api.Exit{}, lostError{err}
		}
		if kind != websocket.MessageBinary {
			continue // reserved
		}
		if _, err := io.ReadFull(r, buf[:1]); err != nil {
			return api.Exit{}, lostError{err}
		}
		switch api.Channel(buf[0]) {
		case api.ChannelStdout:
			err = forward(s.Stdout, r, buf)
		case api.ChannelStderr:
			err = forward(s.Stderr, r, buf)
		case api.ChannelControl:
			var ctl api.Control
			if err := json.NewDecoder(r).Decode(&ctl); err != nil {
				return api.Exit{}, lostError{err}
			}
			switch {
			case ctl.Exit != nil:
				return *ctl.Exit, nil
			case ctl.Problem != nil:
				return api.Exit{}, ctl.Problem.Err()
			case ctl.Created != nil && news.created != nil:
				news.created(*ctl.Created)
			case ctl.Started != nil && news.started != nil:
				news.started(*ctl.Started)
			}
		}
		if err != nil {
			return api.Exit{}, err
		}
		if _, err := io.Copy(io.Discard, r); err != nil { // the reader must reach its end
			return api.Exit{}, lostError{err}
		}
	}
}

// forward copies the rest of a message to w.
func forward(w io.Writer, r io.Reader, buf []byte) error {
	for {
		n, err := r.Read(buf)
		if n > 0 && w != nil {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return lostError{err}
		}
	}
}

// sendStdin sends what r yields. It returns r's failure; a failure of the
// connection shows in receive.
func sendStdin(ctx context.Context, conn *websocket.Conn, r io.Reader) error {
	buf := make([]byte, message)
	buf[0] = byte(api.ChannelStdin)
	for {
		n, err := r.Read(buf[1:])
		if n > 0 && conn.Write(ctx, websocket.MessageBinary, buf[:1+n]) != nil {
			return nil
		}
		if errors.Is(err, io.EOF) {
			sendControl(ctx, conn, api.Control{CloseStdin: true})
			return nil
		} else if err != nil {
			return err
		}
	}
}

// sendResizes sends each new size of the terminal until ctx ends.
func sendResizes(ctx context.Context, conn *websocket.Conn, sizes <-chan api.Size) {
	for {
		select {
		case <-ctx.Done():
			return
		case size, ok := <-sizes:
			if !ok {
				return
			}
			sendControl(ctx, conn, api.Control{Resize: &size})
		}
	}
}

// sendControl sends one control message. A failure shows in receive.
func sendControl(ctx context.Context, conn *websocket.Conn, ctl api.Control) {
	text, err := json.Marshal(ctl)
	if err != nil {
		return
	}
	_ = conn.Write(ctx, websocket.MessageBinary, append([]byte{byte(api.ChannelControl)}, text...))
}
