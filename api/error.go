package api

import (
	"context"
	"errors"
	"strings"
	"unicode"
)

// ErrorKind says what went wrong in terms that a program can act on. The
// strings are part of the API and never change their meaning.
type ErrorKind string

// The kinds of error. One table in package rest maps them to HTTP status, one
// in package cmd/berth to exit status.
const (
	Invalid     ErrorKind = "invalid"      // the request contradicts itself or is malformed
	NotFound    ErrorKind = "not-found"    // the named thing does not exist
	Exists      ErrorKind = "exists"       // the name is taken
	InUse       ErrorKind = "in-use"       // something still depends on the thing
	Conflict    ErrorKind = "conflict"     // the thing is in a state that does not allow this
	Denied      ErrorKind = "denied"       // the caller may not do this
	Exhausted   ErrorKind = "exhausted"    // no room, no address, no memory left
	Unsupported ErrorKind = "unsupported"  // this kind, host or kernel cannot do it
	Unavailable ErrorKind = "unavailable"  // a peer (registry, guest agent, daemon) does not answer
	Corrupt     ErrorKind = "corrupt"      // data does not match its digest or its format
	NotRunnable ErrorKind = "not-runnable" // the command exists but cannot be executed
	NoCommand   ErrorKind = "no-command"   // the command is not in the image
	Canceled    ErrorKind = "canceled"     // the caller gave up
	Internal    ErrorKind = "internal"     // a fault of Berth's own
)

// Error is the one error type that crosses Berth's layers.
//
// A user sees one line, "Op Name: Err", that names the thing, the cause and
// the way out. The wrapped chain stays available to errors.Is and errors.As on
// this side of the wire; on the other side only Kind, Op, Name and the text
// arrive.
type Error struct {
	Op   string    // what was attempted: "start", "pull"; may be empty
	Kind ErrorKind // never empty
	Name string    // the thing: an instance, an image, a path; may be empty
	Err  error     // the cause and the way out; never nil
}

// E makes an Error. A nil err yields nil, so that "return api.E(…, err)" is
// correct at the end of a function. A context's end always has the kind
// Canceled; an error that already is an *Error keeps its kind where kind is
// empty.
func E(op string, kind ErrorKind, name string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) {
		kind = Canceled
	}
	if kind == "" {
		kind = KindOf(err)
	}
	return &Error{Op: op, Kind: kind, Name: name, Err: err}
}

// Error returns the one line a user sees. What an outer Error has said, an
// inner one does not repeat.
func (e *Error) Error() string { return e.text("", "") }

func (e *Error) text(saidOp, saidName string) string {
	var head []string
	if e.Op != "" && e.Op != saidOp {
		head = append(head, e.Op)
		saidOp = e.Op
	}
	if e.Name != "" && e.Name != saidName {
		head = append(head, e.Name)
		saidName = e.Name
	}
	cause := ""
	if inner, ok := e.Err.(*Error); ok { //nolint:errorlint // a wrapper's own words must not be lost
		cause = inner.text(saidOp, saidName)
	} else {
		cause = OneLine(e.Err.Error())
	}
	if len(head) == 0 {
		return cause
	}
	return strings.Join(head, " ") + ": " + cause
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of the outermost *Error in err's chain; Canceled for
// an ended context; Internal for any other error; "" for nil.
func KindOf(err error) ErrorKind {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return Canceled
	}
	return Internal
}

// IsKind reports whether err has the kind k.
func IsKind(err error, k ErrorKind) bool { return err != nil && KindOf(err) == k }

// OneLine folds every line break and control character of s into one space,
// so that text from a guest, a registry or a kernel log cannot break out of
// its line on a terminal.
func OneLine(s string) string {
	fields := strings.FieldsFunc(s, unicode.IsControl)
	for i := range fields {
		fields[i] = strings.TrimSpace(fields[i])
	}
	return strings.TrimSpace(strings.Join(fields, " "))
}

// ProblemOf returns err as it goes over a wire; nil for nil.
func ProblemOf(err error) *Problem {
	if err == nil {
		return nil
	}
	p := &Problem{Kind: KindOf(err), Message: OneLine(err.Error())}
	if e, ok := errors.AsType[*Error](err); ok {
		p.Op, p.Name = e.Op, e.Name
	}
	return p
}

// Err returns the error that came over a wire. Its text is the whole line that
// the other side would have shown.
func (p *Problem) Err() error {
	if p == nil {
		return nil
	}
	return &Error{Kind: p.Kind, Err: errors.New(OneLine(p.Message))}
}
