package crilog

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var epoch = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// writeLines appends lines numbered from..to-1, a second apart.
func writeLines(t *testing.T, path string, from, to int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := from; i < to; i++ {
		if _, err := f.Write(Append(nil, epoch.Add(time.Duration(i)*time.Second), Stdout, false, fmt.Append(nil, i))); err != nil {
			t.Fatal(err)
		}
	}
}

func collect(t *testing.T, path string, o ReadOptions) string {
	t.Helper()
	var got []string
	err := Read(t.Context(), path, o, func(e Entry) error { got = append(got, string(e.Text)); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(got, " ")
}

func TestReadAcrossRotations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	writeLines(t, path+".2", 0, 3)
	writeLines(t, path+".1", 3, 5)
	writeLines(t, path, 5, 8)
	for _, c := range []struct {
		o    ReadOptions
		want string
	}{
		{ReadOptions{Tail: -1}, "0 1 2 3 4 5 6 7"},
		{ReadOptions{Tail: 0}, ""},
		{ReadOptions{Tail: 1}, "7"},
		{ReadOptions{Tail: 3}, "5 6 7"},
		{ReadOptions{Tail: 6}, "2 3 4 5 6 7"},
		{ReadOptions{Tail: 99}, "0 1 2 3 4 5 6 7"},
		{ReadOptions{Tail: -1, Since: epoch.Add(6 * time.Second)}, "6 7"},
		{ReadOptions{Tail: -1, Until: epoch.Add(2 * time.Second)}, "0 1 2"},
	} {
		if got := collect(t, path, c.o); got != c.want {
			t.Errorf("%+v: got %q; want %q", c.o, got, c.want)
		}
	}
	if got := collect(t, filepath.Join(t.TempDir(), "none"), ReadOptions{Tail: -1}); got != "" {
		t.Errorf("a missing log has %q", got)
	}
}

func TestTornLineIsSkipped(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	writeLines(t, path, 0, 1)
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("2026-11-23T12:0\n"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	writeLines(t, path, 1, 2)
	if got := collect(t, path, ReadOptions{Tail: -1}); got != "0 1" {
		t.Errorf("got %q", got)
	}
}

func TestFollowAcrossRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	writeLines(t, path, 0, 2)
	lines, end, done := make(chan string), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- Read(t.Context(), path, ReadOptions{Tail: 1, Follow: end}, func(e Entry) error { lines <- string(e.Text); return nil })
	}()
	want := func(w string) {
		t.Helper()
		select {
		case got := <-lines:
			if got != w {
				t.Errorf("got line %q; want %q", got, w)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("line %q did not arrive", w)
		}
	}
	want("1")
	writeLines(t, path, 2, 3)
	want("2")
	writeLines(t, path, 3, 4)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	writeLines(t, path, 4, 5)
	want("3")
	want("4")
	writeLines(t, path, 5, 6)
	close(end)
	want("5")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestFollowEndsWithContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Read(ctx, path, ReadOptions{Tail: -1, Follow: make(chan struct{})}, func(Entry) error { return nil })
	}()
	cancel()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the reader did not end")
	}
}
