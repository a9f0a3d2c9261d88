package client

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// TestSocketWithAnother: what this side sends the other implementation understands,
// whatever the size, and the other way round.
func TestSocketWithAnother(t *testing.T) {
	c := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer conn.CloseNow()
		conn.SetReadLimit(maxMessage)
		pinged := make(chan error, 1)
		go func() { pinged <- conn.Ping(r.Context()) }()
		for {
			kind, msg, err := conn.Read(r.Context())
			if err != nil {
				return
			}
			if string(msg) == "bye" {
				if <-pinged == nil {
					conn.Close(websocket.StatusNormalClosure, "")
				}
				return
			}
			parts, err := conn.Writer(r.Context(), kind) // in several frames
			if err != nil {
				return
			}
			for part := range bytes.SplitSeq(msg, []byte("\n")) {
				_, _ = parts.Write(part)
			}
			parts.Close()
		}
	}))
	s, refusal, err := c.dialSocket(t.Context(), "/v1/run")
	if err != nil || refusal != nil {
		t.Fatal(refusal, err)
	}
	defer s.x.close()
	for _, size := range []int{0, 1, 125, 126, 1<<16 - 1, 1 << 16, maxMessage - 2} {
		want := strings.Repeat("x", size)
		if err := s.write(opText, []byte(want[:size/2]), []byte("\n"), []byte(want[size/2:])); err != nil {
			t.Fatal(err)
		}
		kind, msg, err := s.read()
		if err != nil || kind != opText || string(msg) != want {
			t.Errorf("%d bytes: %d, %d, %v", size, kind, len(msg), err)
		}
	}
	if err := s.write(opBinary, []byte("bye")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.read(); !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
}

func TestFrames(t *testing.T) {
	for _, c := range []struct {
		name, sent, msg string
		err             error
	}{
		{"message", "\x82\x02hi", "hi", nil},
		{"two frames and a pong between", "\x02\x01h\x8a\x00\x80\x01i", "hi", nil},
		{"long form of a short one", "\x82\x7e\x00\x02hi", "hi", nil},
		{"close", "\x88\x02\x03\xe8", "", io.EOF},
		{"nothing", "", "", io.EOF},
		{"half a head", "\x82", "", io.ErrUnexpectedEOF},
		{"half a length", "\x82\x7e\x00", "", io.ErrUnexpectedEOF},
		{"no payload", "\x82\x02", "", io.ErrUnexpectedEOF},
		{"half a message", "\x02\x01h", "", io.EOF},
		{"masked", "\x82\x82\x00\x00\x00\x00hi", "", errFrame},
		{"reserved bit", "\xc2\x02hi", "", errFrame},
		{"unknown opcode", "\x83\x00", "", errFrame},
		{"unknown control", "\x8b\x00", "", errFrame},
		{"continuation of nothing", "\x80\x02hi", "", errFrame},
		{"message within a message", "\x02\x01h\x82\x01i", "", errFrame},
		{"control in parts", "\x09\x00", "", errFrame},
		{"long control", "\x89\x7e\x00\x7e" + strings.Repeat("x", 126), "", errFrame},
		{"too long", "\x82\x7f\x00\x00\x00\x00\x00\x10\x00\x01", "", errTooLong},
		{"far too long", "\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff", "", errTooLong},
	} {
		s := &socket{x: &exchange{r: bufio.NewReader(strings.NewReader(c.sent))}}
		_, msg, err := s.read()
		if string(msg) != c.msg || !errors.Is(err, c.err) {
			t.Errorf("%s: %q, %v; want %q, %v", c.name, msg, err, c.msg, c.err)
		}
	}
}

// TestSocketIsProved: who answers 101 without knowing the protocol is refused.
func TestSocketIsProved(t *testing.T) {
	c := listen(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
			conn.Close()
		}
	}))
	if _, _, err := c.dialSocket(t.Context(), "/v1/run"); !errors.Is(err, errAnswer) {
		t.Errorf("%v", err)
	}
	// The example of RFC 6455, section 1.3.
	if got := acceptOf("dGhlIHNhbXBsZSBub25jZQ=="); got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Error(got)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte("\x02\x01h\x8a\x00\x80\x01i\x89\x01p\x88\x00"))
	f.Add([]byte("\x82\x7e\x00\x02hi\x82\x7f\x00\x00\x00\x00\x00\x00\x00\x01x"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		own, server := net.Pipe() // takes the answers to pings
		defer own.Close()
		go func() { _, _ = io.Copy(io.Discard, server) }()
		s := &socket{x: &exchange{conn: own, r: bufio.NewReader(bytes.NewReader(sent))}}
		for left := len(sent); ; {
			_, msg, err := s.read()
			if err != nil {
				return
			}
			if left -= len(msg); left < 0 {
				t.Fatal("more than was sent")
			}
		}
	})
}
