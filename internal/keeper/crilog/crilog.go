// Package crilog reads and writes the log format of the Kubernetes container
// runtime interface:
//
//	2026-11-23T14:55:00.000000000Z stdout F text
//
// A time in RFC 3339 with nanoseconds, the stream, a tag, the text. The tag is
// F for a full line and P for a part of one: the parts up to the next F of the
// same stream form one line. Source: Kubernetes' design document
// "CRI: Log management for container stdout/stderr streams".
//
// Logs are plain files, rotated by renaming: PATH is the current one, PATH.1
// the one before it, and so on.
package crilog

import (
	"bytes"
	"errors"
	"time"
)

// MaxText is the longest text of one entry in bytes; a longer line is written
// in parts, as the other runtimes do.
const MaxText = 16 << 10

// timeLayout is RFC 3339 with all nine digits, so that lines align and sort.
const timeLayout = "2006-01-02T15:04:05.000000000Z07:00"

// The names of the streams.
const (
	Stdout = "stdout"
	Stderr = "stderr"
)

// Entry is one line of a log file.
type Entry struct {
	Time    time.Time
	Stream  string // Stdout or Stderr
	Partial bool   // the line goes on in the stream's next entry
	Text    []byte // without the newline
}

// Append appends the entry as one line to dst.
func Append(dst []byte, t time.Time, stream string, partial bool, text []byte) []byte {
	dst = t.UTC().AppendFormat(dst, timeLayout)
	dst = append(dst, ' ')
	dst = append(dst, stream...)
	if partial {
		dst = append(dst, " P "...)
	} else {
		dst = append(dst, " F "...)
	}
	dst = append(dst, text...)
	return append(dst, '\n')
}

var errFormat = errors.New("not a line of a CRI log: want TIME STREAM TAG TEXT")

// Parse reads one line, with or without its newline. Text is a part of line.
func Parse(line []byte) (Entry, error) {
	line = bytes.TrimSuffix(line, []byte{'\n'})
	when, rest, ok1 := bytes.Cut(line, []byte{' '})
	stream, rest, ok2 := bytes.Cut(rest, []byte{' '})
	// An empty text may come without the blank before it. A tag may carry
	// further flags after a colon; the format reserves them.
	tag, text, _ := bytes.Cut(rest, []byte{' '})
	tag, _, _ = bytes.Cut(tag, []byte{':'})
	if !ok1 || !ok2 {
		return Entry{}, errFormat
	}
	t, err := time.Parse(time.RFC3339Nano, string(when))
	// A zone may lead out of the years that RFC 3339 can write.
	if year := t.UTC().Year(); err != nil || year < 0 || year > 9999 {
		return Entry{}, errFormat
	}
	e := Entry{Time: t, Text: text}
	switch string(stream) {
	case Stdout:
		e.Stream = Stdout
	case Stderr:
		e.Stream = Stderr
	default:
		return Entry{}, errFormat
	}
	switch string(tag) {
	case "F":
	case "P":
		e.Partial = true
	default:
		return Entry{}, errFormat
	}
	return e, nil
}
