package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/coder/websocket"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/instance"
)

// The standard streams of a command travel over a websocket as binary
// messages, whose first byte is the channel (api.Channel).
//
//	client                                        server
//	  GET …/run  or  …/attach  or  …/exec      ────▶
//	  ◀──── 101, or an ordinary problem
//	  run: a text message with an api.Spec     ────▶
//	  exec: a text message with an api.Exec    ────▶
//	  ◀──── control {created}                        run only
//	                                                attach, or run the command
//	                                                run, start=true: start the instance
//	  ◀──── control {started}                        run, start=true
//	  stdin, control {resize | close_stdin}    ────▶
//	  ◀──── stdout, stderr
//	  ◀──── control {exit} or {problem}              the last message
//	  ◀───▶ close
//
// A start happens after nothing can be missed any more. The exit of an instance
// with auto_remove is sent once it is removed.
//
// A client that goes away detaches from an entrypoint, whose standard input
// stays as it is; a command of exec is killed.

const (
	frame        = 32 << 10         // bytes of data in one message
	messageLimit = 1 << 20          // most bytes the server reads in one message
	stdinQueue   = 64               // messages that wait for a slow command
	stdinDrain   = time.Second      // for them to arrive after the client has gone
	firstTimeout = 10 * time.Second // for the first message of run and exec
)

// stream is the server's end of a websocket.
type stream struct {
	conn   *websocket.Conn
	ctx    context.Context // ends when the client goes; its end breaks the connection
	cancel context.CancelFunc

	stdin  *stdin        // what the client sends; nil where it sends none
	resize chan api.Size // the latest size that was not yet taken
}

// accept upgrades a request to a stream. On failure it has answered.
func (s *Server) accept(w http.ResponseWriter, r *http.Request) (*stream, bool) {
	if s.closing.Err() != nil {
		fail(w, s.errClosing(context.Canceled))
		return nil, false
	}
	s.streams.Add(1)
	conn, err := websocket.Accept(w, r, nil)
	if err != nil { // Accept has answered
		s.streams.Done()
		return nil, false
	}
	conn.SetReadLimit(messageLimit)
	st := &stream{conn: conn, resize: make(chan api.Size, 1)}
	st.ctx, st.cancel = context.WithCancel(context.WithoutCancel(r.Context()))
	return st, true
}

// run serves the stream: f does the work and returns how it ended.
func (s *Server) run(st *stream, withStdin bool, f func(context.Context, instance.Streams) (api.Exit, error)) {
	defer s.streams.Done()
	defer st.conn.CloseNow()
	defer st.cancel()
	streams := instance.Streams{
		Stdout: &channelWriter{st: st, buf: []byte{byte(api.ChannelStdout)}},
		Stderr: &channelWriter{st: st, buf: []byte{byte(api.ChannelStderr)}},
		Resize: st.resize,
	}
	if withStdin {
		r, w := io.Pipe()
		streams.Stdin, st.stdin = r, newStdin(w)
	}
	received := make(chan struct{})
	go func() {
		defer close(received)
		st.receive()
	}()
	// The work ends at a shutdown too, the connection not before its last
	// message.
	work, cancel := s.untilClosing(st.ctx)
	defer cancel()
	exit, err := f(work, streams)
	last := api.Control{Exit: &exit}
	if err = s.errClosing(err); err != nil {
		last = api.Control{Problem: api.ProblemOf(err)}
	}
	st.control(st.ctx, last)
	if streams.Stdin != nil {
		_ = streams.Stdin.(*io.PipeReader).CloseWithError(io.ErrClosedPipe)
	}
	_ = st.conn.Close(websocket.StatusNormalClosure, "")
	st.cancel()
	<-received
}

