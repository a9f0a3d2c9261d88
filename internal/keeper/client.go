package keeper

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
)

// Config says where a keeper is and how to start one.
type Config struct {
	Run    string // the daemon's run directory; RUN/keeper.sock is the socket
	Binary string // path of berth-keeper; empty: never start one
}

// Client calls the keeper of one run directory. Every call has a connection of
// its own, so a Client is safe for concurrent use and has nothing to close.
// Where no keeper answers and Config.Binary is set, a call starts one first:
// a killed keeper is replaced by the next call.
//
// Errors are of type *api.Error. Unavailable: there is no keeper, or it died
// during the call.
type Client struct {
	cfg Config

	mu sync.Mutex // held while a keeper is being started
}

// New returns a client. It does not connect.
func New(cfg Config) *Client { return &Client{cfg: cfg} }

// Start starts and keeps a process. It fails with kind Exists where the ID is
// kept already, and with a *CommandError inside where the command could not be
// executed or, in mode Runtime, failed. On failure nothing is left. If ctx ends
// first, the start is taken back.
func (c *Client) Start(ctx context.Context, p Process) (Status, error) {
	r, err := c.call(ctx, "start", p.ID, Request{Op: OpStart, Process: &p})
	return statusOf(r), err
}

// StartWaiting is Start with a wait for the end on the same connection. The caller
// calls Wait or Close of what it gets, once.
func (c *Client) StartWaiting(ctx context.Context, p Process) (Status, *Waiting, error) {
	conn, err := c.dial(ctx, "start", p.ID)
	if err != nil {
		return Status{}, nil, err
	}
	r, err := exchange(ctx, conn, "start", p.ID, Request{Op: OpStart, Process: &p, Wait: true})
	if err != nil {
		conn.Close()
		return Status{}, nil, err
	}
	conn.SetDeadline(time.Time{}) // in case ctx ended just now
	return statusOf(r), &Waiting{client: c, id: p.ID, conn: conn}, nil
}

// Waiting is a call that waits for the end of a process.
type Waiting struct {
	client *Client
	id     string
	conn   *Conn
}

