package agent

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"

	"github.com/berthcloud/berth/api"
)

// Server is the guest's side of the protocol. It survives any number of hosts,
// one after the other.
type Server struct {
	mux    *mux
	handle func(*Call)
}

// NewServer returns a server that answers each call by handle, in a goroutine
// of its own, and sends frames by write, whole or not at all.
func NewServer(write func([]byte) error, handle func(*Call)) *Server {
	return &Server{mux: newMux(write), handle: handle}
}

// Serve takes in what a host sends until the connection ends, which is where r
// ends or fails.
func (s *Server) Serve(r io.Reader) error {
	in := bufio.NewReaderSize(r, 4096)
	defer s.mux.reset(errHostGone, false)
	buf := make([]byte, maxPayload)
	greeted := false
	for {
		if !greeted {
			nonce, err := findGreeting(in, -1)
			if err != nil {
				return err
			}
			greeted = true
			if err := s.welcome(nonce); err != nil {
				return err
			}
		}
		f, err := readFrame(in, buf)
		switch {
		case errors.Is(err, errFrame):
			// The rest of an old conversation. A greeting follows.
			greeted = false
		case err != nil:
			return err
		case f.kind == frameHello && len(f.payload) == len(greeting)-headerSize+nonceSize:
			if err := s.welcome([nonceSize]byte(f.payload[len(greeting)-headerSize:])); err != nil {
				return err
			}
		case f.kind == frameOpen:
			s.open(f)
		default:
			if err := s.mux.deliver(f); err != nil {
				greeted = false
			}
		}
	}
}

var errHostGone = errors.New("the host has ended the conversation")

// welcome answers a greeting: all that was before is over.
func (s *Server) welcome(nonce [nonceSize]byte) error {
	s.mux.reset(errHostGone, false)
	s.mux.wmu.Lock()
	defer s.mux.wmu.Unlock()
	return s.mux.write(hello(nonce))
}

func (s *Server) open(f frame) {
	c := &Call{s: s.mux.add(f.stream)}
	if err := json.Unmarshal(f.payload, &c.Request); err != nil {
		c.Reply(Reply{Kind: api.Invalid, Error: err.Error()})
		return
	}
	go s.handle(c)
}

// Call is a call that the guest answers. Exactly one Reply ends it.
type Call struct {
	Request Request
	s       *stream
}

// Stdin reads what the host sends.
func (c *Call) Stdin() io.Reader { return channelReader{c.s, ChannelStdin} }

// Output writes to a channel of the host.
func (c *Call) Output(channel byte) io.Writer { return channelWriter{c.s, channel} }

// Control returns the next message to the call, or false when the call is over.
func (c *Call) Control() (Control, bool) {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.controls) == 0 && s.err == nil && s.reply == nil {
		s.changed.Wait()
	}
	if len(s.controls) == 0 {
		return Control{}, false
	}
	m := s.controls[0]
	s.controls = s.controls[1:]
	return m, true
}

// Canceled returns once the call is over: answered, or given up by the host
// (true).
func (c *Call) Canceled() bool {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.err == nil && s.reply == nil {
		s.changed.Wait()
	}
	return s.err != nil
}

// Over reports whether the host has given the call up.
func (c *Call) Over() bool {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return c.s.err != nil
}

// Reply ends the call.
func (c *Call) Reply(r Reply) {
	c.s.mux.forget(c.s)
	c.s.update(func() { c.s.reply = &r })
	// Where the host has gone there is nobody to tell.
	if payload, err := message(r); err == nil {
		_ = c.s.send(frameReply, payload)
	}
}