// receive handles the client's messages until it goes.
func (st *stream) receive() {
	defer st.cancel()
	if st.stdin != nil {
		defer st.stdin.leave(st.ctx)
	}
	for {
		kind, msg, err := st.conn.Read(st.ctx)
		if err != nil {
			return
		}
		if kind != websocket.MessageBinary || len(msg) == 0 {
			continue
		}
		switch api.Channel(msg[0]) {
		case api.ChannelStdin:
			if st.stdin != nil {
				st.stdin.put(st.ctx, msg[1:])
			}
		case api.ChannelControl:
			var c api.Control
			if json.Unmarshal(msg[1:], &c) != nil {
				continue
			}
			if c.Resize != nil {
				st.setSize(*c.Resize)
			}
			if c.CloseStdin && st.stdin != nil {
				st.stdin.end(true)
			}
		}
	}
}

// stdin queues standard input between the client and the command, so that a
// command that does not read holds up neither a resize nor the news that the
// client has gone. Only receive calls its methods.
type stdin struct {
	w      *io.PipeWriter
	queue  chan []byte
	closed bool          // queue is
	eof    bool          // by close_stdin; read by feed once queue is closed
	fed    chan struct{} // closed when all of queue has been passed on
}

func newStdin(w *io.PipeWriter) *stdin {
	s := &stdin{w: w, queue: make(chan []byte, stdinQueue), fed: make(chan struct{})}
	go s.feed()
	return s
}

// feed passes the queue on. Once the command has ended it passes on to nobody.
func (s *stdin) feed() {
	defer close(s.fed)
	for p := range s.queue {
		_, _ = s.w.Write(p)
	}
	if s.eof {
		_ = s.w.Close()
	}
}

// put queues input; it waits while the queue is full.
func (s *stdin) put(ctx context.Context, p []byte) {
	if s.closed {
		return
	}
	select {
	case s.queue <- p:
	case <-ctx.Done():
	}
}

// end takes no more input. With eof the command's standard input ends.
func (s *stdin) end(eof bool) {
	if !s.closed {
		s.closed, s.eof = true, eof
		close(s.queue)
	}
}

// leave ends the input of a client that has gone: what it sent before may
// still arrive, but the command's standard input does not end by it.
func (s *stdin) leave(ctx context.Context) {
	s.end(false)
	late := time.NewTimer(stdinDrain)
	defer late.Stop()
	select {
	case <-s.fed:
	case <-late.C:
	case <-ctx.Done():
	}
	_ = s.w.CloseWithError(context.Canceled)
	<-s.fed
}

// setSize leaves a size to be taken, in place of an older one.
func (st *stream) setSize(size api.Size) {
	for {
		select {
		case st.resize <- size:
			return
		default:
		}
		select {
		case <-st.resize:
		default:
		}
	}
}

// control sends a control message.
func (st *stream) control(ctx context.Context, c api.Control) {
	text, err := json.Marshal(c)
	if err != nil {
		return
	}
	_ = st.conn.Write(ctx, websocket.MessageBinary, append([]byte{byte(api.ChannelControl)}, text...))
}

// channelWriter sends what is written to it as messages of one channel.
type channelWriter struct {
	st  *stream
	buf []byte // the channel, then room for a frame
}

// Write implements io.Writer. It is not called concurrently.
func (c *channelWriter) Write(p []byte) (int, error) {
	for written := 0; written < len(p); {
		n := min(len(p)-written, frame)
		c.buf = append(c.buf[:1], p[written:written+n]...)
		if err := c.st.conn.Write(c.st.ctx, websocket.MessageBinary, c.buf); err != nil {
			return written, err
		}
		written += n
	}
	return len(p), nil
}

