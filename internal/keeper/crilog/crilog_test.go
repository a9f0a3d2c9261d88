package crilog

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var when = time.Date(2026, 11, 23, 14, 55, 0, 0, time.UTC)

func TestFormat(t *testing.T) {
	for _, e := range []Entry{
		{when, Stdout, false, []byte("text with blanks")},
		{when.Add(123456789), Stderr, true, []byte("part")},
		{when, Stdout, false, []byte("")},
		{when, Stdout, false, []byte(" F \t\x00\xff")},
	} {
		line := Append(nil, e.Time, e.Stream, e.Partial, e.Text)
		got, err := Parse(line)
		if err != nil || !got.Time.Equal(e.Time) || got.Stream != e.Stream || got.Partial != e.Partial || !bytes.Equal(got.Text, e.Text) {
			t.Errorf("%q: %+v, %v", line, got, err)
		}
	}
	if got, want := string(Append(nil, when, Stdout, false, []byte("text"))), "2026-11-23T14:55:00.000000000Z stdout F text\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("2026-11-23T14:55:00.000000000Z stdout F text\n"))
	f.Add([]byte("2026-11-23T14:55:00+01:00 stderr P:x y"))
	f.Add([]byte("2026 stdout"))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := Parse(line)
		if err != nil {
			return
		}
		again, err := Parse(Append(nil, e.Time, e.Stream, e.Partial, e.Text))
		if err != nil || again.Stream != e.Stream || again.Partial != e.Partial || !bytes.Equal(again.Text, bytes.TrimSuffix(e.Text, []byte{'\n'})) && !bytes.Equal(again.Text, e.Text) {
			t.Fatalf("%q: %+v became %+v, %v", line, e, again, err)
		}
	})
}

// read returns the text of a log, parts joined, as "stream: line" lines.
func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	part := map[string]string{}
	for line := range bytes.Lines(data) {
		e, err := Parse(line)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		part[e.Stream] += string(e.Text)
		if !e.Partial {
			fmt.Fprintf(&out, "%s: %s\n", e.Stream, part[e.Stream])
			part[e.Stream] = ""
		}
	}
	return out.String()
}

func TestStreamWriter(t *testing.T) {
	long := strings.Repeat("x", 3*MaxText+5)
	exact := strings.Repeat("y", MaxText)
	text := "one\n\ntwo\n" + long + "\n" + exact + "\nunfinished"
	want := "stdout: one\nstdout: \nstdout: two\nstdout: " + long + "\nstdout: " + exact + "\nstdout: unfinished\n"
	for _, size := range []int{1, 2, 3, 1000, MaxText, 1 << 20} {
		path := filepath.Join(t.TempDir(), "log")
		w, err := Open(Config{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		s := w.Stream(Stdout)
		for rest := []byte(text); len(rest) > 0; {
			n := min(size, len(rest))
			s.Add(rest[:n], when)
			rest = rest[n:]
		}
		s.Flush(when)
		w.Close()
		if got := read(t, path); got != want {
			t.Errorf("pieces of %d: got %d bytes, want %d", size, len(got), len(want))
		}
	}
}

func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w, err := Open(Config{Path: path, MaxSize: 1000, Files: 3})
	if err != nil {
		t.Fatal(err)
	}
	s := w.Stream(Stderr)
	for i := range 100 {
		s.Add(fmt.Appendf(nil, "line %d\n", i), when)
	}
	w.Close()
	all := read(t, path+".2") + read(t, path+".1") + read(t, path)
	if _, err := os.Stat(path + ".3"); err == nil {
		t.Error("too many files")
	}
	lines := strings.Split(strings.TrimSpace(all), "\n")
	for i, line := range lines {
		if want := fmt.Sprintf("stderr: line %d", 100-len(lines)+i); line != want {
			t.Errorf("line %q, want %q", line, want)
		}
	}
	for _, name := range []string{path, path + ".1", path + ".2"} {
		if info, err := os.Stat(name); err != nil || info.Size() > 1000 {
			t.Errorf("%s: %v %v", name, info, err)
		}
	}
}

// TestTornLine: a line that a crash has cut off does not spoil the next one.
func TestTornLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	whole := Append(nil, when, Stdout, false, []byte("whole"))
	torn := Append(nil, when, Stdout, false, []byte("torn"))
	if err := os.WriteFile(path, append(whole, torn[:20]...), 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := Open(Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	w.Stream(Stdout).Add([]byte("next\n"), when)
	w.Close()
	if got := read(t, path); got != "stdout: whole\nstdout: next\n" {
		t.Errorf("got %q", got)
	}
}
