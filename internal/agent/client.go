package agent

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/berthcloud/berth/api"
)

const (
	// answerTimeout bounds a call that the agent answers at once, and the
	// writing of one frame.
	answerTimeout = 10 * time.Second
	// helloPatience is how long the first greeting may go unanswered. Each further one
	// has twice the time of the one before: the guest may be no more than slow.
	helloPatience = 5 * time.Second
	// maxForeign bounds what may come before the answer to a greeting: what
	// the guest had written to a host that has gone.
	maxForeign = 16 << 20
	maxTop     = 8 << 20
)

// Conn is the host's end of the control port.
type Conn interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// Client calls a guest's agent. Its methods may be called concurrently. A
// client that has failed stays failed: connect again. Errors have the kind
// Unavailable where the agent does not answer, and else the agent's own kind.
type Client struct {
	mux  *mux
	conn Conn
	buf  []byte        // of the reader
	done chan struct{} // closed when the reader has ended
}

// Connect greets the agent on a connection that dial makes, and waits for it until ctx
// ends: a guest that boots answers late. dial is called again where a greeting goes
// unanswered: QEMU 7.2 tells a port nothing of a host that leaves while the machine
// stands still, and a guest that writes before the next one has come then waits until
// that one has left as well (virtio-console.c, virtconsole_enable_backend and flush_buf).
func Connect(ctx context.Context, dial func(context.Context) (Conn, error)) (*Client, error) {
	var before []byte
	for patience := helloPatience; ; patience *= 2 {
		conn, err := dial(ctx)
		if err != nil {
			return nil, api.E("", api.Unavailable, "", err)
		}
		in := bufio.NewReaderSize(conn, 4096)
		err = greet(ctx, conn, in, before, patience)
		if err == nil {
			return newClient(conn, in), nil
		}
		conn.Close()
		switch {
		case ctx.Err() != nil:
			return nil, Hung(ctx.Err())
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return nil, api.E("", api.Unavailable, "", fmt.Errorf("the guest's agent is gone: %w", err))
		}
		// A host that left in the middle of a frame may have left the guest waiting for
		// the rest of it. Zeros end any frame and begin none.
		before = make([]byte, headerSize+maxPayload)
	}
}

// newClient begins a conversation on a connection whose greeting was answered.
func newClient(conn Conn, in *bufio.Reader) *Client {
	c := &Client{conn: conn, buf: make([]byte, maxPayload), done: make(chan struct{})}
	c.mux = newMux(c.write)
	go c.receive(in)
	return c
}

// Close ends the conversation and all calls.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	return err
}

// Settle returns once the agent has read all that was sent. It belongs before a Close: the
// guest may not see that a host has gone, and half a frame would swallow the next host's
// greeting.
func (c *Client) Settle(ctx context.Context) error {
	_, err := c.ask(ctx, Request{Op: OpPing})
	return err
}

// Err returns why the conversation is over, or nil.
func (c *Client) Err() error {
	c.mux.mu.Lock()
	defer c.mux.mu.Unlock()
	return c.mux.err
}

// Hung is the one error for an agent that does not answer.
func Hung(cause error) error {
	kind := api.Unavailable
	if errors.Is(cause, context.Canceled) {
		kind = api.Canceled
	}
	return api.E("", kind, "", fmt.Errorf("the guest's agent does not answer (%w): the guest may hang, berth kill ends it", cause))
}

// greet sends a greeting, behind something, and returns once it is answered. It fails with
// os.ErrDeadlineExceeded at the end of its patience or of ctx.
func greet(ctx context.Context, conn Conn, in *bufio.Reader, before []byte, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	late := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(late)
		_ = conn.SetReadDeadline(time.Unix(1, 0))
		_ = conn.SetWriteDeadline(time.Unix(1, 0))
	})
	err := exchange(conn, in, before)
	if !stop() {
		<-late
		return os.ErrDeadlineExceeded // whoever reads next must not find it at once
	}
	return err
}

