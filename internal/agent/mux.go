package agent

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// maxControls bounds the messages that wait for one call.
const maxControls = 256

// mux carries streams over one connection. Host and guest differ only in what
// they do with a frame that opens a stream.
type mux struct {
	write func([]byte) error // writes one whole frame or fails; called under wmu

	wmu sync.Mutex // one frame at a time; taken after mu or alone, never before it, and before a stream's

	mu      sync.Mutex // guards what follows
	streams map[uint32]*stream
	last    uint32 // the newest stream this side has opened
	err     error  // why the conversation is over
}

func newMux(write func([]byte) error) *mux {
	return &mux{write: write, streams: map[uint32]*stream{}}
}

// stream is one call.
type stream struct {
	mux *mux
	id  uint32

	mu       sync.Mutex // guards what follows
	changed  *sync.Cond
	in       [maxChannels]inbox
	credit   [maxChannels]int // bytes that may still be sent
	reply    *Reply           // host: the end
	controls []Control        // guest: not handled yet
	err      error            // the stream is dead
}

// inbox holds data that has come and was not taken.
type inbox struct {
	data  []byte
	taken int // since the last window frame
	ended bool
}

func (m *mux) newStream(id uint32) *stream {
	s := &stream{mux: m, id: id}
	s.changed = sync.NewCond(&s.mu)
	for i := range s.credit {
		s.credit[i] = windowSize
	}
	return s
}

// send writes one frame that begins a stream, or gives one up.
func (m *mux) send(kind frameType, id uint32, payload ...[]byte) error {
	m.wmu.Lock()
	defer m.wmu.Unlock()
	return m.write(appendFrame(nil, kind, id, payload...))
}

// send writes one frame of a stream that is not over: the next host counts its streams
// from one again, and would take what comes after its greeting for its own.
func (s *stream) send(kind frameType, payload ...[]byte) error {
	s.mux.wmu.Lock()
	defer s.mux.wmu.Unlock()
	s.mu.Lock()
	err := s.err
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.mux.write(appendFrame(nil, kind, s.id, payload...))
}

// message encodes what a frame holds as JSON.
func message(value any) ([]byte, error) {
	payload, err := json.Marshal(value)
	if err == nil && len(payload) > maxPayload {
		err = fmt.Errorf("a message of %d bytes to or from the guest's agent is more than %d", len(payload), maxPayload)
	}
	return payload, err
}

// open begins a call.
func (m *mux) open(r Request) (*stream, error) {
	payload, err := message(r)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	if m.err != nil {
		defer m.mu.Unlock()
		return nil, m.err
	}
	m.last++
	s := m.newStream(m.last)
	m.streams[s.id] = s
	m.mu.Unlock()
	if err := m.send(frameOpen, s.id, payload); err != nil {
		m.forget(s)
		return nil, err
	}
	return s, nil
}

// add registers a stream that the peer has opened.
func (m *mux) add(id uint32) *stream {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.newStream(id)
	m.streams[id] = s
	return s
}

func (m *mux) find(id uint32) *stream {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.streams[id]
}

func (m *mux) forget(s *stream) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.streams[s.id] == s {
		delete(m.streams, s.id)
	}
}

// reset ends all streams; over also ends the conversation.
func (m *mux) reset(err error, over bool) {
	m.mu.Lock()
	streams := m.streams
	m.streams = map[uint32]*stream{}
	if over && m.err == nil {
		m.err = err
	}
	m.mu.Unlock()
	for _, s := range streams {
		s.fail(err)
	}
}

// deliver hands a frame to its stream. An error ends the conversation. Frames
// of streams that are over are dropped: they were on their way.
func (m *mux) deliver(f frame) error {
	s := m.find(f.stream)
	if s == nil {
		return nil
	}
	switch f.kind {
	case frameData, frameEnd, frameWindow:
		if len(f.payload) == 0 || f.payload[0] >= maxChannels {
			return fmt.Errorf("%w: no such channel", errFrame)
		}
		return s.deliver(f.kind, f.payload[0], f.payload[1:])
	case frameReply:
		var r Reply
		if err := json.Unmarshal(f.payload, &r); err != nil {
			return fmt.Errorf("%w: %w", errFrame, err)
		}
		m.forget(s)
		s.update(func() { s.reply = &r })
		return nil
	case frameControl:
		var c Control
		if err := json.Unmarshal(f.payload, &c); err != nil {
			return fmt.Errorf("%w: %w", errFrame, err)
		}
		return s.deliverControl(c)
	case frameCancel:
		m.forget(s)
		s.fail(errCanceled)
		return nil
	}
	return fmt.Errorf("%w: a frame of type %q", errFrame, byte(f.kind))
}

