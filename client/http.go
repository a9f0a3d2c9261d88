package client

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
)

// The client speaks HTTP/1.1 (RFC 9112) itself, with a connection for each request.
// Package net/http has TLS, HTTP/2, proxies and mime types to get ready, of which a
// unix socket has none: a millisecond of processor time in every process anew, a third
// of what `berth run` costs.

const (
	headLine  = 16 << 10 // most bytes of one line of an answer's head or trailer
	headLines = 100      // most of these lines
)

// errAnswer is an answer that is not HTTP.
var errAnswer = errors.New("malformed HTTP response")

// exchange is a request on its way, and its answer.
type exchange struct {
	conn    net.Conn
	release func() bool // the connection from its context
	r       *bufio.Reader
	failed  atomic.Pointer[error] // of what the request's body is read from

	status int
	reason string // as in "404 Not Found"
	header fields
	body   io.Reader
	// trailer has what follows a body in chunks, once that was read to its end.
	trailer fields
}

// fields are those of a head or a trailer, by name in lower case.
type fields map[string]string

// roundTrip sends a request and reads the head of the answer. A body that is not a
// *bytes.Reader is sent in chunks while the answer is awaited. The end of ctx closes
// the connection; the caller closes it too.
func roundTrip(ctx context.Context, conn net.Conn, head string, body io.Reader) (*exchange, error) {
	x := &exchange{conn: conn}
	x.r = bufio.NewReaderSize(answer{x}, headLine)
	x.release = context.AfterFunc(ctx, func() { conn.Close() })
	err := x.send(head, body)
	if err == nil {
		err = x.readHead()
	}
	if err != nil {
		x.close()
		return nil, err
	}
	return x, nil
}

// close gives the connection up, and with it what of the request or the answer is
// still on its way.
func (x *exchange) close() {
	x.release()
	x.conn.Close()
}

// answer reads what the server sends. Where the request's body failed, and took the
// connection along, it fails likewise.
type answer struct{ x *exchange }

// Read implements io.Reader.
func (a answer) Read(p []byte) (int, error) {
	n, err := a.x.conn.Read(p)
	if own := a.x.failed.Load(); err != nil && own != nil {
		err = bodyError{*own}
	}
	return n, err
}

// bodyError is the failure of what a request's body is read from: neither the
// daemon's nor the connection's.
type bodyError struct{ err error }

func (e bodyError) Error() string { return e.err.Error() }

// send sends the request; a body of unknown length goes on behind.
func (x *exchange) send(head string, body io.Reader) error {
	switch b := body.(type) {
	case nil:
		_, err := io.WriteString(x.conn, head+"Content-Length: 0\r\n\r\n")
		return err
	case *bytes.Reader:
		text := fmt.Appendf(make([]byte, 0, len(head)+64+b.Len()), "%sContent-Length: %d\r\n\r\n", head, b.Len())
		buf := bytes.NewBuffer(text)
		_, _ = b.WriteTo(buf)
		_, err := x.conn.Write(buf.Bytes())
		return err
	}
	if _, err := io.WriteString(x.conn, head+"Transfer-Encoding: chunked\r\n\r\n"); err != nil {
		return err
	}
	go x.sendChunks(body)
	return nil
}

// sendChunks sends a body in chunks. The server may answer before it has read all, as
// for a wrong archive; a write that fails is for the answer to explain.
func (x *exchange) sendChunks(body io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			chunk := net.Buffers{[]byte(strconv.FormatInt(int64(n), 16) + "\r\n"), buf[:n], []byte("\r\n")}
			if _, err := chunk.WriteTo(x.conn); err != nil {
				return
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			_, _ = io.WriteString(x.conn, "0\r\n\r\n")
			return
		case err != nil:
			x.failed.Store(&err)
			x.conn.Close() // a body that ends early must not look like a whole one
			return
		}
	}
}

// readHead reads the status line and the fields, and finds out how the body ends.
func (x *exchange) readHead() error {
	for x.status < 200 && x.status != switching { // informational answers come before the one
		line, err := readLine(x.r)
		if err != nil {
			return err
		}
		version, rest, _ := strings.Cut(line, " ")
		code, _, _ := strings.Cut(rest, " ")
		if x.status, err = strconv.Atoi(code); err != nil || len(code) != 3 || x.status < 100 || !strings.HasPrefix(version, "HTTP/1.") {
			return errAnswer
		}
		x.reason = rest
		if x.header, err = readFields(x.r); err != nil {
			return err
		}
	}
	x.body = x.r // up to the end of the connection
	length, known := x.header["content-length"]
	switch {
	case x.status == switching:
	case x.status == 204 || x.status == 304:
		x.body = strings.NewReader("")
	case strings.EqualFold(x.header["transfer-encoding"], "chunked"):
		x.body = &chunks{x: x}
	case known:
		n, err := strconv.ParseInt(length, 10, 64)
		if err != nil || n < 0 {
			return errAnswer
		}
		x.body = &sized{r: x.r, left: n}
	}
	return nil
}

// switching is the status of an answer after which the connection speaks another
// protocol.
const switching = 101

// readLine reads a line without its end.
func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return "", errAnswer
	case errors.Is(err, io.EOF) && len(line) > 0:
		return "", io.ErrUnexpectedEOF
	case err != nil:
		return "", err
	}
	return strings.TrimRight(string(line), "\r\n"), nil
}

// readFields reads lines up to an empty one.
func readFields(r *bufio.Reader) (fields, error) {
	f := fields{}
	for range headLines {
		line, err := readLine(r)
		if err != nil {
			return nil, unexpected(err)
		}
		if line == "" {
			return f, nil
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, errAnswer
		}
		f[strings.ToLower(name)] = strings.TrimSpace(value)
	}
	return nil, errAnswer
}

// unexpected is the error of a reader that may not end here.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// sized reads a body of known length.
type sized struct {
	r    io.Reader
	left int64
}

// Read implements io.Reader.
func (s *sized) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	n, err := s.r.Read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	if s.left == 0 {
		return n, nil
	}
	return n, unexpected(err)
}

// chunks reads a body in chunks (RFC 9112, section 7.1).
type chunks struct {
	x     *exchange
	left  int64 // of the chunk that is being read
	later bool  // not the first chunk: the end of a line comes before the next
	err   error // io.EOF after the last
}

// Read implements io.Reader.
func (c *chunks) Read(p []byte) (int, error) {
	if c.left == 0 && c.err == nil {
		c.err = c.next()
	}
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.x.r.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	c.err = unexpected(err)
	return n, c.err
}

// next reads the size of a chunk, and after the last one the trailer.
func (c *chunks) next() error {
	if c.later {
		if line, err := readLine(c.x.r); err != nil || line != "" {
			return cmp.Or(unexpected(err), errAnswer)
		}
	}
	c.later = true
	line, err := readLine(c.x.r)
	if err != nil {
		return unexpected(err)
	}
	size, _, _ := strings.Cut(line, ";") // without extensions
	c.left, err = strconv.ParseInt(strings.TrimSpace(size), 16, 64)
	if err != nil || c.left < 0 {
		return errAnswer
	}
	if c.left > 0 {
		return nil
	}
	if c.x.trailer, err = readFields(c.x.r); err != nil {
		return err
	}
	return io.EOF
}