// exchange sends a greeting and reads until the answer to it.
func exchange(conn io.Writer, in *bufio.Reader, before []byte) error {
	var nonce [nonceSize]byte
	binary.NativeEndian.PutUint64(nonce[:], rand.Uint64()) // no secret: it tells two greetings apart
	if _, err := conn.Write(append(before, hello(nonce)...)); err != nil {
		return err
	}
	present := false
	for {
		got, err := findGreeting(in, maxForeign)
		if err != nil || got == nonce {
			return err
		}
		if got == [nonceSize]byte{} && !present {
			present = true // once is enough for an honest guest
			if _, err := conn.Write(hello(nonce)); err != nil {
				return err
			}
		}
	}
}

// write sends one frame. The deadline tells a guest that does not read from one
// that is slow.
func (c *Client) write(p []byte) error {
	if err := c.conn.SetWriteDeadline(time.Now().Add(answerTimeout)); err != nil {
		return err
	}
	_, err := c.conn.Write(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.conn.Close() // half a frame may have gone
		return Hung(err)
	}
	return err
}

// receive takes in frames until the connection ends.
func (c *Client) receive(in *bufio.Reader) {
	defer close(c.done)
	for {
		f, err := readFrame(in, c.buf)
		if err == nil {
			switch f.kind {
			case frameHello: // the answer to a greeting that was sent twice
			case frameOpen, frameControl, frameCancel:
				err = fmt.Errorf("%w: a guest sends no frame of type %q", errFrame, byte(f.kind))
			default:
				err = c.mux.deliver(f)
			}
		}
		if err != nil {
			if !errors.Is(err, errFrame) {
				err = errors.New("the connection to the guest's agent ended")
			}
			c.mux.reset(api.E("", api.Unavailable, "", err), true)
			c.conn.Close()
			return
		}
	}
}

// Signal sends a signal to the entrypoint.
func (c *Client) Signal(ctx context.Context, signal int) error {
	_, err := c.ask(ctx, Request{Op: OpSignal, Signal: signal})
	return err
}

// Resize sets the size of the entrypoint's terminal.
func (c *Client) Resize(ctx context.Context, size Size) error {
	_, err := c.ask(ctx, Request{Op: OpResize, Size: size})
	return err
}

// LimitPIDs bounds how many processes the user has in the guest; -1 is no bound.
func (c *Client) LimitPIDs(ctx context.Context, limit int64) error {
	_, err := c.ask(ctx, Request{Op: OpLimitPIDs, Limit: limit})
	return err
}

// UseCPUs has the guest switch on processors that its machine was given, until so many
// run. It waits for those that the guest has yet to discover.
func (c *Client) UseCPUs(ctx context.Context, count int) error {
	_, err := c.ask(ctx, Request{Op: OpUseCPUs, Limit: int64(count)})
	return err
}

// GrowDisk has the guest use its disk, which has size bytes now. That takes the longer
// the more there is to use, so ctx alone bounds it.
func (c *Client) GrowDisk(ctx context.Context, size int64) error {
	_, err := c.call(ctx, Request{Op: OpGrowDisk, Limit: size}, func(*stream) error { return nil })
	return err
}

// SetClock sets the guest's clock, which stands still while it is paused.
func (c *Client) SetClock(ctx context.Context, now time.Time) error {
	_, err := c.ask(ctx, Request{Op: OpSetClock, Time: now.UnixNano()})
	return err
}

// Refresh gives the guest the time and new randomness: it goes on from where a machine
// was saved, from which others may go on too.
func (c *Client) Refresh(ctx context.Context, w Wake) error {
	_, err := c.ask(ctx, Request{Op: OpRefresh, Wake: w.Encode()})
	return err
}

// Hold returns once nothing moves in the guest but its agent. That lasts until LetGo,
// which any later client may call, and which a copy of the machine waits for too.
func (c *Client) Hold(ctx context.Context) error {
	_, err := c.ask(ctx, Request{Op: OpHold})
	return err
}

// LetGo undoes Hold, where that was called.
func (c *Client) LetGo(ctx context.Context) error {
	_, err := c.ask(ctx, Request{Op: OpLetGo})
	return err
}

// Become makes a machine of its own of the guest, which is the copy of another one: its
// name, addresses and keys. That can take an emulated processor many seconds, so ctx
// alone bounds it. It may be called again.
func (c *Client) Become(ctx context.Context, config *Config) error {
	data, err := config.Encode()
	if err != nil {
		return err
	}
	_, err = c.call(ctx, Request{Op: OpBecome, Config: data}, func(*stream) error { return nil })
	return err
}

