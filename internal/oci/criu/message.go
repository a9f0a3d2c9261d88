package criu

import (
	"encoding/binary"
	"errors"
)

// message is a protocol buffer that is being written. CRIU's messages use two wire
// types only: numbers (0) and bytes with their length before them (2).
type message []byte

func (m *message) number(field int, n uint64) {
	*m = binary.AppendUvarint(*m, uint64(field)<<3)
	*m = binary.AppendUvarint(*m, n)
}

// flag writes a set flag; one that is not written is not set.
func (m *message) flag(field int, set bool) {
	if set {
		m.number(field, 1)
	}
}

func (m *message) bytes(field int, b []byte) {
	*m = binary.AppendUvarint(*m, uint64(field)<<3|2)
	*m = binary.AppendUvarint(*m, uint64(len(b)))
	*m = append(*m, b...)
}

// text writes a string; an empty one stays at its default.
func (m *message) text(field int, s string) {
	if s != "" {
		m.bytes(field, []byte(s))
	}
}

var errMalformed = errors.New("CRIU's answer is malformed")

// each calls f for every field of a protocol buffer: with its number, or its bytes.
func each(b []byte, f func(field int, n uint64, bytes []byte)) error {
	for len(b) > 0 {
		key, size := binary.Uvarint(b)
		if size <= 0 {
			return errMalformed
		}
		b = b[size:]
		n, size := uint64(0), 0
		switch key & 7 {
		case 0, 2:
			if n, size = binary.Uvarint(b); size <= 0 {
				return errMalformed
			}
		case 1:
			size = 8
		case 5:
			size = 4
		default:
			return errMalformed
		}
		if len(b) < size {
			return errMalformed
		}
		b = b[size:]
		if key&7 != 2 {
			f(int(key>>3), n, nil)
			continue
		}
		if n > uint64(len(b)) {
			return errMalformed
		}
		f(int(key>>3), n, b[:n])
		b = b[n:]
	}
	return nil
}
