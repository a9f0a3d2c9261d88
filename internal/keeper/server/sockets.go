package server

import (
	"context"
	"time"

	"github.com/berthcloud/berth/internal/keeper"
	"github.com/berthcloud/berth/internal/keeper/crilog"
)

// How often a socket is tried that the process has not made yet.
const (
	dialFirst = 5 * time.Millisecond
	dialMost  = 200 * time.Millisecond
)

// addSockets adds the streams of kind Sockets. They connect by themselves.
func (p *proc) addSockets() {
	st := &p.spec.Stdio
	add := func(path, name string, frame keeper.FrameType) {
		if path != "" {
			p.addStream(nil, name, frame).path = path
		}
	}
	add(st.StdoutSocket, crilog.Stdout, keeper.FrameStdout)
	add(st.StderrSocket, crilog.Stderr, keeper.FrameStderr)
	if st.StdinSocket == "" || p.stdinClosed && !st.StdinAsked {
		return
	}
	shared := st.StdinSocket == st.StdoutSocket
	p.stdin = newStdin(nil, st.StdinOnce && !shared)
	if st.StdinAsked {
		p.stdin.asked = newAsked()
		if p.stdinClosed {
			p.stdin.close() // the former keeper may not have come to say so
		}
	}
	if !shared {
		// What the process sends on its standard input's socket is read, so
		// that it cannot fill up, and thrown away.
		s := p.addStream(nil, "", keeper.FrameStdin)
		s.path, s.log = st.StdinSocket, nil
	}
}

// runSocket keeps the stream connected until the process ends.
func (s *stream) runSocket() {
	in := s.p.stdin
	if s.path != s.p.spec.Stdio.StdinSocket {
		in = nil
	}
	for {
		conn := s.dial()
		if conn == nil {
			if in != nil && in.asked != nil {
				in.asked.give()
			}
			return
		}
		switch {
		case in == nil || in.connect(conn.File):
		case in.asked != nil:
			go in.sayEnd(conn.File)
		default:
			conn.Close()
			if s.frame == keeper.FrameStdin {
				return
			}
		}
		if in != nil && in.asked != nil {
			in.asked.serve(conn.File)
		} else {
			s.read(conn.File)
		}
		s.mu.Lock()
		s.file = nil
		s.mu.Unlock()
		conn.Close()
		select {
		case <-s.p.gone:
		case <-time.After(dialMost):
		}
	}
}

// dial tries to connect until the process has ended, when it returns nil.
func (s *stream) dial() *keeper.Conn {
	for wait := dialFirst; ; wait = min(2*wait, dialMost) {
		conn, err := keeper.Dial(context.Background(), s.path)
		s.mu.Lock()
		ended := s.ended
		if err == nil && !ended {
			s.file = conn.File
			s.mu.Unlock()
			return conn
		}
		s.mu.Unlock()
		if err == nil {
			conn.Close()
		}
		if ended {
			return nil
		}
		select {
		case <-s.p.gone:
		case <-time.After(wait):
		}
	}
}