// Shutdown asks the guest to end its entrypoint and power off.
func (c *Client) Shutdown(ctx context.Context) error {
	_, err := c.ask(ctx, Request{Op: OpShutdown})
	return err
}

// Stats returns what the guest has used.
func (c *Client) Stats(ctx context.Context) (Stats, error) {
	r, err := c.ask(ctx, Request{Op: OpStats})
	if err == nil && r.Stats == nil {
		err = api.E("", api.Unavailable, "", fmt.Errorf("%w: no stats", errFrame))
	}
	if err != nil {
		return Stats{}, err
	}
	return *r.Stats, nil
}

// Top lists the guest's processes.
func (c *Client) Top(ctx context.Context) ([]Proc, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	var list []Proc
	_, err := c.call(ctx, Request{Op: OpTop}, func(s *stream) error {
		data, err := io.ReadAll(io.LimitReader(channelReader{s, ChannelStdout}, maxTop))
		if err != nil || len(data) == 0 {
			return err
		}
		return json.Unmarshal(data, &list)
	})
	return list, err
}

// CopyIn unpacks a tar stream into a directory of the guest.
func (c *Client) CopyIn(ctx context.Context, dir string, tar io.Reader) error {
	return c.send(ctx, Request{Op: OpCopyIn, Path: dir}, tar)
}

// Place mounts the one file of a tar stream over a path of the guest. It is kept in the
// guest's memory alone.
func (c *Client) Place(ctx context.Context, path string, tar io.Reader) error {
	return c.send(ctx, Request{Op: OpPlace, Path: path}, tar)
}

// send makes a call that takes a tar stream.
func (c *Client) send(ctx context.Context, r Request, tar io.Reader) error {
	_, err := c.call(ctx, r, func(s *stream) error {
		_, err := io.Copy(channelWriter{s, ChannelStdin}, tar)
		if errors.Is(err, io.ErrClosedPipe) {
			return nil // the agent ended early; its reply says why
		}
		if err != nil {
			return err
		}
		return s.end(ChannelStdin)
	})
	return err
}

// CopyOut packs a file or directory of the guest as a tar stream.
func (c *Client) CopyOut(ctx context.Context, path string, tar io.Writer) error {
	_, err := c.call(ctx, Request{Op: OpCopyOut, Path: path}, func(s *stream) error {
		_, err := io.Copy(tar, channelReader{s, ChannelStdout})
		return err
	})
	return err
}

// Layer says of which tree Client.Layer tells, and how.
type Layer struct {
	Part      int  // the mount of this partition, with its root; 0 for the root filesystem, without it
	Exact     bool // times to the nanosecond, and not to the second as images have them
	NamesOnly bool // headers alone
}

// Layer writes what the guest has changed in a tree as the tar of an OCI layer, within a
// bound. The guest's writes wait meanwhile.
func (c *Client) Layer(ctx context.Context, l Layer, bound Bound, tar io.Writer) error {
	_, err := c.call(ctx, Request{Op: OpLayer, Part: l.Part, Exact: l.Exact, NamesOnly: l.NamesOnly}, func(s *stream) error {
		_, err := io.Copy(tar, &boundReader{stream: s, from: channelReader{s, ChannelStdout}, bound: bound})
		return err
	})
	return err
}

// Root writes the root filesystem that a further disk holds, named by its serial number,
// as the tar of an OCI layer within a bound.
func (c *Client) Root(ctx context.Context, serial string, bound Bound, tar io.Writer) (Root, error) {
	r, err := c.call(ctx, Request{Op: OpRoot, Path: serial}, func(s *stream) error {
		_, err := io.Copy(tar, &boundReader{stream: s, from: channelReader{s, ChannelStdout}, bound: bound})
		return err
	})
	if err == nil && r.Root == nil {
		err = api.E("", api.Unavailable, "", fmt.Errorf("%w: no root filesystem", errFrame))
	}
	if err != nil {
		return Root{}, err
	}
	return *r.Root, nil
}