// attach serves the standard streams of an instance, and starts it first
// where start says so.
func (s *Server) attach(w http.ResponseWriter, r *http.Request, in *attachInput) {
	inst, err := s.Records.Get(r.Context(), in.Ref)
	if err != nil {
		fail(w, err)
		return
	}
	st, ok := s.accept(w, r)
	if !ok {
		return
	}
	in.size(st)
	s.run(st, in.Stdin, func(ctx context.Context, streams instance.Streams) (api.Exit, error) {
		if !in.Start {
			return s.Insides.Attach(ctx, inst.ID, streams, func() {})
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		attached := s.attachFirst(ctx, inst.ID, streams)
		select {
		case end := <-attached:
			return end.exit, end.err
		default:
		}
		started, err := s.Lives.Start(ctx, inst.ID)
		if err != nil {
			cancel()
			<-attached
			return api.Exit{}, err
		}
		st.control(ctx, api.Control{Started: &started.Status})
		end := <-attached
		return end.exit, end.err
	})
}

// size tells the stream the size of the client's terminal.
func (in *StreamInput) size(st *stream) {
	if in.Rows != 0 || in.Cols != 0 {
		st.setSize(api.Size{Rows: in.Rows, Cols: in.Cols})
	}
}

// runInstance makes the instance that the client's first message describes, serves
// its standard streams and starts it.
func (s *Server) runInstance(w http.ResponseWriter, r *http.Request, in *StreamInput) {
	st, ok := s.accept(w, r)
	if !ok {
		return
	}
	var spec api.Spec
	err := st.firstMessage("run", &spec)
	in.size(st)
	s.run(st, in.Stdin, func(ctx context.Context, streams instance.Streams) (api.Exit, error) {
		if err != nil {
			return api.Exit{}, err
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		var attached <-chan ending
		started, err := s.Lives.Run(ctx, spec, func(made api.Instance) {
			st.control(ctx, api.Control{Created: &api.Identity{ID: made.ID, Name: made.Name}})
			attached = s.attachFirst(ctx, made.ID, streams)
		})
		if err != nil {
			cancel()
			if attached != nil {
				<-attached
			}
			return api.Exit{}, err
		}
		st.control(ctx, api.Control{Started: &started.Status})
		end := <-attached
		return end.exit, end.err
	})
}

// ending is what an attachment comes to.
type ending struct {
	exit api.Exit
	err  error
}

// attachFirst attaches to an instance that is to be started, and returns once nothing
// can be missed, or the attachment has ended already.
func (s *Server) attachFirst(ctx context.Context, id string, streams instance.Streams) <-chan ending {
	ready, ended := make(chan struct{}), make(chan ending, 1)
	go func() {
		exit, err := s.Insides.Attach(ctx, id, streams, func() { close(ready) })
		ended <- ending{exit, err}
	}()
	select {
	case <-ready:
	case end := <-ended:
		ended <- end
	}
	return ended
}

// exec serves the standard streams of one more command in an instance.
func (s *Server) exec(w http.ResponseWriter, r *http.Request, ref string) {
	inst, err := s.Records.Get(r.Context(), ref)
	if err != nil {
		fail(w, err)
		return
	}
	st, ok := s.accept(w, r)
	if !ok {
		return
	}
	var x api.Exec
	err = st.firstMessage("exec", &x)
	if err == nil && len(x.Command) == 0 {
		err = api.E("exec", api.Invalid, "", errors.New("the first message must be text: an object with a command"))
	}
	if err == nil && x.TTY && x.Size != (api.Size{}) {
		st.setSize(x.Size)
	}
	s.run(st, x.Stdin, func(ctx context.Context, streams instance.Streams) (api.Exit, error) {
		if err != nil {
			return api.Exit{}, err
		}
		return s.Insides.Exec(ctx, inst.ID, x, streams)
	})
}

// firstMessage reads the text message that says what to do.
func (st *stream) firstMessage(op string, v any) error {
	ctx, cancel := context.WithTimeout(st.ctx, firstTimeout)
	defer cancel()
	kind, msg, err := st.conn.Read(ctx)
	if err != nil {
		return api.E(op, api.Unavailable, "", err)
	}
	if kind != websocket.MessageText {
		return api.E(op, api.Invalid, "", errors.New("the first message must be text: a JSON object"))
	}
	dec := json.NewDecoder(bytes.NewReader(msg))
	dec.DisallowUnknownFields()
	return api.E(op, api.Invalid, "", dec.Decode(v))
}
