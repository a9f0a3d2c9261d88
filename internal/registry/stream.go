package registry

import (
	"io"
	"net/http"
	"os"
	"time"
)

// A client must send, and take, so much in each such time: one that does so byte by byte
// would keep an upload and a connection for ever.
const (
	leastBytes = 4 << 10
	window     = 30 * time.Second
)

// steady reads a body that must not stall.
type steady struct {
	body    io.Reader
	control *http.ResponseController
	window  time.Duration
	until   time.Time
	got     int64 // in this window
}

// Read implements io.Reader.
func (s *steady) Read(p []byte) (int, error) {
	if now := time.Now(); now.After(s.until) {
		if !s.until.IsZero() && s.got < leastBytes {
			return 0, os.ErrDeadlineExceeded
		}
		s.until, s.got = now.Add(s.window), 0
		if err := s.control.SetReadDeadline(s.until); err != nil {
			return 0, err
		}
	}
	n, err := s.body.Read(p)
	s.got += int64(n)
	if err == io.EOF {
		// From here on net/http listens for the client's end, without a deadline.
		if e := s.control.SetReadDeadline(time.Time{}); e != nil {
			return n, e
		}
	}
	return n, err
}

// patient writes an answer to a client that must not stall, by pieces that each have
// their time.
type patient struct {
	http.ResponseWriter
	control *http.ResponseController
}

// piece is so many bytes that a client which takes them within the window is no burden.
const piece = 1 << 20

// WriteHeader implements http.ResponseWriter.
func (p *patient) WriteHeader(code int) {
	_ = p.control.SetWriteDeadline(time.Now().Add(window)) // what follows would fail as well
	p.ResponseWriter.WriteHeader(code)
}

// Write implements io.Writer.
func (p *patient) Write(b []byte) (int, error) {
	if err := p.control.SetWriteDeadline(time.Now().Add(window)); err != nil {
		return 0, err
	}
	return p.ResponseWriter.Write(b)
}

// ReadFrom implements io.ReaderFrom, by which a file goes to the socket without passing
// through this process (sendfile(2)).
func (p *patient) ReadFrom(r io.Reader) (total int64, err error) {
	left := int64(1<<63 - 1)
	if l, ok := r.(*io.LimitedReader); ok { // one of them is all that net looks through
		r, left = l.R, l.N
	}
	for left > 0 {
		if err := p.control.SetWriteDeadline(time.Now().Add(window)); err != nil {
			return total, err
		}
		n, err := io.CopyN(p.ResponseWriter, r, min(left, piece))
		total += n
		left -= n
		if err == io.EOF { //nolint:errorlint // io.CopyN returns it as it is
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
	return total, nil
}