// Freeze returns once the guest's disks are at rest, and nothing writes to them. They
// are until thaw is called, or the connection ends.
func (c *Client) Freeze(ctx context.Context) (thaw func() error, err error) {
	rest, release, over := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := c.call(ctx, Request{Op: OpFreeze}, func(s *stream) error {
			if _, err := io.ReadFull(channelReader{s, ChannelStdout}, make([]byte, 1)); err != nil {
				return nil // the reply says why
			}
			close(rest)
			select {
			case <-release:
			case <-ctx.Done():
			}
			return s.end(ChannelStdin)
		})
		over <- err
	}()
	select {
	case <-rest:
		return func() error {
			close(release)
			return <-over
		}, nil
	case err := <-over:
		return nil, err
	}
}

// Streams are the host's ends of an executed command's streams; nil ones are
// not connected.
type Streams struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Resize <-chan Size
}

// Exec runs a command and returns how it ended, after its last output was
// written. A canceled context kills the command.
func (c *Client) Exec(ctx context.Context, x Exec, streams Streams) (Exit, error) {
	// A reader of standard input may block for ever; it is left behind and
	// finds the stream closed when it returns.
	r, err := c.call(ctx, Request{Op: OpExec, Exec: &x}, func(s *stream) error {
		if streams.Stdin != nil && x.Stdin {
			go func() {
				_, _ = io.Copy(channelWriter{s, ChannelStdin}, streams.Stdin)
				_ = s.end(ChannelStdin)
			}()
		}
		stop := make(chan struct{})
		var background, output sync.WaitGroup
		if streams.Resize != nil {
			background.Go(func() { s.forwardSizes(streams.Resize, stop) })
		}
		errs := make(chan error, 2)
		copyOut := func(channel byte, w io.Writer) {
			if w == nil {
				w = io.Discard
			}
			output.Go(func() {
				_, err := io.Copy(w, channelReader{s, channel})
				if err != nil {
					s.fail(err) // ends the other copy and the call
				}
				errs <- err
			})
		}
		copyOut(ChannelStdout, streams.Stdout)
		copyOut(ChannelStderr, streams.Stderr)
		output.Wait()
		close(stop)
		background.Wait()
		return errors.Join(<-errs, <-errs)
	})
	if err != nil {
		return Exit{}, err
	}
	if r.Exit == nil {
		return Exit{}, api.E("", api.Unavailable, "", fmt.Errorf("%w: no exit code", errFrame))
	}
	return *r.Exit, nil
}

// forwardSizes sends each new size of the terminal until stop is closed.
func (s *stream) forwardSizes(sizes <-chan Size, stop <-chan struct{}) {
	for {
		select {
		case size, open := <-sizes:
			payload, err := message(Control{Resize: &size})
			if !open || err != nil || s.send(frameControl, payload) != nil {
				return
			}
		case <-stop:
			return
		}
	}
}

// ask makes a call that is answered at once.
func (c *Client) ask(ctx context.Context, r Request) (*Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	return c.call(ctx, r, func(*stream) error { return nil })
}

// call opens a stream, lets talk use it, and waits for the reply. The end of
// ctx cancels the call on both sides.
func (c *Client) call(ctx context.Context, r Request, talk func(*stream) error) (*Reply, error) {
	s, err := c.mux.open(r)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { s.fail(ctx.Err()) })
	defer stop()
	err = talk(s)
	if err != nil {
		s.fail(err)
	}
	reply, failed := s.wait()
	if failed != nil {
		c.mux.forget(s)
		_ = c.mux.send(frameCancel, s.id)
		switch {
		case err != nil && ctx.Err() == nil:
			return nil, err
		case errors.Is(failed, context.DeadlineExceeded), errors.Is(failed, context.Canceled):
			return nil, Hung(failed)
		}
		return nil, failed
	}
	if reply.Error != "" {
		return nil, api.E("", knownKind(reply.Kind), "", errors.New(api.OneLine(reply.Error)))
	}
	return reply, err
}

// wait returns the reply, or why there will be none.
func (s *stream) wait() (*Reply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.reply == nil && s.err == nil {
		s.changed.Wait()
	}
	if s.reply != nil {
		return s.reply, nil
	}
	return nil, s.err
}

// knownKind lets a guest choose only among kinds that a command can end with.
func knownKind(k api.ErrorKind) api.ErrorKind {
	switch k {
	case api.Invalid, api.NotFound, api.Conflict, api.NoCommand, api.NotRunnable, api.Unsupported, api.Exhausted:
		return k
	}
	return api.Internal
}
