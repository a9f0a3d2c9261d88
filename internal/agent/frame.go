package agent

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// frameType says what a frame's payload is.
type frameType byte

// The types of frame.
const (
	frameHello   frameType = 'H' // greeting and nonce
	frameOpen    frameType = 'O' // JSON Request
	frameReply   frameType = 'R' // JSON Reply; ends the stream
	frameData    frameType = 'D' // channel, bytes
	frameEnd     frameType = 'E' // channel: no more data on it
	frameWindow  frameType = 'W' // channel, number of bytes taken (4)
	frameControl frameType = 'C' // JSON Control
	frameCancel  frameType = 'X' // the host has given the call up
)

const (
	frameMagic  = 0xb7
	headerSize  = 10
	maxPayload  = 64 << 10
	maxData     = 32 << 10 // bytes in one data frame
	windowSize  = 256 << 10
	maxChannels = 3
	nonceSize   = 8
)

// greeting makes a hello frame recognizable in the middle of anything: no
// other frame's header can be mistaken for it within 26 bytes.
const greeting = "\xb7H\x00\x00\x00\x00\x00\x00\x00\x18berth agent v1\r\n"

// frame is a decoded frame.
type frame struct {
	kind    frameType
	stream  uint32
	payload []byte
}

// appendFrame appends an encoded frame. Preconditions: the payload has at most
// maxPayload bytes.
func appendFrame(b []byte, kind frameType, stream uint32, payload ...[]byte) []byte {
	size := 0
	for _, p := range payload {
		size += len(p)
	}
	b = append(b, frameMagic, byte(kind))
	b = binary.BigEndian.AppendUint32(b, stream)
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	for _, p := range payload {
		b = append(b, p...)
	}
	return b
}

// hello returns an encoded greeting.
func hello(nonce [nonceSize]byte) []byte { return append([]byte(greeting), nonce[:]...) }

// Presence returns what a guest sends whose line loses what comes while nobody
// reads: a greeting with no nonce, when it begins to read. A host that has greeted
// too early greets again.
func Presence() []byte { return hello([nonceSize]byte{}) }

// errFrame is what a peer gets that does not speak the protocol.
var errFrame = errors.New("the guest's agent broke the protocol")

// readFrame reads one frame into buf, which has maxPayload bytes.
func readFrame(r io.Reader, buf []byte) (frame, error) {
	var head [headerSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	size := binary.BigEndian.Uint32(head[6:])
	if head[0] != frameMagic {
		return frame{}, fmt.Errorf("%w: no frame begins with % x", errFrame, head[:2])
	}
	if size > maxPayload {
		return frame{}, fmt.Errorf("%w: a frame of %d bytes", errFrame, size)
	}
	f := frame{kind: frameType(head[1]), stream: binary.BigEndian.Uint32(head[2:]), payload: buf[:size]}
	_, err := io.ReadFull(r, f.payload)
	return f, err
}

// findGreeting discards bytes until a greeting has been read and returns its
// nonce. It gives up after limit bytes; a negative limit is none.
func findGreeting(r *bufio.Reader, limit int) (nonce [nonceSize]byte, err error) {
	var window []byte
	for n := 0; limit < 0 || n < limit; n++ {
		b, err := r.ReadByte()
		if err != nil {
			return nonce, err
		}
		if len(window) == len(greeting) {
			copy(window, window[1:])
			window = window[:len(greeting)-1]
		}
		window = append(window, b)
		if b == '\n' && bytes.Equal(window, []byte(greeting)) {
			_, err := io.ReadFull(r, nonce[:])
			return nonce, err
		}
	}
	return nonce, fmt.Errorf("%w: no greeting within %d bytes", errFrame, limit)
}