// Wait is Client.Wait of the process.
func (w *Waiting) Wait(ctx context.Context) (Exit, error) {
	defer w.conn.Close()
	stop := context.AfterFunc(ctx, func() { w.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var r Reply
	if err := readJSON(w.conn, FrameReply, &r); err != nil || r.Status == nil || r.Status.Exit == nil {
		// ctx has ended, or the keeper was killed, and the next one knows.
		return w.client.Wait(ctx, w.id)
	}
	return *r.Status.Exit, nil
}

// Close gives the wait up.
func (w *Waiting) Close() error { return w.conn.Close() }

// StartAttached is Start with the caller attached before the first output: it
// misses nothing.
func (c *Client) StartAttached(ctx context.Context, p Process, o AttachOptions) (Status, *Attachment, error) {
	return c.attach(ctx, "start", p.ID, Request{Op: OpStart, Process: &p, Attach: &o})
}

// Attach connects to the streams of a kept process, from now on.
func (c *Client) Attach(ctx context.Context, id string, o AttachOptions) (*Attachment, error) {
	_, a, err := c.attach(ctx, "attach", id, Request{Op: OpAttach, ID: id, Attach: &o})
	return a, err
}

// Wait returns how the process ended, once it has ended. It survives the
// replacement of a killed keeper.
func (c *Client) Wait(ctx context.Context, id string) (Exit, error) {
	r, err := c.ask(ctx, "wait", id, Request{Op: OpWait, ID: id})
	if err != nil {
		return Exit{}, err
	}
	if r.Status == nil || r.Status.Exit == nil {
		return Exit{}, api.E("wait", api.Internal, id, errors.New("the keeper answered without an exit"))
	}
	return *r.Status.Exit, nil
}

// Signal sends a signal to the process. Kind Conflict: it has ended.
func (c *Client) Signal(ctx context.Context, id string, sig unix.Signal) error {
	_, err := c.ask(ctx, "signal", id, Request{Op: OpSignal, ID: id, Signal: int(sig)})
	return err
}

// Resize changes the size of the process's terminal.
func (c *Client) Resize(ctx context.Context, id string, size Size) error {
	_, err := c.ask(ctx, "resize", id, Request{Op: OpResize, ID: id, Size: size})
	return err
}

// Status returns what is known of one process.
func (c *Client) Status(ctx context.Context, id string) (Status, error) {
	r, err := c.ask(ctx, "status", id, Request{Op: OpStatus, ID: id})
	return statusOf(r), err
}

// List returns all kept processes, ended ones included, sorted by ID.
func (c *Client) List(ctx context.Context) ([]Status, error) {
	r, err := c.ask(ctx, "list", "", Request{Op: OpList})
	return r.List, err
}

// Forget drops an ended process with its exit record. Kind Conflict: it still
// runs. NotFound is a success: Forget may be called twice.
func (c *Client) Forget(ctx context.Context, id string) error {
	_, err := c.ask(ctx, "forget", id, Request{Op: OpForget, ID: id})
	if api.IsKind(err, api.NotFound) {
		return nil
	}
	return err
}

// Warm has the keeper start the program of Runtime command lines that will come soon,
// unless it stands by already. It is a hint: a start does the same when it must.
func (c *Client) Warm(ctx context.Context, program string) error {
	_, err := c.ask(ctx, "warm", program, Request{Op: OpWarm, Program: program})
	return err
}

// Ping returns who the keeper is. It starts one like every call.
func (c *Client) Ping(ctx context.Context) (Info, error) {
	r, err := c.ask(ctx, "ping", "", Request{Op: OpPing})
	if err != nil || r.Info == nil {
		return Info{}, err
	}
	return *r.Info, nil
}

// Shutdown ends the keeper. Kind InUse: it still keeps something. No keeper is
// a success.
func (c *Client) Shutdown(ctx context.Context) error {
	conn, err := Dial(ctx, c.socket())
	if noKeeper(err) {
		return nil
	}
	if err != nil {
		return api.E("shut down", api.Unavailable, "keeper", err)
	}
	defer conn.Close()
	_, err = exchange(ctx, conn, "shut down", "keeper", Request{Op: OpShutdown})
	return err
}

// ask makes a call that does no harm the second time. Where the keeper dies
// during the call, it is made again to the next one.
func (c *Client) ask(ctx context.Context, op, name string, req Request) (Reply, error) {
	for {
		r, err := c.call(ctx, op, name, req)
		if !errors.Is(err, errDied) || c.cfg.Binary == "" {
			return r, err
		}
		select {
		case <-ctx.Done():
			return Reply{}, api.E(op, api.Canceled, name, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// call makes one call with one reply.
func (c *Client) call(ctx context.Context, op, name string, req Request) (Reply, error) {
	conn, err := c.dial(ctx, op, name)
	if err != nil {
		return Reply{}, err
	}
	defer conn.Close()
	return exchange(ctx, conn, op, name, req)
}

// dial connects, and starts a keeper where there is none.
func (c *Client) dial(ctx context.Context, op, name string) (*Conn, error) {
	conn, err := Dial(ctx, c.socket())
	if noKeeper(err) && c.cfg.Binary != "" {
		if err := c.ensure(ctx); err != nil {
			return nil, err
		}
		conn, err = Dial(ctx, c.socket())
	}
	if err != nil {
		return nil, api.E(op, api.Unavailable, name, fmt.Errorf("the keeper does not answer: %w", err))
	}
	return conn, nil
}

// errDied means that the connection broke before the reply.
var errDied = errors.New("the keeper died during the call")

// exchange sends the request and reads the reply; the end of ctx ends both.
func exchange(ctx context.Context, conn *Conn, op, name string, req Request) (Reply, error) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var r Reply
	err := WriteJSON(conn, FrameRequest, req)
	if err == nil {
		err = readJSON(conn, FrameReply, &r)
	}
	switch {
	case ctx.Err() != nil && err != nil:
		return Reply{}, api.E(op, api.Canceled, name, ctx.Err())
	case err != nil:
		return Reply{}, api.E(op, api.Unavailable, name, fmt.Errorf("%w: %w", errDied, err))
	}
	return r, r.Error.err(op, name)
}

// err rebuilds the error on this side of the wire.
func (e *WireError) err(op, name string) error {
	switch {
	case e == nil:
		return nil
	case e.Command:
		return api.E(op, commandKind(e.Code), name, &CommandError{Code: e.Code, Stderr: e.Text})
	}
	return api.E(op, e.Kind, name, errors.New(e.Text))
}

// commandKind is the kind of a CommandError, after the shell's exit codes,
// which OCI runtimes use as well.
func commandKind(code int) api.ErrorKind {
	switch code {
	case 126:
		return api.NotRunnable
	case 127:
		return api.NoCommand
	}
	return api.Internal
}

func statusOf(r Reply) Status {
	if r.Status == nil {
		return Status{}
	}
	return *r.Status
}

// noKeeper reports whether err of Dial means that nobody listens.
func noKeeper(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED)
}
