package server

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// askedPair is a standard input that is asked for, and its reader's end.
func askedPair(t *testing.T) (in *stdin, reader *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, reader := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "reader")
	in = newStdin(nil, false)
	in.asked = newAsked()
	served := make(chan struct{})
	go func() {
		defer close(served)
		if !in.connect(ours) {
			go in.sayEnd(ours)
		}
		in.asked.serve(ours)
		in.asked.give()
	}()
	t.Cleanup(func() {
		reader.Close()
		<-served
		ours.Close()
	})
	return in, reader
}

// ask asks for a frame, as often as times, and returns it.
func ask(t *testing.T, reader *os.File, times int) []byte {
	t.Helper()
	if _, err := reader.Write(bytes.Repeat([]byte{'?'}, times)); err != nil {
		t.Fatal(err)
	}
	var head [2]byte
	if _, err := io.ReadFull(reader, head[:]); err != nil {
		t.Fatal(err)
	}
	data := make([]byte, binary.BigEndian.Uint16(head[:]))
	if _, err := io.ReadFull(reader, data); err != nil {
		t.Fatal(err)
	}
	return data
}

// TestAskedInput gives no more than is asked for, all of it in order, and the end.
func TestAskedInput(t *testing.T) {
	in, reader := askedPair(t)
	want := bytes.Repeat([]byte("0123456789"), 1000)
	written := make(chan struct{})
	go func() {
		defer close(written)
		in.write(want)
		in.close()
	}()
	var got []byte
	for {
		// A reader that asks again while a frame is on its way gets nothing twice.
		data := ask(t, reader, 1+len(got)%2)
		if len(data) == 0 {
			break
		}
		if len(data) > maxAskedFrame {
			t.Fatalf("a frame of %d bytes", len(data))
		}
		got = append(got, data...)
	}
	<-written
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes came, not the %d that were written", len(got), len(want))
	}
}

// TestAskedEndBeforeAll tells a reader of the end that came before it was there.
func TestAskedEndBeforeAll(t *testing.T) {
	in, reader := askedPair(t)
	in.close()
	if data := ask(t, reader, 1); len(data) != 0 {
		t.Errorf("%q came", data)
	}
}

// TestAskedByNobody lets a writer go whose reader has gone.
func TestAskedByNobody(t *testing.T) {
	in, reader := askedPair(t)
	written := make(chan struct{})
	go func() {
		defer close(written)
		in.write([]byte("for nobody"))
	}()
	reader.Close()
	<-written
}
