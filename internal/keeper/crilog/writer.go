package crilog

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/berthcloud/berth/api"
)

// Defaults of Config.
const (
	DefaultMaxSize = 10 << 20
	DefaultFiles   = 5
)

// Config says where a log is and how much of it is kept.
type Config struct {
	Path    string // its directory exists
	MaxSize int64  // bytes at which the file is rotated; 0 for DefaultMaxSize
	Files   int    // files kept, the current one included; 0 for DefaultFiles
}

// Writer writes one log file for both streams of a process. It never fails
// its caller, who has to keep a process going: what cannot be written is
// counted and dropped. It is safe for concurrent use.
type Writer struct {
	cfg Config

	mu      sync.Mutex
	file    *os.File
	size    int64
	dropped int64 // bytes of text since Open
	unsaid  int64 // of these, not yet told of in the log
	err     error // of the last write, nil when it succeeded
}

// Open opens the log for appending, and makes it where it does not exist.
func Open(cfg Config) (*Writer, error) {
	if cfg.MaxSize <= 0 {
		cfg.MaxSize = DefaultMaxSize
	}
	if cfg.Files <= 0 {
		cfg.Files = DefaultFiles
	}
	w := &Writer{cfg: cfg}
	if err := w.open(); err != nil {
		return nil, err
	}
	return w, w.mend()
}

func (w *Writer) open() error {
	f, err := os.OpenFile(w.cfg.Path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	w.file, w.size = f, info.Size()
	return nil
}

// mend cuts off a torn last line, which a host that lost its power, or a full
// disk at the moment of a kill, can leave.
func (w *Writer) mend() error {
	if w.size == 0 {
		return nil
	}
	r, err := os.Open(w.cfg.Path)
	if err != nil {
		return err
	}
	defer r.Close()
	tail := make([]byte, min(w.size, MaxText+64))
	start := w.size - int64(len(tail))
	if _, err := r.ReadAt(tail, start); err != nil {
		return err
	}
	if end := start + int64(bytes.LastIndexByte(tail, '\n')) + 1; end > start && end < w.size {
		if err := w.file.Truncate(end); err != nil {
			return err
		}
		w.size = end
	}
	return nil
}

// write appends whole encoded lines that carry text bytes of output.
func (w *Writer) write(lines []byte, text int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return
	}
	if w.size > 0 && w.size+int64(len(lines)) > w.cfg.MaxSize {
		w.rotate()
	}
	if w.unsaid > 0 {
		notice := fmt.Appendf(nil, "[berth: %d bytes of output were not logged: %s]", w.unsaid, api.OneLine(w.err.Error()))
		lines = append(Append(nil, time.Now(), Stderr, false, notice), lines...)
	}
	n, err := w.file.Write(lines)
	if err == nil {
		w.size += int64(n)
		w.unsaid, w.err = 0, nil
		return
	}
	if n > 0 && w.file.Truncate(w.size) != nil {
		// The torn line stays; a reader skips it.
		w.size += int64(n)
	}
	w.dropped += int64(text)
	w.unsaid += int64(text)
	w.err = err
}

// rotate renames the files and begins a new one. Where that fails the current
// file simply grows on: losing output would be worse.
func (w *Writer) rotate() {
	if w.cfg.Files == 1 {
		if w.file.Truncate(0) == nil {
			w.size = 0
		}
		return
	}
	for i := w.cfg.Files - 1; i > 1; i-- {
		err := os.Rename(w.rotated(i-1), w.rotated(i))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return
		}
	}
	old := w.file
	if os.Rename(w.cfg.Path, w.rotated(1)) != nil {
		return
	}
	if w.open() != nil {
		_ = os.Rename(w.rotated(1), w.cfg.Path) // the file that is open is written on in any case
		return
	}
	old.Close()
}

func (w *Writer) rotated(i int) string { return fmt.Sprintf("%s.%d", w.cfg.Path, i) }

// Dropped returns how many bytes of output could not be written since Open,
// and why the last write failed, or nil where it did not.
func (w *Writer) Dropped() (int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dropped, w.err
}

// Close closes the file. Later writes are ignored.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return nil
	}
	err := w.file.Close()
	w.file = nil
	return err
}

// Stream returns a writer for one stream, Stdout or Stderr.
func (w *Writer) Stream(name string) *StreamWriter { return &StreamWriter{w: w, name: name} }

// StreamWriter cuts the output of one stream into entries. It holds the
// unfinished line, and nothing when there is none. It is not safe for
// concurrent use.
type StreamWriter struct {
	w    *Writer
	name string
	part []byte // of a line without its newline yet; shorter than MaxText
}

// flushAt is how many encoded bytes are gathered into one write.
const flushAt = 64 << 10

// Add takes the next bytes of the stream.
func (s *StreamWriter) Add(data []byte, now time.Time) {
	out := make([]byte, 0, min(len(data)+len(data)/4+len(s.part)+256, flushAt+MaxText))
	text := 0
	emit := func(partial bool, line []byte) {
		out = Append(out, now, s.name, partial, line)
		text += len(line)
		if len(out) >= flushAt {
			s.w.write(out, text)
			out, text = out[:0], 0
		}
	}
	for len(data) > 0 {
		line, rest, full := bytes.Cut(data, []byte{'\n'})
		if room := MaxText - len(s.part); len(line) > room {
			line, rest, full = data[:room], data[room:], false
		}
		data = rest
		switch {
		case full && len(s.part) == 0:
			emit(false, line)
		case full:
			emit(false, append(s.part, line...))
			s.part = nil
		case len(s.part)+len(line) == MaxText:
			emit(true, append(s.part, line...))
			s.part = nil
		default:
			s.part = append(s.part, line...)
		}
	}
	if len(out) > 0 {
		s.w.write(out, text)
	}
}

// Flush writes the unfinished line, as the stream has ended.
func (s *StreamWriter) Flush(now time.Time) {
	if len(s.part) > 0 {
		s.w.write(Append(nil, now, s.name, false, s.part), len(s.part))
		s.part = nil
	}
}
