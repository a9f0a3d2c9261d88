package crilog

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// maxLine bounds one line of a log file: MaxText and what stands before it,
// with room for writers that cut later.
const maxLine = 4 * MaxText

// maxFiles bounds how many rotated files are looked for.
const maxFiles = 1000

// ReadOptions choose entries of a log.
type ReadOptions struct {
	Tail         int       // at most so many of the last entries; negative: all
	Since, Until time.Time // zero: unbounded
	// Follow, where not nil, makes Read go on at the end of the log until the
	// channel is closed and everything written by then was read.
	Follow <-chan struct{}
}

// Read calls f with the entries of the log at path, its rotated files
// included, oldest first. Entry.Text is valid during the call only. A log that
// does not exist is empty. Lines that are not of the format are skipped: a
// torn line at the end of a full disk must not hide the rest.
func Read(ctx context.Context, path string, o ReadOptions, f func(Entry) error) error {
	files, err := openAll(path)
	defer func() {
		for _, file := range files {
			file.Close()
		}
	}()
	if err != nil {
		return err
	}
	if o.Tail >= 0 {
		if err := seekTail(files, o.Tail); err != nil {
			return err
		}
	}
	r := &reader{path: path, o: o, f: f}
	for i, file := range files {
		if i == len(files)-1 && o.Follow != nil {
			break
		}
		if err := r.drain(ctx, bufio.NewReaderSize(file, maxLine)); err != nil {
			return ended(err)
		}
	}
	if o.Follow == nil {
		return nil
	}
	var current *os.File
	if len(files) > 0 {
		current = files[len(files)-1]
	}
	return ended(r.follow(ctx, current))
}

// errUntil ends a Read whose Until has passed.
var errUntil = errors.New("the wanted time has passed")

func ended(err error) error {
	if errors.Is(err, errUntil) {
		return nil
	}
	return err
}

// openAll opens the files of the log, oldest first.
func openAll(path string) (files []*os.File, err error) {
	for i := range maxFiles {
		file, err := os.Open(rotated(path, i))
		if errors.Is(err, fs.ErrNotExist) {
			if i == 0 {
				continue // between the two steps of a rotation
			}
			break
		}
		if err != nil {
			return files, err
		}
		files = append([]*os.File{file}, files...)
	}
	return files, nil
}

func rotated(path string, i int) string {
	if i == 0 {
		return path
	}
	return fmt.Sprintf("%s.%d", path, i)
}

// seekTail positions the files so that n lines remain to be read.
func seekTail(files []*os.File, n int) error {
	for _, file := range slices.Backward(files) {
		found, err := seekLines(file, n)
		if err != nil {
			return err
		}
		n -= found
	}
	return nil
}

// seekLines positions file before its last n lines and returns how many there
// were, n at most.
func seekLines(file *os.File, n int) (found int, err error) {
	end, err := file.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return 0, err
	}
	buf := make([]byte, 32<<10)
	for pos := end; pos > 0; {
		size := min(int64(len(buf)), pos)
		pos -= size
		if _, err := file.ReadAt(buf[:size], pos); err != nil {
			return found, err
		}
		for i := size - 1; i >= 0; i-- {
			if buf[i] != '\n' || pos+i == end-1 {
				continue
			}
			if found++; found == n {
				_, err := file.Seek(pos+i+1, io.SeekStart)
				return found, err
			}
		}
	}
	if end > 0 {
		found++
	}
	_, err = file.Seek(0, io.SeekStart)
	return found, err
}

// reader hands entries to f.
type reader struct {
	path string
	o    ReadOptions
	f    func(Entry) error
	part []byte // a line whose end has not been written yet
}

// drain reads to the end of what is there.
func (r *reader) drain(ctx context.Context, in *bufio.Reader) error {
	for {
		chunk, err := in.ReadSlice('\n')
		if len(r.part)+len(chunk) <= maxLine {
			r.part = append(r.part, chunk...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			return ctx.Err()
		case err != nil:
			return err
		}
		line := r.part
		r.part = r.part[:0]
		if err := r.hand(line); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

func (r *reader) hand(line []byte) error {
	e, err := Parse(line)
	if err != nil || e.Time.Before(r.o.Since) {
		return nil //nolint:nilerr // skipped, as Read says
	}
	if !r.o.Until.IsZero() && e.Time.After(r.o.Until) {
		return errUntil
	}
	return r.f(e)
}

// follow reads on as the log grows, across rotations.
func (r *reader) follow(ctx context.Context, file *os.File) error {
	w, err := watch(filepath.Dir(r.path))
	if err != nil {
		return err
	}
	defer w.Close()
	defer func() {
		if file != nil {
			file.Close()
		}
	}()
	stop := context.AfterFunc(ctx, func() { _ = w.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	last := false
	go func() {
		select {
		case <-r.o.Follow:
			_ = w.SetReadDeadline(time.Unix(1, 0))
		case <-ctx.Done():
		}
	}()
	for {
		if file, err = r.catchUp(ctx, file); err != nil || last {
			return err
		}
		buf := make([]byte, 4096)
		if _, err := w.Read(buf); errors.Is(err, os.ErrDeadlineExceeded) {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			last = true // read what was written before Follow was closed
		} else if err != nil {
			return err
		}
	}
}

// catchUp reads all that is there now, closes the files it leaves, and returns
// the one to go on with.
func (r *reader) catchUp(ctx context.Context, file *os.File) (*os.File, error) {
	for {
		if file != nil {
			if err := r.drain(ctx, bufio.NewReaderSize(file, maxLine)); err != nil {
				return file, err
			}
		}
		next, err := r.after(file)
		if err != nil || next == nil {
			return file, err
		}
		if file != nil {
			file.Close()
		}
		file = next
	}
}

// after returns the file that follows the given one in the rotation, nil where
// it is still the current one.
func (r *reader) after(file *os.File) (*os.File, error) {
	if file == nil {
		f, err := os.Open(r.path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return f, err
	}
	mine, err := file.Stat()
	if err != nil {
		return nil, err
	}
	for i := range maxFiles {
		info, err := os.Stat(rotated(r.path, i))
		if err != nil && (i > 0 || !errors.Is(err, fs.ErrNotExist)) {
			break
		}
		if err != nil || !os.SameFile(info, mine) {
			continue
		}
		if i == 0 {
			return nil, nil
		}
		next, err := os.Open(rotated(r.path, i-1))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return next, err
	}
	// The file was rotated out of existence: go on with the current one.
	next, err := os.Open(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return next, err
}

// watch returns a file that becomes readable when anything in dir changes.
func watch(dir string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("follow a log: %w", err)
	}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("follow a log in %s: %w", dir, err)
	}
	return os.NewFile(uintptr(fd), "inotify"), nil
}
