package agent

import (
	"encoding/binary"
	"errors"
)

// fields is a row of values in a compact form: numbers are varints, texts and
// lists have their length before them. One method serves both ways, so that
// reading cannot differ from writing: it appends the value to data, or takes it
// from there.
//
// A guest is told its configuration in this form: the machinery of a
// self-describing one, run once, would be a fifth of the agent's way to the
// entrypoint on an emulated processor.
type fields struct {
	data    []byte
	reading bool
	err     error // the first
}

var errFields = errors.New("it ends too early or holds a wrong length")

func (f *fields) unsigned(v *uint64) {
	if !f.reading {
		f.data = binary.AppendUvarint(f.data, *v)
		return
	}
	value, n := binary.Uvarint(f.data)
	if n <= 0 {
		f.fail()
		return
	}
	*v, f.data = value, f.data[n:]
}

func (f *fields) fail() {
	f.err, f.data = errFields, nil
}

// number is a field of any integer type.
func number[T int | int64 | uint16 | uint32](f *fields, v *T) {
	wide := uint64(*v)
	f.unsigned(&wide)
	*v = T(wide)
}

func (f *fields) flag(v *bool) {
	var n uint64
	if *v {
		n = 1
	}
	f.unsigned(&n)
	*v = n != 0
}

func (f *fields) text(v *string) {
	n := uint64(len(*v))
	f.unsigned(&n)
	if !f.reading {
		f.data = append(f.data, *v...)
		return
	}
	if n > uint64(len(f.data)) {
		f.fail()
		return
	}
	*v, f.data = string(f.data[:n]), f.data[n:]
}

// list is a field of many values, each made of fields by each.
func list[T any](f *fields, v *[]T, each func(*fields, *T)) {
	n := uint64(len(*v))
	f.unsigned(&n)
	if n > uint64(len(f.data)) && f.reading { // none takes less than a byte
		f.fail()
		return
	}
	if f.reading && n > 0 {
		*v = make([]T, n)
	}
	for i := range *v {
		each(f, &(*v)[i])
	}
}
