package client

import (
	"context"
	"crypto/sha1" // RFC 6455 asks for it; nothing depends on its strength
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
)

// The client's side of a websocket (RFC 6455), as far as a connection to berthd needs
// it: no extensions, no closing handshake.
//
//	 0               1               2 …
//	+-+-+-+-+-------+-+-------------+----------------------+-----------+---------
//	|F|RSV 0|opcode |M| length, 126 | longer length: 16 or | key, where| payload
//	|I|     |       |A| or 127      | 64 bits              | M is set  | xor key
//	+-+-+-+-+-------+-+-------------+----------------------+-----------+---------

// opcode says what a frame is.
type opcode byte

const (
	opContinue opcode = 0x0
	opText     opcode = 0x1
	opBinary   opcode = 0x2
	opClose    opcode = 0x8
	opPing     opcode = 0x9
	opPong     opcode = 0xa
)

const (
	final      = 0x80 // of the first byte: no further frame of this message
	masked     = 0x80 // of the second byte: a key follows
	size16     = 126  // the length is in the next two bytes
	size64     = 127  // … eight bytes
	mostOfCtrl = 125  // bytes of a close, ping or pong
)

// errFrame is a frame that the server may not send.
var errFrame = errors.New("malformed websocket frame")

// errTooLong is a message that nobody sends.
var errTooLong = fmt.Errorf("a message of more than %d bytes", maxMessage)

// acceptSuffix makes of a client's key what proves that the server speaks websocket.
const acceptSuffix = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// socket is an open websocket. read is called by one goroutine, write by any.
type socket struct {
	x   *exchange
	buf []byte // of the message that was read last

	mu  sync.Mutex
	out []byte // guarded by mu: the frame being written
}

// dialSocket opens a websocket. Where the server answers otherwise, it returns the
// answer. The end of ctx closes the connection.
func (c *Client) dialSocket(ctx context.Context, target string) (*socket, *exchange, error) {
	key := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, rand.Uint64()), rand.Uint64())
	nonce := base64.StdEncoding.EncodeToString(key)
	head := "GET " + target + " HTTP/1.1\r\nHost: berth\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + nonce + "\r\n"
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	x, err := roundTrip(ctx, conn, head, nil)
	if err != nil {
		return nil, nil, err
	}
	if x.status != switching {
		return nil, x, nil
	}
	if x.header["sec-websocket-accept"] != acceptOf(nonce) {
		x.close()
		return nil, nil, errAnswer
	}
	return &socket{x: x}, nil, nil
}

// acceptOf is the answer to a client's key.
func acceptOf(nonce string) string {
	sum := sha1.Sum([]byte(nonce + acceptSuffix))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// write sends one message.
func (s *socket) write(op opcode, payload ...[]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out = appendFrame(s.out[:0], op, rand.Uint32(), payload...)
	_, err := s.x.conn.Write(s.out)
	return err
}

// appendFrame appends a message in one frame. Clients mask what they send.
func appendFrame(b []byte, op opcode, key uint32, payload ...[]byte) []byte {
	size := 0
	for _, p := range payload {
		size += len(p)
	}
	b = append(b, final|byte(op))
	switch {
	case size < size16:
		b = append(b, masked|byte(size))
	case size < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, masked|size16), uint16(size))
	default:
		b = binary.BigEndian.AppendUint64(append(b, masked|size64), uint64(size))
	}
	b = binary.BigEndian.AppendUint32(b, key)
	begin := len(b)
	for _, p := range payload {
		b = append(b, p...)
	}
	mask := b[begin-4 : begin]
	for i := range b[begin:] {
		b[begin+i] ^= mask[i%4]
	}
	return b
}

// read returns the next message, which is valid until the next read. A close of the
// server's is io.EOF.
func (s *socket) read() (kind opcode, msg []byte, err error) {
	s.buf = s.buf[:0]
	for {
		op, last, size, err := s.readFrameHead()
		if err != nil {
			return 0, nil, err
		}
		if op >= opClose {
			if err := s.control(op, int(size)); err != nil {
				return 0, nil, err
			}
			continue
		}
		if (op == opContinue) != (kind != opContinue) {
			return 0, nil, errFrame // a continuation of nothing, or a message within another
		}
		if kind == opContinue {
			kind = op
		}
		have := len(s.buf)
		if size > uint64(maxMessage-have) {
			return 0, nil, errTooLong
		}
		s.buf = append(s.buf, make([]byte, size)...)
		if _, err := io.ReadFull(s.x.r, s.buf[have:]); err != nil {
			return 0, nil, unexpected(err)
		}
		if last {
			return kind, s.buf, nil
		}
	}
}

// readFrameHead reads a frame up to its payload.
func (s *socket) readFrameHead() (op opcode, last bool, size uint64, err error) {
	var b [8]byte
	if _, err := io.ReadFull(s.x.r, b[:2]); err != nil {
		return 0, false, 0, err
	}
	op, last = opcode(b[0]&0x0f), b[0]&final != 0
	known := op <= opBinary || op >= opClose && op <= opPong && last && b[1] <= mostOfCtrl
	if !known || b[0]&0x70 != 0 || b[1]&masked != 0 {
		return 0, false, 0, errFrame
	}
	size = uint64(b[1])
	switch size {
	case size16:
		_, err = io.ReadFull(s.x.r, b[:2])
		size = uint64(binary.BigEndian.Uint16(b[:2]))
	case size64:
		_, err = io.ReadFull(s.x.r, b[:8])
		size = binary.BigEndian.Uint64(b[:8])
	}
	return op, last, size, unexpected(err)
}

// control handles a frame that is no message.
func (s *socket) control(op opcode, size int) error {
	var b [mostOfCtrl]byte
	if _, err := io.ReadFull(s.x.r, b[:size]); err != nil {
		return unexpected(err)
	}
	switch op {
	case opClose:
		return io.EOF
	case opPing:
		return s.write(opPong, b[:size])
	default:
		return nil
	}
}
