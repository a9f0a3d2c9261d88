// Package fastjson reads and writes JSON with code that scripts/easyjson has
// generated for a type.
//
// encoding/json learns types by reflection, in every process anew: all types within
// reach of a config.json took it 0.9 ms, and it is read, like state.json, by processes
// that live for a few milliseconds.
//
// It stands in for github.com/mailru/easyjson itself, which links net/http.
package fastjson

import (
	"github.com/mailru/easyjson/jlexer"
	"github.com/mailru/easyjson/jwriter"
)

// Encoder is a type with generated code to write it.
type Encoder interface{ MarshalEasyJSON(w *jwriter.Writer) }

// Decoder is a type with generated code to read it.
type Decoder interface{ UnmarshalEasyJSON(l *jlexer.Lexer) }

// Marshal returns v as JSON.
func Marshal(v Encoder) ([]byte, error) {
	w := jwriter.Writer{}
	v.MarshalEasyJSON(&w)
	return w.BuildBytes()
}

// Unmarshal reads one JSON value into v. Names count in their exact case; unknown
// ones are skipped. The error tells the byte, but not the field.
func Unmarshal(b []byte, v Decoder) error {
	l := jlexer.Lexer{Data: b}
	v.UnmarshalEasyJSON(&l)
	return l.Error()
}
