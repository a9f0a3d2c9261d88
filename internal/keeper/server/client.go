package server

import (
	"encoding/json"
	"fmt"
	"sync"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/keeper"
)

// client is one attached client. Output waits for it in pending; its own
// goroutine writes it out.
type client struct {
	conn *keeper.Conn
	opts keeper.AttachOptions

	mu      sync.Mutex
	cond    sync.Cond // of mu: pending, last or gone has changed, or the process has ended
	pending []byte    // encoded frames
	last    bool      // nothing follows pending
	gone    bool      // the connection is of no use any more
}

func newClient(conn *keeper.Conn, opts keeper.AttachOptions) *client {
	c := &client{conn: conn, opts: opts}
	c.cond.L = &c.mu
	return c
}

// wants reports whether the client asked for the stream.
func (c *client) wants(t keeper.FrameType, console bool) bool {
	return c.opts.Console == console && (t == keeper.FrameStdout && c.opts.Stdout || t == keeper.FrameStderr && c.opts.Stderr)
}

// queue appends a frame and reports whether there was room for it.
func (c *client) queue(t keeper.FrameType, data []byte, unbounded bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last || c.gone {
		return true // it is over for this client
	}
	if !unbounded && len(c.pending)+len(data) > keeper.ClientBuffer {
		return false
	}
	c.pending = keeper.AppendFrame(c.pending, t, data)
	c.cond.Broadcast()
	return true
}

// end queues the last message.
func (c *client) end(last keeper.Control) {
	payload, _ := json.Marshal(last) // plain data cannot fail
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.last {
		c.pending = keeper.AppendFrame(c.pending, keeper.FrameControl, payload)
		c.last = true
		c.cond.Broadcast()
	}
}

// leave marks the connection as useless.
func (c *client) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone, c.pending = true, nil
	c.cond.Broadcast()
}

// wake has those who wait on the client look again.
func (c *client) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cond.Broadcast()
}

// write sends what is pending until the last message or the end of the
// connection, which it closes.
func (c *client) write() {
	defer c.conn.Close()
	for {
		c.mu.Lock()
		for len(c.pending) == 0 && !c.last && !c.gone {
			c.cond.Wait()
		}
		out := c.pending
		over := c.gone || len(out) == 0
		c.pending = nil
		c.cond.Broadcast() // there is room
		c.mu.Unlock()
		if over {
			return
		}
		if _, err := c.conn.Write(out); err != nil {
			c.leave()
			return
		}
	}
}

// send gives output to the attached clients: those of the serial console or the
// others. A client that is too slow is cut off or, where it asked for it, waited for.
func (p *proc) send(t keeper.FrameType, data []byte, console bool) {
	p.mu.Lock()
	if len(p.clients) == 0 {
		p.mu.Unlock()
		return
	}
	clients := append([]*client(nil), p.clients...)
	p.mu.Unlock()
	for _, c := range clients {
		if !c.wants(t, console) {
			continue
		}
		for !c.queue(t, data, p.hasEnded()) {
			if !c.opts.Wait {
				c.end(keeper.Control{Error: wireError(api.E("", api.Exhausted, "",
					fmt.Errorf("the client did not read its output; %d bytes were waiting for it", keeper.ClientBuffer)))})
				p.detach(c)
				break
			}
			p.waitRoom(c)
		}
	}
}

// waitRoom waits until the client has taken all that was pending, has gone, or
// the process has ended.
func (p *proc) waitRoom(c *client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.pending) > 0 && !c.gone && !c.last && !p.hasEnded() {
		c.cond.Wait()
	}
}

// join attaches the client. It reports false where the process has ended and
// all is said.
func (p *proc) join(c *client) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.done:
		c.end(keeper.Control{Exit: p.exit})
		return false
	default:
	}
	p.clients = append(p.clients, c)
	return true
}

// detach removes the client.
func (p *proc) detach(c *client) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, other := range p.clients {
		if other == c {
			p.clients = append(p.clients[:i], p.clients[i+1:]...)
			return
		}
	}
}

// attach connects a client to the streams of a process. It reports that the
// connection lives on.
func (s *Server) attach(conn *keeper.Conn, req *keeper.Request) bool {
	p, err := s.find(req.ID)
	if err == nil && req.Attach == nil {
		err = api.E("attach", api.Invalid, req.ID, fmt.Errorf("no streams are chosen"))
	}
	if err != nil {
		reply(conn, keeper.Reply{Error: wireError(err)})
		return false
	}
	c := newClient(conn, *req.Attach)
	if !c.opts.Console {
		p.join(c)
	} else if err := p.joinConsole(c); err != nil {
		reply(conn, keeper.Reply{Error: wireError(err)})
		return false
	}
	p.serveClient(c)
	return true
}

// serveClient replies that the client is attached and starts its goroutines.
// What was queued for it since join follows the reply.
func (p *proc) serveClient(c *client) {
	st := p.status()
	reply(c.conn, keeper.Reply{Status: &st})
	go c.write()
	go p.readClient(c)
}

// readClient carries out what the client sends, until it goes or the writer
// closes the connection after the last message.
func (p *proc) readClient(c *client) {
	typing := c.opts.Stdin && c.opts.Console
	writing := c.opts.Stdin && !typing && p.stdin != nil
	defer func() {
		p.detach(c)
		c.leave()
		if writing {
			p.stdin.endOfClient()
		}
	}()
	var buf []byte
	for {
		t, payload, err := keeper.ReadFrame(c.conn, buf)
		if err != nil {
			return
		}
		if cap(payload) > cap(buf) && cap(payload) <= bufSize {
			buf = payload[:cap(payload)]
		}
		switch t {
		case keeper.FrameStdin:
			if writing {
				p.stdin.write(payload)
			} else if typing {
				p.line.write(payload)
			}
		case keeper.FrameControl:
			var ctl keeper.Control
			if json.Unmarshal(payload, &ctl) != nil {
				return
			}
			if ctl.Resize != nil {
				_ = p.resize(*ctl.Resize) // a resize of no terminal is no reason to end
			}
			if ctl.CloseStdin && writing {
				writing = false
				p.stdin.endOfClient()
			}
		default:
			return
		}
	}
}
