package agent

import (
	"encoding/binary"
	"errors"
	"time"
)

// A machine that is to become a template boots with TemplateArg on its kernel's
// command line. It stops short of everything that tells one machine from another,
// and waits on a port of its own:
//
//	host                          guest
//	  │◀─────────────── asleep ──│  to every host that connects
//	  │                           │  … the machine is saved; each copy of it goes on:
//	  │◀─────────────── asleep ──│
//	  │── Wake ─────────────────▶│  takes clock and randomness, and boots on
const (
	// TemplateArg is a variable that the kernel passes to process 1.
	TemplateArg = "BERTH_TEMPLATE"
	// Asleep is the byte of a guest that waits for a Wake.
	Asleep = 'z'
)

// WakeSize is the length of an encoded Wake, in bytes.
const WakeSize = 8 + seedSize

const seedSize = 64

// Wake is what makes a copy of a template a machine of its own, before anything in
// it asks for the time or for randomness.
type Wake struct {
	Time time.Time
	Seed [seedSize]byte // unpredictable, for this machine alone
}

// Encode returns the record as the guest reads it.
func (w Wake) Encode() []byte {
	data := binary.BigEndian.AppendUint64(nil, uint64(w.Time.UnixNano()))
	return append(data, w.Seed[:]...)
}

// DecodeWake reads what Encode wrote.
func DecodeWake(data []byte) (Wake, error) {
	if len(data) != WakeSize {
		return Wake{}, errors.New("the record that wakes this machine has a wrong length")
	}
	return Wake{
		Time: time.Unix(0, int64(binary.BigEndian.Uint64(data))),
		Seed: [seedSize]byte(data[8:]),
	}, nil
}