var (
	errCanceled = errors.New("the call was canceled")
	errWindow   = windowError{}
)

// windowError is an errFrame. It is no value of package fmt's, which every boot of
// a guest would have to make.
type windowError struct{}

func (windowError) Error() string { return errFrame.Error() + ": more data than its window" }
func (windowError) Unwrap() error { return errFrame }

// deliver takes in a frame that concerns one channel.
func (s *stream) deliver(kind frameType, channel byte, payload []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.changed.Broadcast()
	in := &s.in[channel]
	switch kind {
	case frameEnd:
		in.ended = true
	case frameWindow:
		if len(payload) != 4 {
			return errFrame
		}
		n := binary.BigEndian.Uint32(payload)
		if n > windowSize || s.credit[channel]+int(n) > windowSize {
			return errWindow
		}
		s.credit[channel] += int(n)
	case frameData:
		if len(in.data)+in.taken+len(payload) > windowSize {
			return errWindow
		}
		in.data = append(in.data, payload...)
	}
	return nil
}

// deliverControl queues a message for the call.
func (s *stream) deliverControl(c Control) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.controls) >= maxControls {
		return fmt.Errorf("%w: %d messages wait for one call", errFrame, maxControls)
	}
	s.controls = append(s.controls, c)
	s.changed.Broadcast()
	return nil
}

func (s *stream) update(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.changed.Broadcast()
}

func (s *stream) fail(err error) {
	s.update(func() {
		if s.err == nil {
			s.err = err
		}
	})
}

// read takes data of a channel. It returns io.EOF after the last of it, which
// is where the peer has ended the channel or the whole stream.
func (s *stream) read(channel byte, p []byte) (int, error) {
	s.mu.Lock()
	in := &s.in[channel]
	for len(in.data) == 0 && !in.ended && s.reply == nil && s.err == nil {
		s.changed.Wait()
	}
	if len(in.data) == 0 {
		defer s.mu.Unlock()
		if s.err != nil && !in.ended {
			return 0, s.err
		}
		return 0, io.EOF
	}
	n := copy(p, in.data)
	in.data = in.data[n:]
	if len(in.data) == 0 {
		in.data = nil
	}
	in.taken += n
	give := 0
	if in.taken >= windowSize/4 {
		give, in.taken = in.taken, 0
	}
	s.mu.Unlock()
	if give > 0 {
		// An error here ends the connection, which its reader notices.
		_ = s.send(frameWindow, []byte{channel}, binary.BigEndian.AppendUint32(nil, uint32(give)))
	}
	return n, nil
}

// writeTo sends data on a channel, as much at a time as the window allows.
func (s *stream) writeTo(channel byte, p []byte) (int, error) {
	sent := 0
	for sent < len(p) {
		s.mu.Lock()
		for s.credit[channel] == 0 && s.reply == nil && s.err == nil {
			s.changed.Wait()
		}
		if s.err != nil || s.reply != nil {
			err := s.err
			s.mu.Unlock()
			if err == nil {
				err = io.ErrClosedPipe
			}
			return sent, err
		}
		n := min(len(p)-sent, maxData, s.credit[channel])
		s.credit[channel] -= n
		s.mu.Unlock()
		if err := s.send(frameData, []byte{channel}, p[sent:sent+n]); err != nil {
			return sent, err
		}
		sent += n
	}
	return sent, nil
}

// end says that no more data comes on a channel.
func (s *stream) end(channel byte) error { return s.send(frameEnd, []byte{channel}) }

// channelReader and channelWriter make io interfaces of a channel.
type channelReader struct {
	s       *stream
	channel byte
}

func (c channelReader) Read(p []byte) (int, error) { return c.s.read(c.channel, p) }

type channelWriter struct {
	s       *stream
	channel byte
}

func (c channelWriter) Write(p []byte) (int, error) { return c.s.writeTo(c.channel, p) }
